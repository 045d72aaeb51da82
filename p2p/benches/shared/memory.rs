//! Bytes that live, as the allocator counts them: jemalloc, which the node runs on too. It counts by
//! thread, so that counting costs nothing where two cores allocate at once; one that adds to a common
//! number with each allocation took a tenth of them.

use crate::Failure;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tikv_jemalloc_ctl::{epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How often a [`Peak`] looks.
const EVERY: Duration = Duration::from_millis(20);

/// Bytes that live now.
pub(crate) fn live() -> Result<usize, Failure> {
    epoch::advance().map_err(|error| error.to_string())?;
    Ok(stats::allocated::read().map_err(|error| error.to_string())?)
}

/// The most bytes that lived at a time since it began, looked at every 20 ms.
pub(crate) struct Peak(Arc<AtomicUsize>);

impl Peak {
    /// Begins to look, until it is dropped.
    pub(crate) fn begin() -> Result<Self, Failure> {
        let most = Arc::new(AtomicUsize::new(live()?));
        let seen = Arc::downgrade(&most);
        thread::Builder::new().name("memory".into()).spawn(move || look(&seen))?;
        Ok(Self(most))
    }

    /// The most so far.
    pub(crate) fn most(&self) -> Result<usize, Failure> {
        self.0.fetch_max(live()?, Relaxed);
        Ok(self.0.load(Relaxed))
    }
}

fn look(most: &Weak<AtomicUsize>) {
    while let Some(most) = most.upgrade() {
        if let Ok(live) = live() {
            most.fetch_max(live, Relaxed);
        }
        drop(most);
        thread::sleep(EVERY);
    }
}
