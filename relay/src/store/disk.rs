//! Disk work on blocking threads, a bounded number at a time.

use crate::metrics::Metrics;
use std::{io, sync::Arc, time::Instant};
use tokio::sync::Semaphore;

/// Runs disk operations. Cloning gives another handle to the same bound.
#[derive(Clone)]
pub struct Disk {
    permits: Arc<Semaphore>,
    metrics: Metrics,
    /// Operations run where they are asked for, for tests that choose their order.
    #[cfg(test)]
    stepping: bool,
}

impl Disk {
    /// At most `parallel` operations at a time, and never less than one.
    pub fn new(parallel: usize, metrics: Metrics) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(parallel.max(1))),
            metrics,
            #[cfg(test)]
            stepping: false,
        }
    }

    /// One that runs each operation where it is asked for, and gives the turn away before and after.
    #[cfg(test)]
    pub(crate) fn stepping(metrics: Metrics) -> Self {
        Self { stepping: true, ..Self::new(1, metrics) }
    }

    /// What it counts.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Runs `work` on a blocking thread and waits for it. When the caller goes away, `work` still
    /// runs to its end and keeps its place until then.
    ///
    /// # Errors
    /// When `work` panicked or the runtime is going down.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        #[cfg(test)]
        if self.stepping {
            tests::give_turn_away().await;
            let done = work();
            tests::give_turn_away().await;
            return Ok(done);
        }
        let asked = Instant::now();
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
        self.metrics.disk_wait_seconds.observe(asked.elapsed().as_secs_f64());
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, sync::mpsc, task::Poll};

    /// Ends when it is asked for the second time, whoever asks.
    pub(super) async fn give_turn_away() {
        let mut given = false;
        poll_fn(|context| {
            if std::mem::replace(&mut given, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn the_wait_is_measured_when_the_turn_comes_and_not_when_the_work_is_done() {
        let metrics = Metrics::unregistered();
        let disk = Disk::new(1, metrics.clone());
        let measured = metrics.clone();
        let at_work =
            disk.run(move || measured.disk_wait_seconds.get_sample_count()).await.unwrap();
        assert_eq!(at_work, 1);

        let (let_go, wait) = mpsc::channel::<()>();
        let first = disk.run(move || wait.recv());
        let second = disk.run(|| ());
        let waits = async {
            // Joined in order: the first has its turn by now, and the second waits.
            assert_eq!(metrics.disk_wait_seconds.get_sample_count(), 2);
            let_go.send(()).unwrap();
        };
        let (_, done, ()) = tokio::join!(first, second, waits);
        done.unwrap();
        assert_eq!(metrics.disk_wait_seconds.get_sample_count(), 3);
    }
}
