//! multistream-select 1.0: which protocol a stream speaks. Lines behind a varint of their length.

use crate::wire::{Varint, put_varint};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::io;

const HEADER: &str = "/multistream/1.0.0";
const NOT_AVAILABLE: &str = "na";
/// Longest line, in bytes. Names of protocols are far shorter.
const MAX_LINE: usize = 1024;
/// Protocols that a stream may ask for before it is given up.
const MAX_PROPOSALS: usize = 16;

/// Asks for a protocol on a stream that this side opened.
pub(crate) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    protocol: &str,
) -> io::Result<()> {
    let mut lines = Vec::new();
    put_line(&mut lines, HEADER);
    put_line(&mut lines, protocol);
    stream.write_all(&lines).await?;
    stream.flush().await?;
    if read_line(stream).await? != HEADER {
        return Err(io::Error::other("the other side does not speak multistream-select"));
    }
    if read_line(stream).await? != protocol {
        return Err(io::Error::other("the other side does not speak the protocol"));
    }
    Ok(())
}

/// Answers on a stream that the other side opened, until it asks for `protocol`.
pub(crate) async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    protocol: &str,
) -> io::Result<()> {
    if read_line(stream).await? != HEADER {
        return Err(io::Error::other("the other side does not speak multistream-select"));
    }
    write_line(stream, HEADER).await?;
    for _ in 0..MAX_PROPOSALS {
        if read_line(stream).await? == protocol {
            return write_line(stream, protocol).await;
        }
        write_line(stream, NOT_AVAILABLE).await?;
    }
    Err(io::Error::other("the other side wants nothing that is spoken here"))
}

fn put_line(out: &mut Vec<u8>, line: &str) {
    put_varint(out, u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(1));
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

async fn write_line<S: AsyncWrite + Unpin>(stream: &mut S, line: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    put_line(&mut bytes, line);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
    let len = read_length(stream, MAX_LINE).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut line = vec![0; len];
    stream.read_exact(&mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(invalid("a line without its end"));
    }
    String::from_utf8(line).map_err(|_| invalid("a line that is no text"))
}

/// Reads a varint that is a length; nothing if the stream ends before its first byte.
pub(crate) async fn read_length<S: AsyncRead + Unpin>(
    stream: &mut S,
    max: usize,
) -> io::Result<Option<usize>> {
    let mut reader = Varint::default();
    let mut byte = [0];
    let mut first = true;
    loop {
        if stream.read(&mut byte).await? == 0 {
            return if first { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        first = false;
        let [byte] = byte;
        match reader.push(byte) {
            Ok(None) => {}
            Ok(Some(len)) => match usize::try_from(len) {
                Ok(len) if len <= max => return Ok(Some(len)),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "too long")),
            },
            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "no length")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, io::Cursor};
    use proptest::prelude::*;

    /// What one side read, and what it wrote.
    struct Script {
        input: Cursor<Vec<u8>>,
        output: Vec<u8>,
    }

    impl AsyncRead for Script {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::pin::Pin::new(&mut self.input).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::pin::Pin::new(&mut self.output).poll_write(cx, buf)
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_close(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    fn script(lines: &[&str]) -> Script {
        let mut input = Vec::new();
        for line in lines {
            put_line(&mut input, line);
        }
        Script { input: Cursor::new(input), output: Vec::new() }
    }

    #[test]
    fn what_is_not_spoken_is_declined_and_the_next_proposal_heard() {
        let mut stream = script(&[HEADER, "/other", "/ours"]);
        block_on(listen(&mut stream, "/ours")).unwrap();
        let mut wanted = Vec::new();
        for line in [HEADER, NOT_AVAILABLE, "/ours"] {
            put_line(&mut wanted, line);
        }
        assert_eq!(stream.output, wanted);
    }

    #[test]
    fn endless_proposals_are_given_up() {
        let mut lines = vec![HEADER];
        lines.extend(["/other"; MAX_PROPOSALS + 1]);
        assert!(block_on(listen(&mut script(&lines), "/ours")).is_err());
    }

    #[test]
    fn a_dialler_is_told_no() {
        block_on(dial(&mut script(&[HEADER, "/ours"]), "/ours")).unwrap();
        assert!(block_on(dial(&mut script(&[HEADER, NOT_AVAILABLE]), "/ours")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(input: Vec<u8>) {
            let stream = || Script { input: Cursor::new(input.clone()), output: Vec::new() };
            let _ = block_on(listen(&mut stream(), "/ours"));
            let _ = block_on(dial(&mut stream(), "/ours"));
        }
    }
}
