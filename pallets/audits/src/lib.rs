//! Audits: validators look whether those who claim to hold shards do, and what they report moves
//! scores.
//!
//! A session is cut into [windows](window). Each window takes the bound overlay keys as its
//! [subjects], draws a [committee] of reporters for each from the hash of the block before it, and
//! has two halves. In the first the members fetch random parts of shards from their subjects, like
//! any viewer. In the second each hands in one [`Report`], signed with its session key
//! ([`reporter`]). When the window is over the reports are [tallied](tally): the median of what a
//! committee says, kept within bounds, is added to the seeder score of the account that answers for
//! the subject.
//!
//! A report is a call that authorises itself: it is free, is good once for a reporter and window,
//! and is refused with a named reason ([`Error`], numbered by [`Error::code`]) before it reaches a
//! block. A node asks [`Pallet::duty`] what it has to do.
//!
//! Reports are kept in rows: what one reporter says of the subjects of one chunk. A block works off
//! one chunk at its beginning, and another if there is weight left, so that no block has much to do
//! and a tally is over before the next window is. A session that ends before its window voids it.
//!
//! With one reporter the committee has one member, whose word is the median; with two or three, all
//! of them make the quorum of more than two thirds. Nothing else is different.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | storage, call, events, errors, genesis: what the chain sees |
//! | `window.rs` | which blocks are a window, and its halves |
//! | `subjects.rs` | which bindings a window audits, and their places in it |
//! | `committee.rs` | who reports on whom |
//! | `tally.rs` | from counts to a change of a score |
//! | `bits.rs` | a bounded list of bits |
//! | `types.rs` | what is kept of a window |
//! | `report.rs` | whether a report is good, and where it goes |
//! | `rounds.rs` | the course of windows: begin, end, tally |
//! | `reporter.rs` | the reporters' session key and how sessions hand it over |
//! | `queries.rs` | what the runtime API answers |
//! | `checks.rs` | what must hold of the state |
//! | `benchmarking.rs`, `weights.rs` | what calls and hooks cost |

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;
// The tests' chain is the benchmark's too, which knows this crate by its name.
#[cfg(test)]
extern crate self as pallet_audits;

#[cfg(feature = "runtime-benchmarks")]
mod benchmarking;
mod bits;
mod checks;
pub mod committee;
mod queries;
mod report;
pub mod reporter;
mod rounds;
pub mod subjects;
pub mod tally;
mod types;
pub mod weights;
pub mod window;

#[cfg(test)]
mod mock;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests;

#[cfg(feature = "runtime-benchmarks")]
pub use benchmarking::BenchmarkHelper;
pub use bits::{Bits, MAX_BITS};
pub use pallet::*;
pub use pallet_audits_runtime_api::{
    Counts, Duty, Entry, MAX_COUNT, Report, Subject, report_payload,
};
pub use types::{Moved, Progress, Row, Tally, Window};
pub use weights::WeightInfo;

// Each subject has a bit, and a tally, a chunk a block, takes no longer than a window.
const _: () = assert!(subjects::MAX_SUBJECTS <= MAX_BITS);
const _: () = assert!(subjects::MAX_CHUNKS < window::MIN_LENGTH);

// What the macros write out does these things; our own code stands in the other files, except for
// genesis.
#[allow(unused_qualifications, clippy::cast_possible_truncation, clippy::expect_used)]
#[frame_support::pallet]
pub mod pallet {
    use core::marker::PhantomData;

    use frame_support::{
        WeakBoundedVec,
        pallet_prelude::*,
        traits::{EstimateNextSessionRotation, ValidatorSet},
    };
    use frame_system::pallet_prelude::*;
    use pallet_reputation::{Bindings, Ledger};
    use sp_core::H256;

    use super::{
        MAX_BITS, Moved, Progress, Report, Row, Tally, WeightInfo, Window,
        reporter::sr25519::{AuthorityId, AuthoritySignature},
        window::MIN_LENGTH,
    };

    const STORAGE_VERSION: StorageVersion = StorageVersion::new(1);

    /// The pallet.
    #[pallet::pallet]
    #[pallet::storage_version(STORAGE_VERSION)]
    pub struct Pallet<T>(_);

    /// What a runtime chooses.
    #[pallet::config]
    pub trait Config: frame_system::Config<Hash = H256> {
        /// Who can be audited.
        type Bindings: Bindings<Self::AccountId>;

        /// Where outcomes go.
        type Ledger: Ledger<Self::AccountId>;

        /// Asked for the index of the running session.
        type Sessions: ValidatorSet<Self::AccountId>;

        /// Asked when the session ends, so that no window begins that would be void. If it does not
        /// know or is wrong, that window is.
        type NextSessionRotation: EstimateNextSessionRotation<BlockNumberFor<Self>>;

        /// The most reporters of a session, normally the most validators; at most [`MAX_BITS`].
        /// 34 bytes each while a window runs, and its rows: at most 8 of 150 bytes each.
        #[pallet::constant]
        type MaxReporters: Get<u32>;

        /// The most reports in a block. Times half the length of a window it should be no less than
        /// the reporters, or some come too late.
        #[pallet::constant]
        type MaxReportsPerBlock: Get<u32>;

        /// The length of a window in blocks where genesis does not say otherwise.
        #[pallet::constant]
        type DefaultWindowLength: Get<u32>;

        /// What calls and hooks cost.
        type WeightInfo: WeightInfo;

        /// Makes bindings for benchmarks.
        #[cfg(feature = "runtime-benchmarks")]
        type BenchmarkHelper: super::BenchmarkHelper;
    }

    /// The reporters' keys of the running session, in the order of its validators.
    #[pallet::storage]
    pub type Reporters<T: Config> =
        StorageValue<_, WeakBoundedVec<AuthorityId, T::MaxReporters>, ValueQuery>;

    /// The length of a window in blocks. Set once, at genesis.
    #[pallet::storage]
    pub type WindowLength<T: Config> = StorageValue<_, u32, ValueQuery, T::DefaultWindowLength>;

    /// The first block of the running session. None until a session begins, on a chain that got this
    /// pallet later than its genesis.
    #[pallet::storage]
    pub type SessionBegins<T: Config> = StorageValue<_, u32>;

    /// How many windows there were so far, those with nobody to audit among them: the number of the
    /// next one.
    #[pallet::storage]
    pub type WindowsBegun<T: Config> = StorageValue<_, u32, ValueQuery>;

    /// The running window.
    #[pallet::storage]
    pub type Current<T: Config> = StorageValue<_, Window<T::MaxReporters>>;

    /// Which reports of the running window are in.
    #[pallet::storage]
    pub type InProgress<T: Config> = StorageValue<_, Progress, ValueQuery>;

    /// What was reported, by number of the window, chunk, and reporter. Rows of at most three windows
    /// are kept at a time, at most 8 a reporter and window: with 256 reporters 300 kB a window.
    #[pallet::storage]
    pub type Reports<T: Config> =
        StorageDoubleMap<_, Twox64Concat, (u32, u32), Twox64Concat, u16, Row>;

    /// The windows that are over and not yet tallied; the first is being worked on.
    #[pallet::storage]
    pub type Tallies<T: Config> = StorageValue<_, BoundedVec<Tally, ConstU32<2>>, ValueQuery>;

    /// What was done to accounts by the tally that is being worked on.
    #[pallet::storage]
    pub type MovedAccounts<T: Config> = StorageValue<_, Moved<T::AccountId>, ValueQuery>;

    /// What a chain starts with.
    #[pallet::genesis_config]
    pub struct GenesisConfig<T: Config> {
        /// The length of a window in blocks, at least [`MIN_LENGTH`]. Half of it is for audits, half
        /// for reports. A session should be a multiple of it.
        pub window_length: u32,
        #[serde(skip)]
        #[allow(missing_docs)]
        pub marker: PhantomData<T>,
    }

    impl<T: Config> Default for GenesisConfig<T> {
        fn default() -> Self {
            Self { window_length: T::DefaultWindowLength::get(), marker: PhantomData }
        }
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        // A wrong genesis must not become a chain; this runs when a chain is made, on input of
        // whoever makes it, and panicking is the only way the trait has to refuse.
        fn build(&self) {
            assert!(
                self.window_length >= MIN_LENGTH,
                "genesis: a window of {} blocks, fewer than {MIN_LENGTH}",
                self.window_length
            );
            WindowLength::<T>::put(self.window_length);
        }
    }

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(crate) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A window began: committees are drawn, and audits may start.
        WindowBegun {
            /// The session.
            session: u32,
            /// The window of that session.
            window: u32,
            /// How many keys are audited.
            subjects: u32,
            /// By how many reporters.
            reporters: u32,
        },
        /// A session ended before its window, whose reports count for nothing.
        WindowVoid {
            /// The session.
            session: u32,
            /// The window of that session.
            window: u32,
        },
        /// A report was handed in.
        ReportTaken {
            /// The session.
            session: u32,
            /// The window of that session.
            window: u32,
            /// The reporter's place among the reporters.
            reporter: u16,
            /// On how many subjects it reports.
            entries: u32,
        },
        /// All reports of a window are worked off.
        Tallied {
            /// The session.
            session: u32,
            /// The window of that session.
            window: u32,
            /// How many reports there were.
            reports: u32,
            /// How many subjects the committees came to an outcome about.
            decided: u32,
            /// How many subjects were reported on without that.
            undecided: u32,
        },
    }

    /// Why a report was refused. In the pool and in blocks this is
    /// `InvalidTransaction::Custom(code)`, with the numbers of [`Error::code`].
    #[pallet::error]
    pub enum Error<T> {
        /// No window is running. 1.
        NoWindow,
        /// The report is of another session than the running one. 2.
        OtherSession,
        /// The report is of another window than the running one. 3.
        OtherWindow,
        /// The window is not in its second half. 4.
        NotReporting,
        /// The session has no such reporter. 5.
        UnknownReporter,
        /// The reporter's report of this window is in already. 6.
        AlreadyReported,
        /// The report says nothing. 7.
        NoEntries,
        /// The report has more entries than the window has subjects. 8.
        TooManyEntries,
        /// The entries are not in ascending order of their bindings, or one is named twice. 9.
        Unsorted,
        /// An entry is of a binding that this window does not audit, or that does not exist. 10.
        UnknownSubject,
        /// An entry is of a subject in whose committee the reporter is not. 11.
        NotMember,
        /// An entry counts nothing, or served and missed fetches are more than
        /// [`MAX_COUNT`](crate::MAX_COUNT) together. 12.
        BadCounts,
        /// The signature is none of the reporter's over this report on this chain. 13.
        BadSignature,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Hands in `report`, with the reporter's signature over
        /// [`report_payload`](crate::report_payload).
        ///
        /// It needs no account and costs no fee: whether it is good is known before it runs.
        ///
        /// # Errors
        /// As a transaction, one of [`Error`]; or `ExhaustsResources`, if the block has as many
        /// reports as it may.
        #[pallet::call_index(0)]
        #[pallet::weight((Pallet::<T>::report_weight(report.entries.len() as u32), Pays::No))]
        #[pallet::weight_of_authorize(
            T::WeightInfo::authorize_report(report.entries.len() as u32)
        )]
        #[pallet::authorize(|_source, report, signature| {
            Pallet::<T>::authorize_report(report, signature)
        })]
        pub fn report(
            origin: OriginFor<T>,
            report: Report,
            // Checked when the call was authorised, in this very block.
            _signature: AuthoritySignature,
        ) -> DispatchResult {
            ensure_authorized(origin)?;
            Ok(Self::take(report)?)
        }
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(_: BlockNumberFor<T>) -> Weight {
            Self::begin_block()
        }

        fn on_idle(_: BlockNumberFor<T>, remaining: Weight) -> Weight {
            Self::use_idle(remaining)
        }

        fn integrity_test() {
            assert!(T::MaxReporters::get() <= MAX_BITS, "more reporters than are kept track of");
            assert!(T::DefaultWindowLength::get() >= MIN_LENGTH, "windows are too short");
            assert!(T::MaxReportsPerBlock::get() > 0, "no block takes a report");
        }

        #[cfg(feature = "try-runtime")]
        fn try_state(_: BlockNumberFor<T>) -> Result<(), sp_runtime::TryRuntimeError> {
            Self::check_state()
        }
    }
}
