//! The life of one window on the auditor's side: audit, then report until the report is on chain.
//!
//! Decisions only; [`super::driver`] does what they say.

use std::time::Duration;

use nsn_p2p::OverlayKey;
use pallet_audits_runtime_api::{Duty, Entry, Report, Subject};
use rand::Rng;

/// Blocks after which a report that is not on chain is handed in again.
const RESEND_AFTER: u32 = 2;

/// A window that this node has a duty in.
pub(super) struct Window {
    duty: Duty,
    /// The block from which on this node reports, a random one of the first half of those that take
    /// reports: so that not all reporters fill the same block.
    report_at: u32,
    /// The best block when the report was last handed in.
    sent: Option<u32>,
    stage: Stage,
}

/// How far a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Under way.
    Open,
    /// Nothing more is to be done before it ends.
    Settled(Outcome),
}

/// What came of a window; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The report is on chain.
    Reported,
    /// There was nothing to report.
    Empty,
    /// There was a report, and it did not get on chain in time.
    Unreported,
    /// This node came when it was too late to audit.
    Late,
    /// A reorganisation of the chain took the window away.
    Lost,
}

impl Outcome {
    /// The metric label.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Empty => "empty",
            Self::Unreported => "unreported",
            Self::Late => "late",
            Self::Lost => "lost",
        }
    }
}

/// What a new best block means for the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Nothing.
    Nothing,
    /// It is time to report, or to see whether the report is on chain.
    Report,
    /// The window is over; ask for the next duty.
    Over(Outcome),
}

impl Window {
    /// A window at the best block `number`.
    pub(super) fn new(duty: Duty, number: u32, dice: &mut impl Rng) -> Self {
        let taking = duty.ends.saturating_sub(duty.reports_from).saturating_add(1);
        let report_at = duty.reports_from.saturating_add(dice.random_range(0..taking.div_ceil(2)));
        let stage = match number >= duty.reports_from {
            true => Stage::Settled(Outcome::Late),
            false => Stage::Open,
        };
        Self { duty, report_at, sent: None, stage }
    }

    /// What the window is about.
    pub(super) fn duty(&self) -> &Duty {
        &self.duty
    }

    /// Time left for audits at the best block `number`, where a block takes `slot`; at the end of it,
    /// a probe still has `deadline` before reports may be handed in.
    pub(super) fn span(&self, number: u32, slot: Duration, deadline: Duration) -> Duration {
        let left = slot.saturating_mul(self.duty.reports_from.saturating_sub(number));
        left.saturating_sub(deadline).max(left / 2)
    }

    /// What to do at the new best block `number`.
    pub(super) fn at(&self, number: u32) -> Todo {
        if number > self.duty.ends {
            return Todo::Over(match self.stage {
                Stage::Settled(outcome) => outcome,
                Stage::Open => Outcome::Unreported,
            });
        }
        if number < self.duty.begins {
            return Todo::Over(Outcome::Lost);
        }
        match self.stage {
            Stage::Open if number >= self.report_at => Todo::Report,
            Stage::Open | Stage::Settled(_) => Todo::Nothing,
        }
    }

    /// The report to hand in at the best block `number`, of what was counted, where the chain now
    /// says `duty`. `None` if there is none to hand in now.
    ///
    /// A reorganisation may have replaced the block that the committees were drawn from: then only
    /// those are reported who are this reporter's subjects on the new fork too.
    pub(super) fn report(
        &mut self,
        number: u32,
        duty: Option<Duty>,
        counted: Vec<Entry>,
    ) -> Option<Report> {
        let same = |duty: &Duty| {
            (duty.session, duty.window, duty.begins)
                == (self.duty.session, self.duty.window, self.duty.begins)
        };
        let Some(duty) = duty.filter(same) else {
            self.stage = Stage::Settled(Outcome::Lost);
            return None;
        };
        if duty.reported {
            self.stage = Stage::Settled(Outcome::Reported);
            return None;
        }
        let entries = still_in(counted, &self.duty.subjects, &duty.subjects);
        if entries.is_empty() {
            self.stage = Stage::Settled(Outcome::Empty);
            return None;
        }
        if self.sent.is_some_and(|sent| number < sent.saturating_add(RESEND_AFTER)) {
            return None;
        }
        self.sent = Some(number);
        Some(Report {
            session: duty.session,
            window: duty.window,
            reporter: duty.reporter,
            entries,
        })
    }
}

/// The entries whose binding stands for the same key among `now` as it did among `then`.
fn still_in(entries: Vec<Entry>, then: &[Subject], now: &[Subject]) -> Vec<Entry> {
    let key_in = |subjects: &[Subject], binding: u32| -> Option<OverlayKey> {
        subjects.iter().find(|subject| subject.binding == binding).map(|subject| subject.key)
    };
    if then == now {
        return entries;
    }
    let mut entries = entries;
    entries.retain(|entry| {
        let key = key_in(now, entry.binding);
        key.is_some() && key == key_in(then, entry.binding)
    });
    entries
}

#[cfg(test)]
mod tests {
    use pallet_audits_runtime_api::Counts;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn subject(binding: u32) -> Subject {
        Subject { binding, key: [u8::try_from(binding).unwrap(); 32] }
    }

    fn entry(binding: u32) -> Entry {
        Entry { binding, counts: Counts::new(1, 0).unwrap() }
    }

    /// The second window of ten blocks of session 3.
    fn duty() -> Duty {
        Duty {
            session: 3,
            window: 1,
            reporter: 5,
            begins: 110,
            reports_from: 115,
            ends: 119,
            subjects: vec![subject(1), subject(2), subject(9)],
            reported: false,
        }
    }

    fn window(number: u32) -> Window {
        Window::new(duty(), number, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn it_reports_until_the_report_is_on_chain() {
        let mut window = window(110);
        assert_eq!(window.at(114), Todo::Nothing);
        let at = window.report_at;
        assert_eq!(window.at(at), Todo::Report);
        let report = window.report(at, Some(duty()), vec![entry(1), entry(9)]).unwrap();
        assert_eq!((report.session, report.window, report.reporter), (3, 1, 5));
        assert_eq!(report.entries, [entry(1), entry(9)]);

        assert_eq!(window.at(at + 1), Todo::Report);
        assert_eq!(window.report(at + 1, Some(duty()), vec![entry(1)]), None, "not so soon");
        assert!(window.report(at + 2, Some(duty()), vec![entry(1)]).is_some(), "handed in again");
        let reported = Duty { reported: true, ..duty() };
        assert_eq!(window.report(at + 3, Some(reported), vec![entry(1)]), None);
        assert_eq!(window.at(119), Todo::Nothing);
        assert_eq!(window.at(120), Todo::Over(Outcome::Reported));
    }

    #[test]
    fn what_does_not_get_on_chain_is_told_apart_from_what_was_never_to() {
        assert_eq!(window(110).at(120), Todo::Over(Outcome::Unreported));
        assert_eq!(window(115).at(116), Todo::Nothing);
        assert_eq!(window(115).at(120), Todo::Over(Outcome::Late));
        let mut empty = window(110);
        assert_eq!(empty.report(116, Some(duty()), vec![]), None);
        assert_eq!(empty.at(120), Todo::Over(Outcome::Empty));
    }

    #[test]
    fn after_a_reorganisation_only_those_who_are_still_subjects_are_reported() {
        let mut other = duty();
        // Binding 9 is another key there, and 2 is no subject.
        other.subjects = vec![subject(1), Subject { binding: 9, key: [0; 32] }, subject(10)];
        let counted = vec![entry(1), entry(2), entry(9)];
        let report = window(110).report(116, Some(other), counted.clone()).unwrap();
        assert_eq!(report.entries, [entry(1)]);

        for gone in [None, Some(Duty { window: 0, ..duty() }), Some(Duty { begins: 111, ..duty() })]
        {
            let mut window = window(110);
            assert_eq!(window.report(116, gone, counted.clone()), None);
            assert_eq!(window.at(120), Todo::Over(Outcome::Lost));
        }
        assert_eq!(window(110).at(109), Todo::Over(Outcome::Lost));
    }

    #[test]
    fn audits_end_a_deadline_before_reports_begin() {
        let seconds = Duration::from_secs;
        assert_eq!(window(110).span(110, seconds(3), seconds(5)), seconds(10));
        assert_eq!(
            window(110).span(113, seconds(3), seconds(5)),
            seconds(3),
            "half of it, at least"
        );
        assert_eq!(window(110).span(115, seconds(3), seconds(5)), seconds(0));
    }

    proptest! {
        #[test]
        fn reports_begin_in_the_first_half_of_their_time(
            begins in 0..1_000_000_u32,
            half in 1..200_u32,
            extra in 0..2_u32,
            seed: u64,
        ) {
            let duty = Duty {
                begins,
                reports_from: begins + half,
                ends: begins + 2 * half + extra - 1,
                ..duty()
            };
            let window = Window::new(duty.clone(), begins, &mut StdRng::seed_from_u64(seed));
            prop_assert!(window.report_at >= duty.reports_from);
            let middle = duty.reports_from + (duty.ends - duty.reports_from) / 2;
            prop_assert!(window.report_at <= middle);
        }
    }
}
