//! Publishing: from a file in the inbox to stored, named in the directory, announced.
//!
//! Owns the list of publications under way (at most [`MAX_RUNNING`], some 100 bytes each).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nsn_relay::{
    Progress, Relay,
    content::publish::{PublishError, Request},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    announcer::Announcer,
    inbox::{self, Inbox},
    supervisor::Slot,
};

/// Publications that are followed at the same time; the shard service works on fewer of them.
const MAX_RUNNING: usize = 8;

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The ContentId, 64 hexadecimal digits: what viewers ask for.
    pub content_id: String,
    /// Media type.
    pub media_type: String,
    /// Bytes.
    pub total_len: u64,
    /// Number of shards.
    pub shards: u32,
    /// Whether the overlay was told; when not (no peers yet), the directory still names it.
    pub announced: bool,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shard service is off or restarting.
    #[error(
        "this node keeps no published content: start it with --super-node (if it was, the shard \
         service is restarting, and the log says why)"
    )]
    NotRunning,
    /// Too many at once.
    #[error("{MAX_RUNNING} publications are under way already: try again when one is done")]
    Busy,
    /// This file is being published.
    #[error("{0:?} is being published already")]
    Running(String),
    /// The file.
    #[error(transparent)]
    Inbox(#[from] inbox::Error),
    /// Storing it.
    #[error("publishing {name:?} failed: {source}")]
    Store {
        /// The file.
        name: String,
        /// What went wrong.
        source: PublishError,
    },
    /// The task that published ended early: the node is shutting down.
    #[error("the node is shutting down; publish the file again when it is back")]
    Stopped,
}

type Jobs = HashMap<String, watch::Receiver<Progress>>;

/// Publishes files of the inbox.
#[derive(Clone)]
pub struct Publisher {
    inbox: Inbox,
    relay: Slot<Relay>,
    announcer: Announcer,
    runtime: tokio::runtime::Handle,
    jobs: Arc<Mutex<Jobs>>,
}

impl Publisher {
    /// A publisher that works on `runtime`, the off-chain services' own.
    pub(super) fn new(
        inbox: Inbox,
        relay: Slot<Relay>,
        announcer: Announcer,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { inbox, relay, announcer, runtime, jobs: Arc::default() }
    }

    /// Where files are taken from.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// How far the publication of `name` is, if one is under way.
    pub fn progress(&self, name: &str) -> Option<Progress> {
        lock(&self.jobs).get(name).map(|progress| *progress.borrow())
    }

    /// Publishes the file `name` of the inbox. Goes on to its end on the services' own threads even
    /// if the caller goes away.
    ///
    /// # Errors
    /// See [`enum@Error`]; what was stored before the error stays and is found again by a second try.
    pub async fn publish(
        &self,
        name: &str,
        media_type: Option<String>,
    ) -> Result<Published, Error> {
        let relay = self.relay.current().ok_or(Error::NotRunning)?;
        let path = self.inbox.find(name)?;
        let (sender, receiver) = watch::channel(Progress::START);
        let job = Job::enter(&self.jobs, name, receiver)?;
        let announcer = self.announcer.clone();
        let name = name.to_owned();
        let task = self.runtime.spawn(async move {
            let _job = job;
            let published = relay
                .publish(Request { path, media_type }, sender)
                .await
                .map_err(|source| Error::Store { name: name.clone(), source })?;
            let (id, total_len, shards) =
                (published.content_id, published.total_len, published.shards);
            let announced = announcer.announce(id, total_len, shards).await;
            tracing::info!(
                target: "nsn::content",
                "published {name:?} as {} ({} bytes, {} shards)",
                published.content_id, published.total_len, published.shards
            );
            Ok(Published {
                content_id: published.content_id.to_string(),
                media_type: published.media_type,
                total_len: published.total_len,
                shards: published.shards,
                announced,
            })
        });
        task.await.unwrap_or(Err(Error::Stopped))
    }
}

/// An entry in the list of publications; leaves it when dropped.
struct Job {
    jobs: Arc<Mutex<Jobs>>,
    name: String,
}

impl Job {
    fn enter(
        jobs: &Arc<Mutex<Jobs>>,
        name: &str,
        progress: watch::Receiver<Progress>,
    ) -> Result<Self, Error> {
        let mut running = lock(jobs);
        if running.contains_key(name) {
            return Err(Error::Running(name.to_owned()));
        }
        if running.len() >= MAX_RUNNING {
            return Err(Error::Busy);
        }
        running.insert(name.to_owned(), progress);
        Ok(Self { jobs: jobs.clone(), name: name.to_owned() })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        lock(&self.jobs).remove(&self.name);
    }
}

/// The list is right after a panic too: each change is one call.
fn lock(jobs: &Mutex<Jobs>) -> MutexGuard<'_, Jobs> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_published_once_at_a_time_and_only_so_many_at_once() {
        let jobs = Arc::default();
        let (_sender, progress) = watch::channel(Progress::START);
        let mut held: Vec<Job> = (0..MAX_RUNNING)
            .map(|n| Job::enter(&jobs, &n.to_string(), progress.clone()).unwrap())
            .collect();
        assert!(matches!(Job::enter(&jobs, "0", progress.clone()), Err(Error::Running(_))));
        assert!(matches!(Job::enter(&jobs, "new", progress.clone()), Err(Error::Busy)));
        held.pop();
        assert!(Job::enter(&jobs, "new", progress).is_ok());
    }
}
