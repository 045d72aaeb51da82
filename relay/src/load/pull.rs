//! One request whose body is counted and thrown away.

use crate::wire::{ExchangeError, Patience, Request, Response, ask};
use quinn::Connection;
use std::time::{Duration, Instant};
use tokio::time::timeout;

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
    loop {
        let piece = timeout(patience.stall, body.read_chunk(usize::MAX, true))
            .await
            .map_err(|_| ExchangeError::Stalled(patience.stall))?
            .map_err(ExchangeError::from_read)?;
        let Some(piece) = piece else { break };
        first_byte.get_or_insert_with(|| began.elapsed());
        got = got.saturating_add(u64::try_from(piece.bytes.len()).unwrap_or(u64::MAX));
        each(piece.bytes.len());
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
