//! Keeps one service running: builds it, runs it, and after a panic or an error builds it anew, with
//! growing pauses. What it never does is take the chain down, unless the operator asked for that.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, pin::Pin, time::Duration};

use prometheus_endpoint::{CounterVec, GaugeVec, Opts, PrometheusError, Registry, U64, register};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::config::ServiceFailure;

/// Default of [`Policy::first_pause`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A run that lasted this long counts as healthy: the next failure pauses the first length again.
const HEALTHY: Duration = Duration::from_secs(120);

/// Where a running service's handle is found; empty while the service is down.
pub struct Slot<H>(watch::Sender<Option<H>>);

impl<H> Clone for Slot<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H: Clone> Slot<H> {
    /// An empty slot.
    pub fn empty() -> Self {
        Self(watch::channel(None).0)
    }

    /// The handle, if the service runs.
    pub fn current(&self) -> Option<H> {
        self.0.borrow().clone()
    }

    /// Wakes whenever the service starts or stops.
    pub fn watch(&self) -> watch::Receiver<Option<H>> {
        self.0.subscribe()
    }

    /// Fills or empties the slot.
    pub(super) fn set(&self, handle: Option<H>) {
        self.0.send_replace(handle);
    }
}

/// A service's driver, running.
pub(super) type Running = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
/// Any error of any service.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Supervisor metrics, `nsn_service_*`.
#[derive(Clone)]
pub(super) struct Metrics {
    up: GaugeVec<U64>,
    failures: CounterVec<U64>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is already taken in `registry`.
    pub(super) fn register(registry: &Registry) -> Result<Self, PrometheusError> {
        let up = GaugeVec::new(
            Opts::new("nsn_service_up", "1 while the off-chain service runs"),
            &["service"],
        )?;
        let failures = CounterVec::new(
            Opts::new(
                "nsn_service_failures_total",
                "Ends of an off-chain service that nobody asked for",
            ),
            &["service", "reason"],
        )?;
        Ok(Self { up: register(up, registry)?, failures: register(failures, registry)? })
    }
}

/// How a supervised service is kept.
#[derive(Clone)]
pub(super) struct Policy {
    /// Whether a failure is survived or ends the node.
    pub(super) on_failure: ServiceFailure,
    /// Told once when `on_failure` says that the node must end.
    pub(super) fatal: CancellationToken,
    /// Where failures are counted.
    pub(super) metrics: Metrics,
    /// Pause after the first failure; it doubles with each further one, up to [`LONGEST_PAUSE`].
    pub(super) first_pause: Duration,
}

/// The pause after `failures` failures in a row.
fn pause(first: Duration, failures: u32) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE)
}

/// Runs the service `name` until `shutdown`. `build` makes the handle and the future of its driver;
/// `slot` holds the handle while the driver runs.
pub(super) async fn supervise<H: Clone>(
    name: &'static str,
    policy: Policy,
    slot: Slot<H>,
    shutdown: CancellationToken,
    mut build: impl FnMut(CancellationToken) -> Result<(H, Running), BoxError>,
) {
    let mut failures = 0_u32;
    while !shutdown.is_cancelled() {
        let started = Instant::now();
        let built = std::panic::catch_unwind(AssertUnwindSafe(|| build(shutdown.clone())));
        let outcome = match built {
            Err(panic) => Failure::Panic(panic_text(&*panic)),
            Ok(Err(error)) => Failure::Error(error),
            Ok(Ok((handle, running))) => {
                // A task of its own, so that its panic is caught and its memory is its own.
                let task = tokio::spawn(running);
                let _abort_if_dropped = AbortOnDrop(task.abort_handle());
                slot.set(Some(handle));
                set_up(&policy, name, 1);
                let end = task.await;
                slot.set(None);
                set_up(&policy, name, 0);
                match end {
                    Ok(Ok(())) if shutdown.is_cancelled() => return,
                    Ok(Ok(())) => Failure::Ended,
                    Ok(Err(error)) => Failure::Error(error),
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => Failure::Panic(panic_text(&*panic)),
                        Err(_cancelled) => return,
                    },
                }
            }
        };
        if shutdown.is_cancelled() {
            return;
        }
        failures = if started.elapsed() >= HEALTHY { 1 } else { failures.saturating_add(1) };
        policy.metrics.failures.with_label_values(&[name, outcome.label()]).inc();
        if policy.on_failure == ServiceFailure::Exit {
            tracing::error!(
                target: "nsn::services",
                "{name}: {outcome}. Ending the node, as --service-failure=exit asks."
            );
            policy.fatal.cancel();
            return;
        }
        let pause = pause(policy.first_pause, failures);
        tracing::error!(
            target: "nsn::services",
            "{name}: {outcome}. The chain goes on; starting the service again in {pause:?}."
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Ends the driver when the supervisor itself is dropped (at the drain limit).
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn set_up(policy: &Policy, name: &str, up: u64) {
    policy.metrics.up.with_label_values(&[name]).set(up);
}

/// How a service ended when it should not have.
enum Failure {
    Ended,
    Error(BoxError),
    Panic(String),
}

impl Failure {
    const fn label(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Error(_) => "error",
            Self::Panic(_) => "panic",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended => f.write_str("ended by itself"),
            Self::Error(error) => write!(f, "{error}"),
            Self::Panic(text) => write!(f, "panicked: {text}"),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no text)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    fn policy(on_failure: ServiceFailure) -> Policy {
        Policy {
            on_failure,
            fatal: CancellationToken::new(),
            metrics: Metrics::register(&Registry::new()).unwrap(),
            first_pause: Duration::from_millis(1),
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let seconds: Vec<u64> = (1..=8).map(|n| pause(FIRST_PAUSE, n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(FIRST_PAUSE, u32::MAX), LONGEST_PAUSE);
    }

    #[tokio::test]
    async fn a_panic_is_survived_and_the_service_comes_back() {
        let starts = Arc::new(AtomicU32::new(0));
        let slot = Slot::<u32>::empty();
        let mut seen = slot.watch();
        let shutdown = CancellationToken::new();
        let counter = starts.clone();
        let supervisor = tokio::spawn(supervise(
            "test",
            policy(ServiceFailure::Degrade),
            slot.clone(),
            shutdown.clone(),
            move |token| {
                let start = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let running: Running = Box::pin(async move {
                    assert!(start > 2, "boom {start}");
                    token.cancelled().await;
                    Ok(())
                });
                Ok((start, running))
            },
        ));
        seen.wait_for(|handle| *handle == Some(3)).await.unwrap();
        shutdown.cancel();
        supervisor.await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert_eq!(slot.current(), None);
    }

    #[tokio::test]
    async fn exit_policy_reports_a_fatal_failure_once() {
        let policy = policy(ServiceFailure::Exit);
        let fatal = policy.fatal.clone();
        supervise("test", policy, Slot::<()>::empty(), CancellationToken::new(), |_| {
            Err("no such thing".into())
        })
        .await;
        assert!(fatal.is_cancelled());
    }
}
