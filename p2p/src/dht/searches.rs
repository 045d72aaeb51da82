//! The lookups under way: whose turn it is to ask, which have ended.
//!
//! Plain state. Each lookup that was told something, or for which time has gone by, is looked at
//! again; those that want to ask take turns, one question each, so that none starves while there is
//! room for few. `P` says what a lookup is for.

use super::{
    lookup::{Lookup, Outcome, Patience},
    network::{Answer, Contact, Dropped, Question},
};
use crate::{PeerId, address::IpGroup};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Which lookup.
pub(crate) type SearchId = u64;

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Step<P> {
    /// Ask a peer.
    Ask { search: SearchId, to: Contact, question: Question },
    /// A lookup has ended, and took as long.
    Ended { search: SearchId, purpose: P, outcome: Outcome, took: Duration },
}

struct Running<P> {
    lookup: Lookup,
    question: Question,
    purpose: P,
    begun: Instant,
    wakes_at: Instant,
    /// In `touched`.
    touched: bool,
    /// In `asking`.
    asking: bool,
}

/// Lookups under way. How many there may be is for those to bound who start them; each takes up to
/// 240 KB, see [`Lookup`], so 256 of them at most 62 MB while every peer lies, and some 5 MB otherwise.
pub(crate) struct Searches<P> {
    running: HashMap<SearchId, Running<P>>,
    /// To look at: something has changed. Each at most once.
    touched: VecDeque<SearchId>,
    /// Those that may want to ask, in turns. Each at most once.
    asking: VecDeque<SearchId>,
    timers: BTreeSet<(Instant, SearchId)>,
    /// Of peers that are connected, and of those that are dialled first.
    near: Patience,
    far: Patience,
    last: SearchId,
}

impl<P> Searches<P> {
    /// No lookups. An answer is late after the time that answers usually take, at least and at most
    /// as given.
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self {
            running: HashMap::new(),
            touched: VecDeque::new(),
            asking: VecDeque::new(),
            timers: BTreeSet::new(),
            near: Patience::new(least, most),
            far: Patience::new(least, most),
            last: 0,
        }
    }

    /// Begins a lookup; each of its peers is asked the question.
    pub(crate) fn start(
        &mut self,
        lookup: Lookup,
        question: Question,
        purpose: P,
        now: Instant,
    ) -> SearchId {
        self.last += 1;
        let id = self.last;
        let wakes_at = lookup.wakes_at(now);
        let (touched, asking) = (true, false);
        let running = Running { lookup, question, purpose, begun: now, wakes_at, touched, asking };
        self.running.insert(id, running);
        self.timers.insert((wakes_at, id));
        self.touched.push_back(id);
        id
    }

    /// What is to be done next, if anything; asking only if there is `room`. To be called until there
    /// is nothing, or later again.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        room: bool,
        connected: impl Fn(&PeerId) -> bool,
    ) -> Option<Step<P>> {
        self.wake(now);
        while let Some(search) = self.touched.pop_front() {
            let Some(running) = self.running.get_mut(&search) else { continue };
            running.touched = false;
            if let Some(end) = running.lookup.end(now) {
                let outcome = running.lookup.outcome(end);
                let running = self.remove(search)?;
                let took = now.saturating_duration_since(running.begun);
                return Some(Step::Ended { search, purpose: running.purpose, outcome, took });
            }
            if !running.asking {
                running.asking = true;
                self.asking.push_back(search);
            }
            self.set_timer(search, now);
        }
        while room && let Some(search) = self.asking.pop_front() {
            let (near, far) = (self.near.get(), self.far.get());
            let Some(running) = self.running.get_mut(&search) else { continue };
            let patience = |peer: &PeerId| if connected(peer) { near } else { far };
            let Some(to) = running.lookup.next(now, patience) else {
                running.asking = false;
                self.set_timer(search, now);
                continue;
            };
            let question = running.question.clone();
            self.asking.push_back(search);
            return Some(Step::Ask { search, to, question });
        }
        None
    }

    /// Whether [`Self::step`] has something to do at once.
    pub(crate) fn is_due(&self, room: bool) -> bool {
        !self.touched.is_empty() || (room && !self.asking.is_empty())
    }

    /// When [`Self::step`] has something to do because time has gone by.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Lookups under way.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    fn wake(&mut self, now: Instant) {
        while let Some((at, search)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.touch(search);
        }
    }

    fn touch(&mut self, search: SearchId) {
        if let Some(running) = self.running.get_mut(&search)
            && !running.touched
        {
            running.touched = true;
            self.touched.push_back(search);
        }
    }

    fn set_timer(&mut self, search: SearchId, now: Instant) {
        if let Some(running) = self.running.get_mut(&search) {
            self.timers.remove(&(running.wakes_at, search));
            running.wakes_at = running.lookup.wakes_at(now);
            self.timers.insert((running.wakes_at, search));
        }
    }

    fn remove(&mut self, search: SearchId) -> Option<Running<P>> {
        let running = self.running.remove(&search)?;
        self.timers.remove(&(running.wakes_at, search));
        if running.asking {
            self.asking.retain(|asking| *asking != search);
        }
        Some(running)
    }

    /// How long a peer took to answer. Counts for what is waited from now on, whether or not the
    /// lookup that asked is still under way.
    pub(crate) fn observe(&mut self, was_connected: bool, took: Duration) {
        if was_connected { self.near.observe(took) } else { self.far.observe(took) }
    }

    /// A peer has answered a lookup. Gives back what the lookup is for and the providers it knows
    /// now, if it is still under way.
    pub(crate) fn on_answer(
        &mut self,
        search: SearchId,
        peer: &PeerId,
        reached: Option<IpGroup>,
        answer: Answer,
        dropped: impl FnMut(Dropped),
    ) -> Option<(&P, Vec<PeerId>)> {
        self.touch(search);
        let running = self.running.get_mut(&search)?;
        running.lookup.on_answer(peer, reached, answer, dropped);
        Some((&running.purpose, running.lookup.providers()))
    }

    /// A peer will not answer a lookup.
    pub(crate) fn on_failure(&mut self, search: SearchId, peer: &PeerId) {
        self.touch(search);
        if let Some(running) = self.running.get_mut(&search) {
            running.lookup.on_failure(peer);
        }
    }

    /// The lookup for this purpose, if it is under way, is to find at least as many providers.
    pub(crate) fn want_of(&mut self, purpose: &P, providers: usize)
    where
        P: PartialEq,
    {
        let found = self.running.iter_mut().find(|(_, running)| running.purpose == *purpose);
        if let Some((search, running)) = found {
            running.lookup.want(providers);
            let search = *search;
            self.touch(search);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dht::{
            lookup::{End, Goal, Settings},
            space::Point,
        },
        identity::peer_id_of,
    };

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn contact(n: u8) -> Contact {
        Contact { peer: peer(n), addresses: vec!["/memory/1".parse().unwrap()] }
    }

    fn searches() -> Searches<char> {
        Searches::new(Duration::from_millis(100), Duration::from_secs(3))
    }

    fn start(searches: &mut Searches<char>, purpose: char, seeds: &[u8], now: Instant) -> SearchId {
        let settings = Settings {
            width: 3,
            parallelism: 2,
            paths: 1,
            max_group: None,
            timeout: Duration::from_secs(10),
        };
        let (target, seeds) = (Point::of_bytes(&[1]), seeds.iter().map(|n| contact(*n)));
        let lookup = Lookup::new(settings, Goal::Closest, peer(0), target, seeds, now);
        searches.start(lookup, Question::Closest(vec![1]), purpose, now)
    }

    fn asks(step: Option<Step<char>>) -> (SearchId, PeerId) {
        match step {
            Some(Step::Ask { search, to, .. }) => (search, to.peer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lookups_take_turns_and_wait_for_room() {
        let now = Instant::now();
        let mut searches = searches();
        let a = start(&mut searches, 'a', &[1, 2, 3], now);
        let b = start(&mut searches, 'b', &[1, 2, 3], now);
        assert!(searches.step(now, false, |_| true).is_none(), "no room");
        assert!(!searches.is_due(false) && searches.is_due(true));
        let order: Vec<SearchId> =
            (0..4).map(|_| asks(searches.step(now, true, |_| true)).0).collect();
        assert_eq!(order, [a, b, a, b]);
        assert!(searches.step(now, true, |_| true).is_none(), "two at a time each");
        assert!(!searches.is_due(true));
    }

    #[test]
    fn a_lookup_that_has_ended_is_told_even_without_room() {
        let now = Instant::now();
        let mut searches = searches();
        let a = start(&mut searches, 'a', &[1], now);
        let (_, asked) = asks(searches.step(now, true, |_| true));
        let later = now + Duration::from_millis(30);
        assert!(searches.on_answer(a, &asked, None, Answer::default(), |_| {}).is_some());
        match searches.step(later, false, |_| true) {
            Some(Step::Ended { purpose: 'a', outcome, took, .. }) => {
                assert_eq!((outcome.end, outcome.answered), (End::Converged, 1));
                assert_eq!(took, Duration::from_millis(30));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((searches.len(), searches.wakes_at()), (0, None));
        assert!(searches.on_answer(a, &asked, None, Answer::default(), |_| {}).is_none());
    }

    #[test]
    fn time_alone_wakes_a_lookup_and_what_was_measured_says_when() {
        let now = Instant::now();
        let mut searches = searches();
        // Connected peers answer in 40 ms; 100 ms are waited at least.
        (0..50).for_each(|_| searches.observe(true, Duration::from_millis(40)));
        (0..50).for_each(|_| searches.observe(false, Duration::from_millis(400)));
        start(&mut searches, 'a', &[1, 2, 3], now);
        let connected = |who: &PeerId| *who == peer(1);
        let mut asked = vec![asks(searches.step(now, true, connected)).1];
        asked.push(asks(searches.step(now, true, connected)).1);
        assert!(searches.step(now, true, connected).is_none());
        let first = if asked.contains(&peer(1)) { 100 } else { 400 };
        let wakes_at = searches.wakes_at().unwrap();
        let waited = wakes_at.duration_since(now);
        assert!(waited.as_millis() >= first && waited.as_millis() < first + 20, "{waited:?}");
        asked.push(asks(searches.step(wakes_at, true, connected)).1);
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 3, "the late one gave its slot away");
    }

    #[test]
    fn all_end_when_nobody_answers() {
        let mut now = Instant::now();
        let mut searches = searches();
        let ids: Vec<_> =
            ['a', 'b', 'c'].map(|p| start(&mut searches, p, &[1, 2, 3, 4], now)).into();
        let mut ended = Vec::new();
        while searches.len() > 0 {
            match searches.step(now, true, |_| false) {
                Some(Step::Ask { .. }) => {}
                Some(Step::Ended { search, .. }) => ended.push(search),
                None => now = searches.wakes_at().unwrap(),
            }
        }
        ended.sort();
        assert_eq!(ended, ids);
        assert!(searches.timers.is_empty() && searches.asking.is_empty());
    }
}
