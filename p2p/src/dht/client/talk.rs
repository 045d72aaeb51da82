//! One conversation on one stream: what is written, and what comes back.

use super::{
    Reply, Request,
    wire::{self, MAX_MESSAGE},
};
use crate::{
    AddressPolicy,
    dht::network::{Dropped, Failure, Question},
    identity::key_of,
};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use std::io;

/// Why a conversation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Before anything came back: a stream that was kept open may have been closed by the other side
    /// long ago.
    Stale,
    /// For good.
    For(Failure),
}

/// Writes a request and reads its reply. All messages of [`Request::Tell`] are read by the other side
/// in their order, and only the question at their end has an answer: that it comes proves that all
/// before were read.
pub(super) async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &Request,
    policy: AddressPolicy,
    dropped: impl FnMut(Dropped, usize),
) -> Result<Reply, Broken> {
    let question = match request {
        Request::Ask(question) => question.clone(),
        Request::Tell { keys, sample, provider, addresses } => {
            // Written piece by piece, so that a batch of any length takes 16 KiB.
            let mut piece = Vec::new();
            for key in keys {
                wire::record(key, provider, addresses, &mut piece);
                if piece.len() >= MAX_MESSAGE / 2 {
                    write(stream, &piece).await?;
                    piece.clear();
                }
            }
            write(stream, &piece).await?;
            let Some(own) = key_of(provider) else { return Err(Broken::For(Failure::Malformed)) };
            Question::Held(*sample, own)
        }
    };
    write(stream, &wire::question(&question)).await?;
    stream.flush().await.map_err(|_| Broken::Stale)?;
    let bytes = wire::read(stream).await.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Broken::For(Failure::Malformed),
        _ => Broken::Stale,
    })?;
    let answer = wire::answer(&question, &bytes, policy, dropped).map_err(Broken::For)?;
    Ok(match request {
        Request::Ask(_) => Reply::Answer(answer),
        Request::Tell { .. } => Reply::Told { kept: answer.held },
    })
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Broken> {
    stream.write_all(bytes).await.map_err(|_| Broken::Stale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PeerId, dht::Key, identity::peer_id_of};
    use futures::executor::block_on;
    use std::{
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    /// The other side: what it was written, and what it will say.
    struct Wire {
        written: Vec<u8>,
        says: futures::io::Cursor<Vec<u8>>,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.says).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn talk(request: &Request, says: Vec<u8>) -> (Result<Reply, Broken>, Vec<u8>) {
        let mut wire = Wire { written: Vec::new(), says: futures::io::Cursor::new(says) };
        let reply = block_on(converse(&mut wire, request, AddressPolicy::Any, |_, _| {}));
        (reply, wire.written)
    }

    fn provider() -> PeerId {
        peer_id_of(&[1; 32]).unwrap()
    }

    #[test]
    fn a_batch_is_all_its_records_and_one_question() {
        let keys: Vec<Key> = (0..500).map(Key::test).collect();
        let sample = keys[7];
        let addresses: Arc<[_]> = Arc::new(["/ip4/8.8.8.8/tcp/1".parse().unwrap()]);
        let tell = Request::Tell {
            keys: keys.clone(),
            sample,
            provider: provider(),
            addresses: addresses.clone(),
        };
        // An answer of the right kind without a record: it was not kept.
        let (reply, written) = talk(&tell, vec![2, 0x08, 1]);
        assert_eq!(reply, Ok(Reply::Told { kept: false }));
        let mut expected = Vec::new();
        for key in &keys {
            wire::record(key, &provider(), &addresses, &mut expected);
        }
        expected.extend_from_slice(&wire::question(&Question::Held(sample, [1; 32])));
        assert_eq!(written, expected);

        let name = sample.held_by(&[1; 32]);
        let kept = [&[70, 0x08, 1, 0x1a, 66, 0x0a, 64][..], &name[..]].concat();
        assert_eq!(talk(&tell, kept).0, Ok(Reply::Told { kept: true }));
    }

    #[test]
    fn silence_is_told_from_nonsense() {
        let ask = Request::Ask(Question::Closest(vec![1]));
        assert_eq!(talk(&ask, Vec::new()).0, Err(Broken::Stale));
        assert_eq!(talk(&ask, vec![5, 1, 2]).0, Err(Broken::Stale), "cut short");
        let nonsense = Err(Broken::For(Failure::Malformed));
        assert_eq!(talk(&ask, vec![0xff; 9]).0, nonsense);
        assert_eq!(talk(&ask, vec![2, 0xff, 0xff]).0, nonsense);
        assert_eq!(talk(&ask, vec![2, 0x08, 3]).0, nonsense, "to another question");
    }
}
