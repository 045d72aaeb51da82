//! As much HTTP as a router's UPnP needs, and no more of it than fits: igd-next's own client reads
//! answers of any length.

use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest answer, its head included. Descriptions of routers take 2 to 10 KiB. What all calls read
/// at most stands in the documentation of `nat.mapping.max_ports`.
const MAX_ANSWER: usize = 64 * 1024;

/// Pieces in which an answer may come. Each is looked through from the start, so one that comes byte
/// by byte must not go on for ever; 64 KiB are 45 packets.
const MAX_PIECES: usize = 1024;

/// Asks for a path. The body of the answer, whatever its status; an error if it is too long.
pub(super) async fn get(at: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    exchange(at, head.as_bytes()).await
}

/// Calls a SOAP action.
pub(super) async fn post(
    at: SocketAddr,
    path: &str,
    action: &str,
    body: &str,
) -> io::Result<Vec<u8>> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nSOAPAction: {action}\r\n\
         Content-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(at, request.as_bytes()).await
}

async fn exchange(at: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    for _ in 0..MAX_PIECES {
        let read = stream.read(&mut piece).await?;
        answer.extend_from_slice(piece.get(..read).unwrap_or_default());
        match body(&answer, read == 0) {
            Body::Whole(body) => return Ok(body),
            Body::Bad => return Err(io::ErrorKind::InvalidData.into()),
            Body::Partial if read == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Body::Partial if answer.len() > MAX_ANSWER => break,
            Body::Partial => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, "the answer is too long"))
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Whole(Vec<u8>),
    Partial,
    Bad,
}

/// The body of an answer as far as it has come; `ended` if nothing follows.
fn body(answer: &[u8], ended: bool) -> Body {
    let Some(end) = find(answer, b"\r\n\r\n") else { return Body::Partial };
    let (head, rest) = answer.split_at(end);
    let rest = rest.get(4..).unwrap_or_default();
    let Ok(head) = std::str::from_utf8(head) else { return Body::Bad };
    if !head.starts_with("HTTP/1.") {
        return Body::Bad;
    }
    let header = |wanted: &str| {
        head.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case(wanted).then_some(value.trim())
        })
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return chunks(rest);
    }
    match header("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) if length > MAX_ANSWER => Body::Bad,
        Some(Ok(length)) => rest.get(..length).map_or(Body::Partial, |b| Body::Whole(b.to_vec())),
        Some(Err(_)) => Body::Bad,
        None if ended => Body::Whole(rest.to_vec()),
        None => Body::Partial,
    }
}

/// A body in chunks, each after its length in hexadecimal (RFC 9112, 7.1).
fn chunks(mut rest: &[u8]) -> Body {
    let mut whole = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Body::Partial };
        let (line, after) = rest.split_at(end);
        let length = std::str::from_utf8(line)
            .ok()
            .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok());
        let Some(length) = length.filter(|length| *length <= MAX_ANSWER) else { return Body::Bad };
        let after = after.get(2..).unwrap_or_default();
        if length == 0 {
            return Body::Whole(whole);
        }
        let (Some(chunk), Some(next)) = (after.get(..length), after.get(length + 2..)) else {
            return Body::Partial;
        };
        whole.extend_from_slice(chunk);
        rest = next;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn whole(text: &str) -> Body {
        Body::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn a_body_is_read_by_its_length_its_chunks_or_to_the_end() {
        let sized = b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 5\r\n\r\nhello, and more";
        assert_eq!(body(sized, false), whole("hello"));
        assert_eq!(body(&sized[..40], true), Body::Partial);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                        3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";
        assert_eq!(body(chunked, false), whole("hello"));
        assert_eq!(body(&chunked[..60], false), Body::Partial);
        let open = b"HTTP/1.0 500 Error\r\n\r\nhello";
        assert_eq!(body(open, false), Body::Partial);
        assert_eq!(body(open, true), whole("hello"));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(body(bad.as_bytes(), true), Body::Bad, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_a_panic(bytes: Vec<u8>, ended: bool, chunked: bool) {
            body(&bytes, ended);
            let kind = if chunked { "Transfer-Encoding: chunked" } else { "X: y" };
            let mut answer = format!("HTTP/1.1 200 OK\r\n{kind}\r\n\r\n").into_bytes();
            answer.extend_from_slice(&bytes);
            body(&answer, ended);
        }

        #[test]
        fn what_is_cut_into_chunks_comes_back_whole(
            pieces in vec(vec(any::<u8>(), 1..50), 0..9),
        ) {
            let mut text = Vec::new();
            for piece in &pieces {
                text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(chunks(&text), Body::Whole(pieces.concat()));
        }
    }
}
