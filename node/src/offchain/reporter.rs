//! The way by which facts go up to the chain, and the only one: what this node saw peers do, summed,
//! signed with the session key, handed to the transaction pool.
//!
//! A report costs no fee and needs no account. The chain takes one of each reporter and window, so
//! handing in the same one again is harmless.

use std::sync::Arc;

use nsn_runtime::{Hash, opaque::Block};
use pallet_audits_runtime_api::{AuditsApi, Report, report_payload};
use prometheus_endpoint::{CounterVec, Opts, PrometheusError, Registry, U64, register};
use sc_transaction_pool_api::{
    TransactionPool, TransactionSource,
    error::{Error as PoolError, IntoPoolError},
};
use sp_api::{ApiError, ProvideRuntimeApi};
use sp_core::{crypto::key_types::IM_ONLINE, sr25519};
use sp_keystore::{Keystore as _, KeystorePtr};
use sp_runtime::transaction_validity::InvalidTransaction;

pub(super) use pallet_audits::reporter::sr25519::{
    AuthorityId as ReporterId, AuthoritySignature as ReporterSignature,
};

/// What the reporter counts.
#[derive(Clone)]
pub(super) struct Metrics {
    reports: CounterVec<U64>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is already taken in `registry`.
    pub(super) fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        let reports = Opts::new(
            "nsn_audit_reports_total",
            "Reports handed to the transaction pool, or not, by what came of it",
        );
        Ok(Self { reports: register(CounterVec::new(reports, &["outcome"])?, registry)? })
    }
}

/// Why a report is not in the pool.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The key is not in the keystore any more.
    #[error("the keystore does not hold the session key")]
    NoKey,
    /// The keystore failed.
    #[error("the keystore cannot sign: {0}")]
    Keystore(#[from] sp_keystore::Error),
    /// The transaction could not be built.
    #[error("the runtime did not build the report's transaction: {0}")]
    Runtime(#[from] ApiError),
    /// The pool did not take it.
    #[error("the transaction pool refuses it: {0}")]
    Pool(PoolError),
    /// The pool failed otherwise.
    #[error("the transaction pool failed: {0}")]
    Other(String),
}

impl Error {
    /// The metric label.
    fn label(&self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Keystore(_) => "keystore",
            Self::Runtime(_) => "runtime",
            Self::Pool(error) => match error {
                PoolError::AlreadyImported(_) => "waiting",
                PoolError::TemporarilyBanned => "banned",
                PoolError::ImmediatelyDropped => "pool_full",
                PoolError::InvalidTransaction(InvalidTransaction::Custom(code)) => refusal(*code),
                PoolError::InvalidTransaction(InvalidTransaction::ExhaustsResources) => {
                    "block_full"
                }
                PoolError::InvalidTransaction(_) => "invalid",
                _ => "pool",
            },
            Self::Other(_) => "pool",
        }
    }

    /// Whether it is on its way, or there already.
    fn is_harmless(&self) -> bool {
        matches!(self.label(), "waiting" | "already_reported")
    }
}

/// The name of the pallet's error with this number: `pallet_audits::Error::code`.
const fn refusal(code: u8) -> &'static str {
    match code {
        1 => "no_window",
        2 => "other_session",
        3 => "other_window",
        4 => "not_reporting",
        5 => "unknown_reporter",
        6 => "already_reported",
        7 => "no_entries",
        8 => "too_many_entries",
        9 => "unsorted",
        10 => "unknown_subject",
        11 => "not_member",
        12 => "bad_counts",
        13 => "bad_signature",
        _ => "invalid",
    }
}

/// Signs and submits.
pub(super) struct Reporter<C, P> {
    pub(super) client: Arc<C>,
    pub(super) pool: Arc<P>,
    pub(super) keystore: KeystorePtr,
    /// Hash of block 0, which is signed with every report.
    pub(super) genesis: [u8; 32],
    pub(super) metrics: Metrics,
}

impl<C, P> Reporter<C, P>
where
    C: ProvideRuntimeApi<Block> + Send + Sync + 'static,
    C::Api: AuditsApi<Block, ReporterId, ReporterSignature>,
    P: TransactionPool<Block = Block> + 'static,
{
    /// The keys that this node could sign reports with.
    pub(super) fn keys(&self) -> Vec<sr25519::Public> {
        self.keystore.sr25519_public_keys(IM_ONLINE)
    }

    /// Signs `report` with `key` and puts it into the pool, by the state of the block `at`. What came
    /// of that is counted by reason.
    pub(super) async fn report(self: Arc<Self>, at: Hash, key: sr25519::Public, report: Report) {
        let (session, window, subjects) = (report.session, report.window, report.entries.len());
        let outcome = match self.clone().submit(at, key, report).await {
            Ok(()) => {
                tracing::debug!(
                    target: "nsn::audit", session, window, subjects, "report handed in"
                );
                "submitted"
            }
            Err(error) => {
                if !error.is_harmless() {
                    tracing::warn!(
                        target: "nsn::audit",
                        session,
                        window,
                        "the report on {subjects} peers was not handed in: {error}"
                    );
                }
                error.label()
            }
        };
        self.metrics.reports.with_label_values(&[outcome]).inc();
    }

    async fn submit(
        self: Arc<Self>,
        at: Hash,
        key: sr25519::Public,
        report: Report,
    ) -> Result<(), Error> {
        // Signing may read a file, and the runtime is called: some milliseconds.
        let this = self.clone();
        let built = tokio::task::spawn_blocking(move || this.transaction(at, key, report)).await;
        let transaction = built.map_err(|error| Error::Other(error.to_string()))??;
        match self.pool.submit_one(at, TransactionSource::Local, transaction).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.into_pool_error() {
                Ok(error) => Error::Pool(error),
                Err(error) => Error::Other(error.to_string()),
            }),
        }
    }

    fn transaction(
        &self,
        at: Hash,
        key: sr25519::Public,
        report: Report,
    ) -> Result<nsn_runtime::opaque::UncheckedExtrinsic, Error> {
        let Report { session, window, entries, .. } = &report;
        let payload = report_payload(&self.genesis, *session, *window, entries);
        let signature = self.keystore.sr25519_sign(IM_ONLINE, &key, &payload)?;
        let signature = signature.ok_or(Error::NoKey)?;
        Ok(self.client.runtime_api().report_extrinsic(at, report, signature.into())?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nsn_runtime::Runtime;
    use pallet_audits::Error as Refused;

    use super::*;

    #[test]
    fn refusals_are_named_as_the_pallet_numbers_them() {
        let named = [
            (Refused::<Runtime>::NoWindow, "no_window"),
            (Refused::OtherSession, "other_session"),
            (Refused::OtherWindow, "other_window"),
            (Refused::NotReporting, "not_reporting"),
            (Refused::UnknownReporter, "unknown_reporter"),
            (Refused::AlreadyReported, "already_reported"),
            (Refused::NoEntries, "no_entries"),
            (Refused::TooManyEntries, "too_many_entries"),
            (Refused::Unsorted, "unsorted"),
            (Refused::UnknownSubject, "unknown_subject"),
            (Refused::NotMember, "not_member"),
            (Refused::BadCounts, "bad_counts"),
            (Refused::BadSignature, "bad_signature"),
        ];
        let mut labels = HashSet::new();
        for (error, label) in named {
            let invalid = InvalidTransaction::Custom(error.code());
            assert_eq!(Error::Pool(PoolError::InvalidTransaction(invalid)).label(), label);
            assert!(labels.insert(label));
        }
    }
}
