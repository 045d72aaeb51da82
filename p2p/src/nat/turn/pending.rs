//! Who waits for permissions. Pure.

use super::worker::Told;
use std::net::IpAddr;

/// One who waits for the permissions of a peer's addresses.
#[derive(Debug)]
struct Waiter {
    token: u64,
    left: Vec<IpAddr>,
    any: bool,
}

/// Those who wait: as many as orders were taken, which whoever gives them bounds. 100 bytes each.
#[derive(Debug, Default)]
pub(super) struct Pending(Vec<Waiter>);

impl Pending {
    /// Somebody waits for these; without any there is nothing to wait for.
    pub(super) fn wait(&mut self, token: u64, ips: &[IpAddr]) -> Option<Told> {
        if ips.is_empty() {
            return Some(Told::Permitted { token, any: false });
        }
        self.0.push(Waiter { token, left: ips.to_vec(), any: false });
        None
    }

    /// The server has decided on one: who waits for nothing more.
    pub(super) fn decided(&mut self, ip: IpAddr, granted: bool) -> Vec<Told> {
        for waiter in self.0.iter_mut().filter(|waiter| waiter.left.contains(&ip)) {
            waiter.left.retain(|left| *left != ip);
            waiter.any |= granted;
        }
        self.0.extract_if(.., |waiter| waiter.left.is_empty()).map(told).collect()
    }

    /// The allocation is over.
    pub(super) fn fail(&mut self) -> Vec<Told> {
        self.0.drain(..).map(|waiter| told(Waiter { any: false, ..waiter })).collect()
    }
}

fn told(Waiter { token, any, .. }: Waiter) -> Told {
    Told::Permitted { token, any }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hears_once_when_all_its_addresses_are_decided() {
        let ip = |n: u8| IpAddr::from([9, 9, 9, n]);
        let mut pending = Pending::default();
        assert_eq!(pending.wait(0, &[]), Some(Told::Permitted { token: 0, any: false }));
        assert_eq!(pending.wait(1, &[ip(1), ip(2)]), None);
        assert_eq!(pending.wait(2, &[ip(2)]), None);
        assert_eq!(pending.wait(3, &[ip(3)]), None);
        assert_eq!(pending.decided(ip(1), true), []);
        let both = [1, 2].map(|token| Told::Permitted { token, any: token == 1 });
        assert_eq!(pending.decided(ip(2), false), both);
        assert_eq!(pending.decided(ip(2), true), []);
        assert_eq!(pending.fail(), [Told::Permitted { token: 3, any: false }]);
        assert_eq!(pending.fail(), []);
    }
}
