//! The off-chain services' own tokio runtime, on threads of their own.
//!
//! Two reasons. A validator's consensus tasks must not wait behind video. And Substrate's panic hook
//! ends the process for a panic on any thread, except on one that has said otherwise: every thread
//! here has, so a panic unwinds into its task's `JoinError` and the supervisor decides.
//!
//! Shutdown: [`Guard`] is kept alive by the task manager. When the node stops, the guard is dropped,
//! tells the services to drain and waits for them, at most the drain limit.

use std::{
    future::Future,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// How long after the drain limit the runtime may take to drop what ignored it.
const GRACE: Duration = Duration::from_secs(5);

/// Why the runtime could not start.
#[derive(Debug, thiserror::Error)]
#[error("the threads of the off-chain services could not be started: {0}")]
pub struct StartError(#[from] std::io::Error);

/// Stops the services when dropped, and waits until they have drained.
pub(super) struct Guard {
    shutdown: CancellationToken,
    finished: Receiver<()>,
    limit: Duration,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shutdown.cancel();
        match self.finished.recv_timeout(self.limit + GRACE) {
            // Disconnected: the thread ended without a word, so there is nothing to wait for.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => tracing::warn!(
                target: "nsn::services",
                "off-chain services did not stop within {:?}; leaving them behind",
                self.limit + GRACE
            ),
        }
    }
}

/// The services' threads, not yet running anything.
pub(super) struct Threads(tokio::runtime::Runtime);

impl Threads {
    /// Starts `count` worker threads.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub(super) fn new(count: usize) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(count.max(1))
            .thread_name("nsn-services")
            .enable_all()
            .on_thread_start(never_abort)
            .build()?;
        Ok(Self(runtime))
    }

    /// For what others want done on these threads.
    pub(super) fn handle(&self) -> tokio::runtime::Handle {
        self.0.handle().clone()
    }

    /// Runs `services` to its end. It must end soon after `shutdown` is cancelled; it is dropped
    /// `limit` after that at the latest.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn run(
        self,
        limit: Duration,
        shutdown: CancellationToken,
        services: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Guard, StartError> {
        let runtime = self.0;
        let (done, finished) = channel();
        let stop = shutdown.clone();
        std::thread::Builder::new().name("nsn-services-main".into()).spawn(move || {
            never_abort();
            runtime.block_on(async {
                let overdue = async {
                    stop.cancelled().await;
                    tokio::time::sleep(limit).await;
                };
                tokio::select! {
                    () = services => {}
                    () = overdue => tracing::warn!(
                        target: "nsn::services",
                        "draining took longer than {limit:?}; stopping what is left"
                    ),
                }
            });
            runtime.shutdown_timeout(GRACE);
            // The receiver is gone only when the guard gave up waiting.
            let _ = done.send(());
        })?;
        Ok(Guard { shutdown, finished, limit })
    }
}

/// Marks this thread as one whose panics never end the process.
fn never_abort() {
    // The mark lasts as long as its guard; this thread's mark is to last as long as the thread.
    std::mem::forget(sp_panic_handler::AbortGuard::never_abort());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Instant,
    };

    #[test]
    fn dropping_the_guard_waits_for_the_drain() {
        let shutdown = CancellationToken::new();
        let drained = Arc::new(AtomicBool::new(false));
        let (token, flag) = (shutdown.clone(), drained.clone());
        let services = async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            flag.store(true, Ordering::SeqCst);
        };
        let threads = Threads::new(1).unwrap();
        let guard = threads.run(Duration::from_secs(10), shutdown, services).unwrap();
        drop(guard);
        assert!(drained.load(Ordering::SeqCst));
    }

    #[test]
    fn a_service_that_never_drains_is_left_at_the_limit() {
        let start_at = Instant::now();
        let guard = Threads::new(1)
            .unwrap()
            .run(Duration::from_millis(50), CancellationToken::new(), std::future::pending())
            .unwrap();
        drop(guard);
        assert!(start_at.elapsed() < GRACE);
    }
}
