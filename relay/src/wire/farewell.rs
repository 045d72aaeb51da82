//! What a service that goes down says as it closes a connection.

use super::Busy;
use codec::{DecodeAll, Encode};

/// The most relays that are named to a viewer.
pub const MAX_OTHERS: usize = 8;
/// The longest reason, so that it fits the one packet that closes a connection.
const MAX_REASON: usize = 900;

/// The reason that goes with [`Code::ShuttingDown`](super::Code::ShuttingDown) in a close: other
/// relays, as many of them as fit.
pub fn farewell(others: &[Vec<u8>]) -> Vec<u8> {
    let most = others.len().min(MAX_OTHERS);
    let say = |count| {
        let others = others.iter().take(count).cloned().collect();
        Busy { retry_after_ms: 0, others }.encode()
    };
    (0..=most).rev().map(say).find(|reason| reason.len() <= MAX_REASON).unwrap_or_default()
}

/// The relays that a close names; none where the reason is something else.
pub fn read_farewell(reason: &[u8]) -> Vec<Vec<u8>> {
    if reason.len() > MAX_REASON {
        return Vec::new();
    }
    let busy = Busy::decode_all(&mut &*reason).unwrap_or_default();
    busy.others.into_iter().take(MAX_OTHERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn relays_survive_as_many_as_fit(
            others in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20),
        ) {
            let reason = farewell(&others);
            prop_assert!(reason.len() <= MAX_REASON);
            let read = read_farewell(&reason);
            prop_assert_eq!(&read[..], &others[..read.len()]);
            let next = others.get(read.len()).map_or(0, |next| next.len() + 2);
            let full = read.len() == MAX_OTHERS || reason.len() + next > MAX_REASON;
            prop_assert!(full || read.len() == others.len());
        }

        #[test]
        fn garbage_names_nobody_and_never_panics(reason: Vec<u8>) {
            prop_assert!(read_farewell(&reason).len() <= MAX_OTHERS);
        }
    }

    #[test]
    fn other_reasons_name_nobody() {
        for reason in [&b""[..], b"shutting down", &[0xff; 2000]] {
            assert!(read_farewell(reason).is_empty());
        }
    }
}
