//! A blob that a viewer has a part of: what came before a connection broke is not fetched again.

use crate::wire::{ExchangeError, Groups};
use bytes::{Bytes, BytesMut};

/// The verified beginning of a blob: at most 16 MiB.
#[derive(Default)]
pub(super) struct Partial {
    bytes: BytesMut,
    /// Length of the blob, as the service claims it.
    len: Option<u32>,
}

impl Partial {
    /// The bytes to ask for; `None` for all of them.
    pub(super) fn missing(&self) -> Option<(u64, u64)> {
        let at = u64::try_from(self.bytes.len()).ok().filter(|at| *at > 0)?;
        Some((at, u64::from(self.len?)))
    }

    /// Whether the blob was said to be of another length when its beginning came.
    pub(super) fn disputes(&self, total: u32) -> bool {
        self.len.is_some_and(|len| len != total)
    }

    /// Reads what was missing, as it arrives, and gives the whole blob.
    pub(super) async fn read(&mut self, groups: Groups) -> Result<Bytes, ExchangeError> {
        let total = groups.span().total();
        self.len = Some(total);
        let capacity = usize::try_from(total).unwrap_or(0);
        self.bytes.reserve(capacity.saturating_sub(self.bytes.len()));
        let mut groups = groups;
        loop {
            match groups.next().await {
                Ok(Some((group, rest))) => {
                    self.bytes.extend_from_slice(&group.bytes);
                    groups = rest;
                }
                Ok(None) => {
                    let whole = std::mem::take(self);
                    return Ok(whole.bytes.freeze());
                }
                Err(error) => {
                    if let ExchangeError::WrongGroup { .. } = error {
                        // The length may have been the lie.
                        self.forget();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Begins anew.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
