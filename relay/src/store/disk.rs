//! Disk work on blocking threads, a bounded number at a time.

use crate::metrics::Metrics;
use std::{io, sync::Arc, time::Instant};
use tokio::sync::Semaphore;

/// Runs disk operations. Cloning gives another handle to the same bound.
#[derive(Clone)]
pub struct Disk {
    permits: Arc<Semaphore>,
    metrics: Metrics,
}

impl Disk {
    /// At most `parallel` operations at a time, and never less than one.
    pub fn new(parallel: usize, metrics: Metrics) -> Self {
        Self { permits: Arc::new(Semaphore::new(parallel.max(1))), metrics }
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
        let asked = Instant::now();
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
        let result = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(io::Error::other);
        self.metrics.disk_wait_seconds.observe(asked.elapsed().as_secs_f64());
        result
    }
}
