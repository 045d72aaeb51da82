use std::collections::BTreeMap;

use nsn_relay::BlobId;
use proptest::prelude::*;

use super::*;

const SPAN: Duration = Duration::from_secs(100);
const LIMITS: Limits = Limits { probes: 3, tries: 4, parallel: 8 };

fn subject(binding: u32) -> Subject {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&binding.to_le_bytes());
    Subject { binding, key }
}

fn content(n: u8) -> Blob {
    Blob::Content(ContentId(BlobId([n; 32])))
}

fn announced(n: u8) -> Claim {
    Claim { blob: content(n), announced: true }
}

/// Goes through a plan in a world where every lookup and probe takes `takes`, and `answer` decides
/// what each probe comes to. Every step, with the time it happened at.
fn play(
    plan: &mut Plan,
    takes: Duration,
    mut answer: impl FnMut(&Probe) -> (Answer, bool),
    providers: &[OverlayKey],
) -> Vec<(Duration, Step)> {
    let mut now = Duration::ZERO;
    let mut running: Vec<(Duration, Step)> = Vec::new();
    let mut steps = Vec::new();
    loop {
        let step = plan.next(now);
        match step {
            Step::Lookup(_) | Step::Probe(_) => {
                steps.push((now, step));
                running.push((now + takes, step));
                assert!(running.len() <= plan.limits.parallel);
                continue;
            }
            Step::Done => {
                assert!(running.is_empty());
                return steps;
            }
            Step::Idle => assert!(!running.is_empty(), "idle for ever"),
            Step::Wait(until) => assert!(until > now, "busy waiting"),
        }
        // The next thing that happens: something ends, or the wait is over.
        let ends = running.iter().map(|(at, _)| *at).min();
        let until = if let Step::Wait(until) = step { Some(until) } else { None };
        now = ends.into_iter().chain(until).min().unwrap();
        let (over, going_on): (Vec<_>, Vec<_>) = running.drain(..).partition(|(at, _)| *at <= now);
        running = going_on;
        for (_, step) in over {
            match step {
                Step::Lookup(blob) => plan.looked_up(blob, providers.iter().copied()),
                Step::Probe(probe) => {
                    let (answer, super_node) = answer(&probe);
                    plan.probed(&probe.subject, answer, super_node, now);
                }
                _ => unreachable!(),
            }
        }
    }
}

fn missed(reason: Reason) -> Answer {
    Answer::Missed(reason)
}

fn one(claim: Claim, answers: impl Fn(usize) -> (Answer, bool)) -> (Vec<Entry>, usize) {
    let mut plan = Plan::new(LIMITS, [(subject(7), vec![claim])], vec![], SPAN, 1);
    let mut asked = 0;
    play(
        &mut plan,
        Duration::from_millis(100),
        |_| {
            asked += 1;
            answers(asked - 1)
        },
        &[],
    );
    (plan.entries(), asked)
}

fn entry(binding: u32, served: u8, missed: u8) -> Entry {
    Entry { binding, counts: Counts::new(served, missed).unwrap() }
}

#[test]
fn a_subject_that_serves_is_asked_three_times() {
    let (entries, asked) = one(announced(1), |_| (Answer::Served, true));
    assert_eq!((entries, asked), (vec![entry(7, 3, 0)], 3));
}

#[test]
fn what_is_decided_is_not_asked_on() {
    for answer in [Answer::NotFound, missed(Reason::Unreachable), missed(Reason::Refused)] {
        let (entries, asked) = one(announced(1), |_| (answer, true));
        assert_eq!((entries, asked), (vec![entry(7, 0, 2)], 2), "{answer:?}");
    }
    // One miss can be an accident, which two serves outweigh.
    let (entries, _) = one(announced(1), |n| {
        (if n == 0 { missed(Reason::Stalled) } else { Answer::Served }, true)
    });
    assert_eq!(entries, [entry(7, 2, 1)]);
}

#[test]
fn a_refusal_counts_only_against_who_announced_it_and_keeps_for_good() {
    let named = Claim { blob: content(1), announced: false };
    for refusal in [Answer::NotFound, missed(Reason::Refused)] {
        assert_eq!(one(announced(1), |_| (refusal, false)).0, [], "a mere relay");
        assert_eq!(one(named, |_| (refusal, true)).0, [], "named by the directory alone");
    }
    let silent = one(named, |_| (missed(Reason::Stalled), false)).0;
    assert_eq!(silent, [entry(7, 0, 2)], "silence always does");
    assert_eq!(one(named, |_| (Answer::Served, false)).0, [entry(7, 3, 0)]);
}

#[test]
fn one_that_is_busy_is_asked_again_and_to_be_busy_for_ever_is_a_miss() {
    let busy = missed(Reason::Busy);
    let (entries, asked) =
        one(announced(1), |n| (if n == 0 { busy } else { Answer::Served }, true));
    assert_eq!((entries, asked), (vec![entry(7, 3, 0)], 4));
    let (entries, asked) = one(announced(1), |_| (busy, true));
    assert_eq!((entries, asked), (vec![entry(7, 0, 2)], 2 * usize::from(LIMITS.tries)));
    let (entries, _) = one(announced(1), |_| (busy, false));
    assert_eq!(entries, []);
}

#[test]
fn one_that_nobody_can_find_is_not_reported() {
    for answer in [Answer::Nowhere, Answer::NotAsked] {
        assert_eq!(one(announced(1), |_| (answer, true)), (vec![], 3), "{answer:?}");
    }
}

#[test]
fn what_a_lookup_finds_is_probed() {
    let mut plan = Plan::new(LIMITS, [(subject(7), vec![])], vec![content(3)], SPAN, 1);
    let stranger = subject(8).key;
    let steps = play(
        &mut plan,
        Duration::from_millis(100),
        |probe| {
            assert_eq!(probe.claim, Claim { blob: content(3), announced: false });
            (Answer::Served, false)
        },
        &[subject(7).key, stranger],
    );
    assert!(matches!(steps[0].1, Step::Lookup(blob) if blob == content(3)));
    assert_eq!(plan.entries(), [entry(7, 3, 0)]);
}

#[test]
fn auditors_do_not_all_come_in_the_same_second() {
    let mut seconds = BTreeMap::<u64, u32>::new();
    let auditors = 64;
    for seed in 0..auditors {
        let mut plan = Plan::new(LIMITS, [(subject(7), vec![announced(1)])], vec![], SPAN, seed);
        let steps = play(&mut plan, Duration::from_millis(100), |_| (Answer::Served, true), &[]);
        for (at, _) in steps {
            *seconds.entry(at.as_secs()).or_default() += 1;
        }
    }
    // 192 probes over 87 seconds: two to three in a second, and never a crowd.
    assert!(seconds.values().all(|count| *count <= 12), "{seconds:?}");
    assert!(seconds.len() > 50, "{seconds:?}");
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        3 => Just(Answer::Served),
        1 => Just(Answer::NotFound),
        3 => prop::sample::select(&Reason::ALL[..]).prop_map(Answer::Missed),
        1 => Just(Answer::Nowhere),
        1 => Just(Answer::NotAsked),
    ]
}

proptest! {
    #[test]
    fn a_plan_keeps_its_bounds_and_reports_what_happened(
        bindings in prop::collection::vec(0..200_u32, 0..40),
        claims in prop::collection::vec(0..50_u8, 0..40),
        lookups in 0..20_u8,
        limits in (1..20_u8, 1..6_u8, 1..10_usize),
        takes_ms in 0..20_000_u64,
        span_s in 0..200_u64,
        seed: u64,
        answers in prop::collection::vec((any_answer(), any::<bool>()), 1..60),
    ) {
        let (probes, tries, parallel) = limits;
        let limits = Limits { probes, tries, parallel };
        let probes = probes.min(MAX_COUNT);
        let span = Duration::from_secs(span_s);
        // Some subjects announced nothing, others a lot.
        let subjects = bindings.iter().enumerate().map(|(n, binding)| {
            (subject(*binding), claims.iter().skip(n % 7).step_by(n + 1).map(|c| announced(*c)).collect())
        });
        let lookups = (0..lookups).map(content).collect();
        let mut plan = Plan::new(limits, subjects, lookups, span, seed);
        let mut next = answers.iter().cycle();
        let mut given: BTreeMap<u32, Vec<(Probe, Answer, bool)>> = BTreeMap::new();
        let providers: Vec<_> = bindings.iter().take(5).map(|b| subject(*b).key).collect();
        let steps = play(
            &mut plan,
            Duration::from_millis(takes_ms),
            |probe| {
                let (answer, super_node) = *next.next().unwrap();
                given.entry(probe.subject.binding).or_default().push((*probe, answer, super_node));
                (answer, super_node)
            },
            &providers,
        );

        for (at, _) in &steps {
            prop_assert!(*at < span, "started when the time was up");
        }
        let entries = plan.entries();
        prop_assert!(entries.is_sorted_by(|a, b| a.binding < b.binding));
        for entry in &entries {
            prop_assert!(bindings.contains(&entry.binding), "not of the duty");
            prop_assert!(!entry.counts.is_empty());
        }
        for (binding, given) in &given {
            prop_assert!(given.len() <= usize::from(probes) * usize::from(tries));
            let served = given.iter().filter(|(_, answer, _)| *answer == Answer::Served).count();
            let silent = given
                .iter()
                .filter(|(_, answer, _)| {
                    matches!(answer, Answer::Missed(reason)
                        if !matches!(reason, Reason::Busy | Reason::Refused))
                })
                .count();
            let held = given
                .iter()
                .filter(|(probe, answer, super_node)| {
                    probe.claim.announced
                        && *super_node
                        && matches!(
                            answer,
                            Answer::NotFound | Answer::Missed(Reason::Busy | Reason::Refused)
                        )
                })
                .count();
            let counts = entries
                .iter()
                .find(|entry| entry.binding == *binding)
                .map_or((0, 0), |entry| (entry.counts.served(), entry.counts.missed()));
            prop_assert_eq!(usize::from(counts.0), served);
            prop_assert!(usize::from(counts.1) >= silent, "a miss was forgotten");
            prop_assert!(usize::from(counts.1) <= silent + held, "a miss was made up");
            prop_assert!(counts.0 + counts.1 <= probes);
        }
        for entry in &entries {
            prop_assert!(given.contains_key(&entry.binding), "reported, but never asked");
        }
    }
}
