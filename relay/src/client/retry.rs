//! Whether and when to try again: the decision, without the clock and the dice.

use super::{Config, ViewError};
use crate::wire::{Busy, Code, ExchangeError};
use std::time::Duration;

/// How long to wait before another try after `failed` tries, the last of which ended with `error`;
/// `None` when there is no point in one. `dice` is from 0 to 1 and spreads those who failed
/// together.
pub(super) fn wait(error: &ViewError, failed: u32, config: &Config, dice: f64) -> Option<Duration> {
    if failed >= config.tries {
        return None;
    }
    let asked = match error {
        ViewError::Dial(_) => Duration::ZERO,
        ViewError::Exchange(error) => asked_for(error)?,
        ViewError::Manifest(_) | ViewError::Socket(_) => return None,
    };
    let doublings = failed.saturating_sub(1).min(16);
    let backoff = config.backoff.saturating_mul(1 << doublings).min(config.backoff_max);
    // Half of it is certain, half is chance.
    let backoff = backoff.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0));
    Some(backoff.max(asked.min(config.retry_after_max)))
}

/// What the server wants us to wait; `None` when asking again cannot help.
fn asked_for(error: &ExchangeError) -> Option<Duration> {
    match error {
        ExchangeError::Refused { code, busy } => match code {
            Code::Busy => {
                let Busy { retry_after_ms, .. } = busy.clone().unwrap_or_default();
                Some(Duration::from_millis(u64::from(retry_after_ms)))
            }
            Code::Limited
            | Code::UpstreamFailed
            | Code::Corrupt
            | Code::ShuttingDown
            | Code::Internal => Some(Duration::ZERO),
            Code::Ok | Code::NotFound | Code::BadRequest | Code::TooLarge | Code::Range => None,
        },
        ExchangeError::Promise { .. } => None,
        ExchangeError::Connection(_)
        | ExchangeError::Overlay(_)
        | ExchangeError::Reset(_)
        | ExchangeError::ResetUnknown(_)
        | ExchangeError::Malformed(_)
        | ExchangeError::TooLittle { .. }
        | ExchangeError::TooMuch(_)
        | ExchangeError::Stalled(_)
        | ExchangeError::WrongHash(_)
        | ExchangeError::WrongGroup { .. } => Some(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(code: Code, retry_after_ms: u32) -> ViewError {
        let busy = (code == Code::Busy).then(|| Busy { retry_after_ms, others: vec![] });
        ExchangeError::Refused { code, busy }.into()
    }

    #[test]
    fn what_cannot_get_better_is_not_tried_again() {
        let config = Config::default();
        for code in [Code::NotFound, Code::BadRequest, Code::TooLarge, Code::Range] {
            assert_eq!(wait(&refused(code, 0), 1, &config, 0.5), None, "{code}");
        }
        for code in [Code::Busy, Code::UpstreamFailed, Code::ShuttingDown, Code::Internal] {
            assert!(wait(&refused(code, 0), 1, &config, 0.5).is_some(), "{code}");
            assert_eq!(wait(&refused(code, 0), config.tries, &config, 0.5), None, "{code}");
        }
    }

    #[test]
    fn the_server_may_ask_for_a_longer_wait_within_reason() {
        let config = Config::default();
        let asked = |ms| wait(&refused(Code::Busy, ms), 1, &config, 1.0);
        assert_eq!(asked(1), Some(config.backoff));
        assert_eq!(asked(7000), Some(Duration::from_secs(7)));
        assert_eq!(asked(u32::MAX), Some(config.retry_after_max));
    }

    proptest! {
        #[test]
        fn waits_grow_and_stay_in_bounds(failed in 1u32.., dice in 0.0f64..=1.0) {
            let config = Config { tries: u32::MAX, ..Config::default() };
            let error = refused(Code::Internal, 0);
            if let Some(wait) = wait(&error, failed, &config, dice) {
                prop_assert!(wait >= config.backoff / 2 && wait <= config.backoff_max);
            } else {
                prop_assert_eq!(failed, u32::MAX);
            }
        }
    }
}
