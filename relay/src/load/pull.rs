//! One request whose body is counted and thrown away.

use crate::wire::{ExchangeError, Patience, Request, Response, ask};
use bytes::Bytes;
use quinn::Connection;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Pieces taken out of a stream at a time. A packet is one, and each time costs a lock that whoever
/// takes packets in wants too.
const AT_ONCE: usize = 64;

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What stood before the body.
    pub header: Response,
    /// From the request to the first bytes of the body.
    pub first_byte: Duration,
    /// From the request to the end of the body.
    pub took: Duration,
}

/// Asks, and reads the body as fast as it comes. Nothing of it is kept or verified, so that what is
/// measured is the other side; `each` is told how many bytes came, as they come.
///
/// # Errors
/// See [`ExchangeError`]; a body of another length than was promised is one.
pub async fn pull(
    connection: &Connection,
    request: &Request,
    patience: Patience,
    mut each: impl FnMut(usize),
) -> Result<Pulled, ExchangeError> {
    let began = Instant::now();
    let (header, mut body) = ask(connection, request, patience).await?.into_parts();
    let (mut got, mut first_byte) = (0u64, None);
    let mut pieces: [Bytes; AT_ONCE] = std::array::from_fn(|_| Bytes::new());
    loop {
        let came = timeout(patience.stall, body.chunks(&mut pieces))
            .await
            .map_err(|_| ExchangeError::Stalled(patience.stall))?
            .map_err(ExchangeError::from_read)?;
        let Some(came) = came else { break };
        first_byte.get_or_insert_with(|| began.elapsed());
        let bytes: usize =
            pieces.iter_mut().take(came).map(|piece| std::mem::take(piece).len()).sum();
        got = got.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        each(bytes);
    }
    if got != header.length {
        let expected = header.length;
        return Err(match got < expected {
            true => ExchangeError::TooLittle { expected, got },
            false => ExchangeError::TooMuch(expected),
        });
    }
    let took = began.elapsed();
    Ok(Pulled { header, first_byte: first_byte.unwrap_or(took), took })
}
