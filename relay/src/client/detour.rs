//! Where a viewer goes while its relay is busy: the decision, without the network.

use super::{Address, ViewError};
use crate::wire::{Code, ExchangeError, read_farewell};
use libp2p::{Multiaddr, PeerId};
use quinn::ConnectionError;
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Relays that one answer names and that are looked at; more are not read.
const LOOKED_AT: usize = 8;

/// The relay to ask instead of the one that refused or said goodbye: the first that it names and that
/// was not asked yet; and for how long, if it said.
pub(super) fn instead(
    error: &ViewError,
    from: SocketAddr,
    asked: &HashSet<PeerId>,
) -> Option<(Address, Option<Duration>)> {
    let (others, wait) = named(error)?;
    let addresses = others.iter().take(LOOKED_AT).filter_map(|bytes| {
        let addr = Multiaddr::try_from(bytes.clone()).ok()?;
        Address::try_from(&addr).ok()
    });
    let mut usable = addresses
        .filter(|other| !asked.contains(&other.peer) && may_be_sent(from.ip(), other.socket.ip()));
    Some((usable.next()?, wait))
}

/// The relays that an answer names, and how long the one that named them is busy.
fn named(error: &ViewError) -> Option<(Vec<Vec<u8>>, Option<Duration>)> {
    let ViewError::Exchange(error) = error else { return None };
    match error {
        ExchangeError::Refused { busy: Some(busy), .. } => {
            let wait = Duration::from_millis(u64::from(busy.retry_after_ms));
            Some((busy.others.clone(), Some(wait)))
        }
        ExchangeError::Connection(ConnectionError::ApplicationClosed(close))
            if close.error_code == Code::ShuttingDown.into() =>
        {
            Some((read_farewell(&close.reason), None))
        }
        _ => None,
    }
}

/// Whether a relay at `from` may send a viewer to `to`: one on the open network never to an address
/// of the viewer's own.
fn may_be_sent(from: IpAddr, to: IpAddr) -> bool {
    !is_local(to) || is_local(from)
}

fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Busy, farewell};
    use proptest::prelude::*;
    use quinn::ApplicationClose;

    fn at(ip: &str) -> Address {
        Address { socket: SocketAddr::new(ip.parse().unwrap(), 9003), peer: PeerId::random() }
    }

    fn busy(others: &[Address]) -> ViewError {
        let bytes = |other: &Address| other.to_string().parse::<Multiaddr>().unwrap().to_vec();
        let others = others.iter().map(bytes).collect();
        refused(Busy { retry_after_ms: 1500, others })
    }

    fn refused(busy: Busy) -> ViewError {
        ExchangeError::Refused { code: Code::Busy, busy: Some(busy) }.into()
    }

    #[test]
    fn the_first_that_was_not_asked_is_asked_for_as_long_as_the_other_is_busy() {
        let others = [at("1.2.3.4"), at("2001:db8::7")];
        let from = at("5.6.7.8").socket;
        let mut asked = HashSet::new();
        let error = busy(&others);
        let wait = Some(Duration::from_millis(1500));
        assert_eq!(instead(&error, from, &asked), Some((others[0], wait)));
        asked.insert(others[0].peer);
        assert_eq!(instead(&error, from, &asked), Some((others[1], wait)));
        asked.insert(others[1].peer);
        assert_eq!(instead(&error, from, &asked), None);
    }

    #[test]
    fn one_that_goes_down_names_others_in_its_goodbye() {
        let other = at("1.2.3.4");
        let reason = farewell(&[other.to_string().parse::<Multiaddr>().unwrap().to_vec()]);
        let closed = |code: Code| {
            let close = ApplicationClose { error_code: code.into(), reason: reason.clone().into() };
            ExchangeError::from(ConnectionError::ApplicationClosed(close)).into()
        };
        let from = at("5.6.7.8").socket;
        let none = HashSet::new();
        assert_eq!(instead(&closed(Code::ShuttingDown), from, &none), Some((other, None)));
        assert_eq!(instead(&closed(Code::Limited), from, &none), None);
    }

    #[test]
    fn nobody_outside_sends_a_viewer_into_its_own_network() {
        let none = HashSet::new();
        for local in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.0.1", "::1", "fd00::1"] {
            let error = busy(&[at(local)]);
            assert_eq!(instead(&error, at("5.6.7.8").socket, &none), None, "{local}");
            assert!(instead(&error, at("127.0.0.1").socket, &none).is_some(), "{local}");
        }
    }

    #[test]
    fn other_errors_send_nobody_anywhere() {
        let none = HashSet::new();
        let error = ExchangeError::Reset(Code::Busy).into();
        assert_eq!(instead(&error, at("5.6.7.8").socket, &none), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_relay_and_no_panic(
            others in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        ) {
            let error = refused(Busy { retry_after_ms: 1, others });
            let _ = instead(&error, at("127.0.0.1").socket, &HashSet::new());
        }
    }
}
