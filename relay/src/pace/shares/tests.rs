use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const PIECE: u32 = 64 * 1024;

fn rates(total: u64, viewer: u64) -> Rates {
    Rates { total, viewer, burst: Duration::from_secs(1), lanes: 10_000 }
}

fn peers(count: usize) -> Vec<PeerId> {
    (0..count).map(|_| PeerId::random()).collect()
}

/// A viewer of a simulation: how much it weighs, and how much it can take, in bytes a second.
#[derive(Clone, Copy, Debug)]
struct Taker {
    weight: u32,
    most: u64,
}

/// Pieces that lie between a viewer and its turn, as in a send window.
const WINDOW: u32 = 4;

/// Lets viewers take what they get for a while, each no faster than it can, and gives the bytes each
/// got. A viewer asks for a piece, and for the next one when that had its turn and there is room in its
/// window. Time is virtual.
fn share(rates: Rates, takers: &[Taker], during: Duration) -> Vec<u64> {
    let start = Instant::now();
    let mut shares = Shares::new(rates, start);
    let peers = peers(takers.len());
    let mut got = vec![0u64; takers.len()];
    let mut now = start;
    // When each has taken all that was sent to it, and when it wants its next piece.
    let mut taken = vec![start; takers.len()];
    let mut wants: BTreeSet<(Instant, usize)> = (0..takers.len()).map(|n| (start, n)).collect();
    while now < start + during {
        while let Some((at, n)) = wants.first().copied().filter(|want| want.0 <= now) {
            wants.remove(&(at, n));
            let piece = (n as u64, PIECE);
            shares.ask(peers[n], takers[n].weight, Priority::Play, piece, now);
        }
        let first = wants.first().map(|want| want.0);
        match shares.next(now) {
            Next::Go(ticket) => {
                let n = usize::try_from(ticket).unwrap();
                got[n] += u64::from(PIECE);
                let takes = Duration::from_secs_f64(f64::from(PIECE) / takers[n].most as f64);
                taken[n] = taken[n].max(now) + takes;
                wants.insert((now.max(taken[n] - takes * (WINDOW - 1)), n));
            }
            Next::At(at) => now = first.map_or(at, |first| first.min(at)),
            Next::Nothing => now = first.unwrap(),
        }
    }
    got
}

const GREEDY: Taker = Taker { weight: WEIGHT, most: u64::MAX };

#[test]
fn greedy_viewers_share_the_total_evenly() {
    let total = 12_500_000;
    let got = share(rates(total, 0), &[GREEDY; 60], Duration::from_secs(10));
    let fair = total as f64 * 10.0 / 60.0;
    for bytes in &got {
        assert!((*bytes as f64 / fair - 1.0).abs() < 0.05, "{bytes} of {fair}");
    }
    let sum: u64 = got.iter().sum();
    assert!((sum as f64) < total as f64 * 10.0 + 500_000.0, "{sum}");
}

#[test]
fn what_a_slow_viewer_leaves_is_shared_by_the_others() {
    let slow = Taker { weight: WEIGHT, most: 500_000 };
    let got = share(rates(10_000_000, 0), &[GREEDY, slow, GREEDY], Duration::from_secs(10));
    let near = |n: usize, rate: f64| (got[n] as f64 / (rate * 10.0) - 1.0).abs() < 0.05;
    assert!(near(0, 4_750_000.0) && near(1, 500_000.0) && near(2, 4_750_000.0), "{got:?}");
}

#[test]
fn a_weight_is_a_share() {
    let heavy = Taker { weight: 3 * WEIGHT, most: u64::MAX };
    let got = share(rates(8_000_000, 0), &[GREEDY, heavy], Duration::from_secs(10));
    let ratio = got[1] as f64 / got[0] as f64;
    assert!((ratio - 3.0).abs() < 0.1, "{got:?}");
}

#[test]
fn whoever_has_had_its_turn_is_not_taken_for_a_newcomer() {
    let now = Instant::now();
    let mut shares = Shares::new(rates(0, 0), now);
    let [heavy, light] = peers(2).try_into().unwrap();
    let mut turns = [0; 2];
    // Each asks for its next piece only when it has had the last one, and in between wants nothing.
    let mut wants = [true; 2];
    for _ in 0..400 {
        for (n, (viewer, weight)) in [(heavy, 3 * WEIGHT), (light, WEIGHT)].into_iter().enumerate()
        {
            if std::mem::take(&mut wants[n]) {
                shares.ask(viewer, weight, Priority::Play, (n as u64, PIECE), now);
            }
        }
        let Next::Go(n) = shares.next(now) else { panic!() };
        let n = usize::try_from(n).unwrap();
        turns[n] += 1;
        wants[n] = true;
    }
    assert_eq!(turns, [300, 100]);
}

#[test]
fn a_viewer_has_a_rate_of_its_own_even_when_all_is_free() {
    let got = share(rates(0, 1_000_000), &[GREEDY; 3], Duration::from_secs(10));
    for bytes in got {
        // Ten seconds' worth and a second's burst.
        assert!((10_900_000..11_200_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn whoever_paused_saved_up_nothing() {
    let start = Instant::now();
    let mut shares = Shares::new(rates(1_000_000, 0), start);
    let [busy, paused] = peers(2).try_into().unwrap();
    let ask = |shares: &mut Shares, peer, ticket, now| {
        shares.ask(peer, WEIGHT, Priority::Play, (ticket, PIECE), now);
    };
    let mut now = start;
    let mut gone = |shares: &mut Shares| loop {
        match shares.next(now) {
            Next::Go(ticket) => return ticket,
            Next::At(at) => now = at,
            Next::Nothing => panic!("somebody wants something"),
        }
    };
    for _ in 0..100 {
        ask(&mut shares, busy, 0, start);
        assert_eq!(gone(&mut shares), 0);
    }
    for _ in 0..10 {
        ask(&mut shares, paused, 1, start);
        ask(&mut shares, busy, 0, start);
    }
    let order: Vec<u64> = (0..20).map(|_| gone(&mut shares)).collect();
    // It starts where the other's last piece started, so it is ahead by that piece and its next.
    let mut ahead = 0i32;
    for ticket in &order {
        ahead += if *ticket == 1 { 1 } else { -1 };
        assert!((-1..=2).contains(&ahead), "{order:?}");
    }
}

#[test]
fn a_seek_goes_before_playing_and_that_before_prefetching() {
    let now = Instant::now();
    let mut shares = Shares::new(rates(0, 0), now);
    let [viewer] = peers(1).try_into().unwrap();
    let asks = [Priority::Prefetch, Priority::Play, Priority::Prefetch, Priority::Seek];
    for (ticket, priority) in (0..).zip(asks) {
        shares.ask(viewer, WEIGHT, priority, (ticket, PIECE), now);
    }
    let order: Vec<Next> = (0..5).map(|_| shares.next(now)).collect();
    assert_eq!(order, [Next::Go(3), Next::Go(1), Next::Go(0), Next::Go(2), Next::Nothing]);
}

#[test]
fn a_piece_that_is_withdrawn_holds_nobody_up() {
    let now = Instant::now();
    let mut shares = Shares::new(rates(0, 0), now);
    let [one, other] = peers(2).try_into().unwrap();
    shares.ask(one, WEIGHT, Priority::Play, (1, PIECE), now);
    shares.ask(other, WEIGHT, Priority::Play, (2, PIECE), now);
    shares.withdraw(one, 1, now);
    assert_eq!(shares.busy(), 1);
    assert_eq!(shares.next(now), Next::Go(2));
    // It has gone, and its owner with it.
    shares.withdraw(other, 2, now);
    shares.withdraw(PeerId::random(), 3, now);
    assert_eq!((shares.next(now), shares.busy()), (Next::Nothing, 0));
}

#[test]
fn lanes_beyond_the_bound_and_those_that_are_done_are_forgotten() {
    let start = Instant::now();
    let mut shares = Shares::new(Rates { lanes: 4, ..rates(0, 100_000) }, start);
    let viewers = peers(20);
    for (ticket, viewer) in (0..).zip(&viewers) {
        shares.ask(*viewer, WEIGHT, Priority::Play, (ticket, PIECE), start);
        assert_eq!(shares.next(start), Next::Go(ticket));
        assert!(shares.lanes.len() <= 5, "{}", shares.lanes.len());
    }
    // Ten seconds later all of them have their burst again, and somebody else moves the clock on.
    let later = start + Duration::from_secs(10);
    for ticket in 0..12 {
        shares.ask(viewers[0], WEIGHT, Priority::Play, (ticket, 8_000), later);
        assert_eq!(shares.next(later), Next::Go(ticket));
    }
    assert_eq!(shares.lanes.len(), 1);
}

#[test]
fn who_waits_is_not_forgotten() {
    let now = Instant::now();
    let mut shares = Shares::new(Rates { lanes: 2, ..rates(1, 0) }, now);
    for (ticket, viewer) in (0..).zip(peers(50)) {
        shares.ask(viewer, WEIGHT, Priority::Play, (ticket, PIECE), now);
    }
    assert_eq!((shares.busy(), shares.lanes.len()), (50, 50));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Nobody gets less than its share by weight of what is left by those who want less.
    #[test]
    fn shares_are_max_min_fair(
        takers in prop::collection::vec((50u32..400, 50_000u64..4_000_000), 2..12),
    ) {
        let total = 5_000_000;
        let takers: Vec<Taker> =
            takers.into_iter().map(|(weight, most)| Taker { weight, most }).collect();
        let seconds = 20;
        let got = share(rates(total, 0), &takers, Duration::from_secs(seconds));

        // By filling up: whoever wants less than its share gets that, the rest is shared anew.
        let mut fair = vec![0.0; takers.len()];
        let mut open: Vec<usize> = (0..takers.len()).collect();
        let mut left = total as f64;
        loop {
            let weights: f64 = open.iter().map(|n| f64::from(takers[*n].weight)).sum();
            let share = |n: usize| left * f64::from(takers[n].weight) / weights;
            let (few, rest): (Vec<usize>, Vec<usize>) =
                open.iter().partition(|n| takers[**n].most as f64 <= share(**n));
            if few.is_empty() {
                for n in rest {
                    fair[n] = share(n);
                }
                break;
            }
            for n in few {
                fair[n] = takers[n].most as f64;
                left -= fair[n];
            }
            open = rest;
            if open.is_empty() {
                break;
            }
        }
        for (n, fair) in fair.iter().enumerate() {
            let rate = got[n] as f64 / seconds as f64;
            // Pieces are whole.
            prop_assert!(rate >= fair * 0.95 - 2.0 * f64::from(PIECE) / seconds as f64,
                "{n}: {rate} of {fair}, {takers:?}");
        }
    }

    /// Every piece that is asked for and not withdrawn has its turn, once.
    #[test]
    fn every_piece_has_its_turn_once(
        steps in prop::collection::vec((0usize..6, 0usize..3, 1u32..200_000, 0u64..50, any::<bool>()), 1..200),
        total in 0u64..2_000_000,
        viewer in 0u64..1_000_000,
    ) {
        let mut now = Instant::now();
        let mut shares = Shares::new(rates(total, viewer), now);
        let peers = peers(6);
        let mut open: HashMap<u64, usize> = HashMap::new();
        for (ticket, (n, priority, bytes, ms, withdrawn)) in (0..).zip(steps) {
            now += Duration::from_millis(ms);
            let priority = [Priority::Prefetch, Priority::Play, Priority::Seek][priority];
            shares.ask(peers[n], WEIGHT, priority, (ticket, bytes), now);
            open.insert(ticket, n);
            if withdrawn {
                shares.withdraw(peers[n], ticket, now);
                open.remove(&ticket);
            }
            if let Next::Go(ticket) = shares.next(now) {
                prop_assert!(open.remove(&ticket).is_some());
            }
        }
        loop {
            match shares.next(now) {
                Next::Go(ticket) => prop_assert!(open.remove(&ticket).is_some()),
                Next::At(at) => {
                    prop_assert!(at > now);
                    now = at;
                }
                Next::Nothing => break,
            }
        }
        prop_assert!(open.is_empty(), "{open:?}");
        prop_assert_eq!(shares.busy(), 0);
    }
}
