//! Validation, beside the swarm's task.
//!
//! One task judges all messages. One is enough: what takes long is the signature, 45 us, and only
//! messages that are new come here, so it judges 20,000 a second. And one keeps the order: the messages
//! of an author are delivered in the order in which they came. They go over in a channel and come back in batches, so that under load
//! neither side is woken for each.
//!
//! ```text
//!   driver ── Stage::submit ──▶ bounded channel ──▶ Worker (Judge) ──▶ batches ──▶ driver
//! ```
//!
//! A message is in flight from [`Stage::submit`] until the driver has its verdict; messages and
//! bytes in flight are bounded, and what does not fit is refused there and then.

use super::{
    Config, Message, Topic,
    allowance::Allowances,
    validate::{self, Limits, Reason, Received, Verdict},
};
use crate::{OverlayKey, PeerId, Protocols, Reputation, identity::key_of};
use libp2p::{bytes::Bytes, gossipsub::MessageId};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;

/// Most messages that are judged before the first of their verdicts goes back. At 45 us each nobody
/// waits longer than 3 ms for a batch.
const BATCH: usize = 64;

/// A message to judge.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) topic: Topic,
    /// Who passed it on.
    pub(crate) from: PeerId,
    pub(crate) author: PeerId,
    pub(crate) id: MessageId,
    /// The envelope.
    pub(crate) data: Bytes,
    pub(crate) received: Instant,
}

/// What is to be done with a message.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Deliver and pass on.
    Accept(Message),
    /// Drop, at nobody's cost.
    Ignore(Reason),
    /// Drop, at the cost of who passed it on.
    Reject(Reason),
}

/// A message that was judged. Its envelope stays with it until its bytes count no more.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) job: Job,
    pub(crate) outcome: Outcome,
}

/// The driver's end.
pub(crate) struct Stage {
    /// Holds `max_messages`, so it never refuses what `submit` lets through.
    jobs: mpsc::Sender<Job>,
    verdicts: mpsc::Receiver<Vec<Judged>>,
    max_messages: usize,
    max_bytes: usize,
    messages: usize,
    bytes: usize,
}

/// The other end, which somebody must run.
pub(crate) struct Worker {
    jobs: mpsc::Receiver<Job>,
    verdicts: mpsc::Sender<Vec<Judged>>,
    judge: Judge,
}

/// Makes both ends.
pub(crate) fn stage(
    config: &Config,
    chain: Protocols,
    own: OverlayKey,
    reputation: Arc<dyn Reputation>,
) -> (Stage, Worker) {
    let (sender, jobs) = mpsc::channel(config.validations);
    // A batch holds at least one message in flight, so this never fills either.
    let (verdicts, receiver) = mpsc::channel(config.validations);
    let stage = Stage {
        jobs: sender,
        verdicts: receiver,
        max_messages: config.validations,
        max_bytes: config.validation_bytes,
        messages: 0,
        bytes: 0,
    };
    (stage, Worker { jobs, verdicts, judge: Judge::new(config, chain, own, reputation) })
}

impl Stage {
    /// Takes a message on, or gives it back if as many are in flight as may be.
    pub(crate) fn submit(&mut self, job: Job) -> Result<(), Job> {
        let len = job.data.len();
        if self.messages >= self.max_messages || self.bytes + len > self.max_bytes {
            return Err(job);
        }
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job) => job,
        })?;
        self.messages += 1;
        self.bytes += len;
        Ok(())
    }

    /// The next verdicts; nothing once the worker is gone. Safe to drop at any await.
    pub(crate) async fn verdicts(&mut self) -> Option<Vec<Judged>> {
        let batch = self.verdicts.recv().await?;
        self.messages -= batch.len();
        self.bytes -= batch.iter().map(|judged| judged.job.data.len()).sum::<usize>();
        Some(batch)
    }
}

impl Worker {
    /// Judges until the driver's end is gone.
    pub(crate) async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        while self.jobs.recv_many(&mut jobs, BATCH).await > 0 {
            let (now, now_ms) = (Instant::now(), unix_ms());
            let judged = jobs
                .drain(..)
                .map(|job| Judged { outcome: self.judge.judge(&job, now, now_ms), job })
                .collect();
            if self.verdicts.send(judged).await.is_err() {
                return;
            }
        }
    }
}

/// Milliseconds since the Unix epoch.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Judges messages one by one. Holds no clock.
struct Judge {
    chain: Protocols,
    own: OverlayKey,
    reputation: Arc<dyn Reputation>,
    limits: Limits,
    allowances: Allowances,
}

impl Judge {
    fn new(
        config: &Config,
        chain: Protocols,
        own: OverlayKey,
        reputation: Arc<dyn Reputation>,
    ) -> Self {
        Self {
            chain,
            own,
            reputation,
            limits: Limits {
                max_ttl_ms: millis(config.max_ttl),
                max_skew_ms: millis(config.max_skew),
            },
            allowances: Allowances::new(config),
        }
    }

    fn judge(&mut self, job: &Job, now: Instant, now_ms: u64) -> Outcome {
        let author = key_of(&job.author);
        if author == Some(self.own) {
            return Outcome::Ignore(Reason::OwnMessage);
        }
        let from_author = job.author == job.from;
        let received = Received { topic: job.topic, author, from_author, data: &job.data };
        let verdict =
            validate::judge(received, &self.chain, &*self.reputation, self.limits, now_ms);
        let view = match verdict {
            Verdict::Accept(view) => view,
            Verdict::Ignore(reason) => return Outcome::Ignore(reason),
            Verdict::Reject(reason) => return Outcome::Reject(reason),
        };
        // Without a key it has been rejected.
        let Some(author_key) = author else { return Outcome::Reject(Reason::AuthorKeyType) };
        let unbound = self.reputation.standing(&author_key).is_none();
        if unbound && !self.allowances.take(author_key, job.topic, view.payload.len(), now) {
            return Outcome::Ignore(Reason::Allowance);
        }
        Outcome::Accept(Message {
            topic: job.topic,
            author: job.author,
            author_key,
            created_ms: view.created_ms,
            payload: job.data.slice_ref(view.payload),
        })
    }
}

/// A duration as envelopes carry it.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Identity, Standing,
        gossip::Envelope,
        testnet::{GENESIS, StaticReputation},
    };

    const NOW: u64 = 1_800_000_000_000;

    fn identity(author: u8) -> Identity {
        Identity::from_secret([author; 32]).unwrap()
    }

    fn key(author: u8) -> OverlayKey {
        identity(author).key()
    }

    fn job(author: u8, data: Vec<u8>) -> Job {
        let author = identity(author).peer_id();
        Job {
            topic: Topic::Tasks,
            from: author,
            author,
            id: MessageId::new(b"id"),
            data: data.into(),
            received: Instant::now(),
        }
    }

    fn sealed(author: u8, payload: Vec<u8>, created_ms: u64, ttl_ms: u32) -> Job {
        let envelope = Envelope::new(payload, created_ms, ttl_ms);
        let chain = Protocols::new(&GENESIS);
        let topic = Topic::Tasks.name();
        job(author, envelope.sealed(&chain, topic, identity(author).keypair()).unwrap())
    }

    fn envelope(author: u8, n: u32) -> Job {
        sealed(author, n.to_be_bytes().to_vec(), NOW, 1000)
    }

    /// One that is valid by the clock, for the worker reads it.
    fn of_now(n: u32) -> Job {
        sealed(1, n.to_be_bytes().to_vec(), unix_ms(), 60_000)
    }

    fn judge(config: &Config, chain: &Arc<StaticReputation>) -> Judge {
        Judge::new(config, Protocols::new(&GENESIS), key(9), chain.clone())
    }

    fn reason(outcome: Outcome) -> Option<Reason> {
        match outcome {
            Outcome::Accept(_) => None,
            Outcome::Ignore(reason) | Outcome::Reject(reason) => Some(reason),
        }
    }

    #[test]
    fn unbound_authors_have_an_allowance_and_bound_ones_need_none() {
        let chain = Arc::new(StaticReputation::default());
        let config = Config { unbound_messages: 1, ..Config::default() };
        let mut judge = judge(&config, &chain);
        let now = Instant::now();
        let mut accepted = |author| {
            (0..20)
                .filter(|n| reason(judge.judge(&envelope(author, *n), now, NOW)).is_none())
                .count()
        };
        assert_eq!(accepted(1), 16);
        chain.set(key(2), Some(Standing::NEUTRAL));
        assert_eq!(accepted(2), 20);
        let beyond = judge.judge(&envelope(1, 100), now, NOW);
        assert!(matches!(beyond, Outcome::Ignore(Reason::Allowance)), "{beyond:?}");
    }

    #[test]
    fn what_was_changed_on_the_way_is_the_senders_fault_and_own_messages_are_nobodys() {
        let mut judge =
            judge(&Config { unbound_messages: 1, ..Config::default() }, &Arc::default());
        let now = Instant::now();
        let forged = |n| Job { author: identity(1).peer_id(), ..envelope(2, n) };
        for n in 0..100 {
            let outcome = judge.judge(&forged(n), now, NOW);
            assert!(matches!(outcome, Outcome::Reject(Reason::WronglySigned)), "{outcome:?}");
        }
        let outcome = judge.judge(&envelope(1, 1), now, NOW);
        assert!(matches!(outcome, Outcome::Accept(_)), "nobody uses up another's allowance");
        let own = judge.judge(&envelope(9, 1), now, NOW);
        assert!(matches!(own, Outcome::Ignore(Reason::OwnMessage)), "{own:?}");
    }

    #[test]
    fn a_payload_is_a_part_of_the_message_and_no_copy() {
        let mut judge = judge(&Config::default(), &Arc::default());
        let job = sealed(1, vec![7; 1000], NOW, 1000);
        let Outcome::Accept(message) = judge.judge(&job, Instant::now(), NOW) else { panic!() };
        assert_eq!(message.payload, [7; 1000][..]);
        assert!(job.data.as_ptr_range().contains(&message.payload.as_ptr()));
    }

    #[tokio::test]
    async fn messages_and_bytes_in_flight_are_bounded_and_order_is_kept() {
        let config = Config { validations: 8, validation_bytes: 1000, ..Config::default() };
        let chain = Protocols::new(&GENESIS);
        let (mut stage, worker) = stage(&config, chain, key(9), Arc::<StaticReputation>::default());
        for n in 0..8 {
            stage.submit(of_now(n)).unwrap();
        }
        assert!(stage.submit(of_now(8)).is_err(), "messages");
        let worker = tokio::spawn(worker.run());
        let mut seen = Vec::new();
        while seen.len() < 8 {
            for judged in stage.verdicts().await.unwrap() {
                let Outcome::Accept(message) = judged.outcome else { panic!() };
                seen.push(u32::from_be_bytes(message.payload[..].try_into().unwrap()));
            }
        }
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        assert_eq!((stage.messages, stage.bytes), (0, 0));
        stage.submit(job(1, vec![0; 600])).unwrap();
        assert!(stage.submit(job(1, vec![0; 600])).is_err(), "bytes");
        drop(stage);
        worker.await.unwrap();
    }
}
