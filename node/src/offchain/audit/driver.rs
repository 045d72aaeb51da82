//! Goes from block to block: asks for the duty, carries the plan out, hands the report in.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nsn_p2p::OverlayKey;
use nsn_runtime::Hash;
use pallet_audits_runtime_api::{Duty, Report};
use rand::Rng as _;
use sp_core::sr25519;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Metrics,
    catalogue::Catalogue,
    memory::Memory,
    plan::{Answer, Blob, Limits, Plan, Probe, Step},
    window::{Outcome, Todo, Window},
};
use crate::offchain::{chain_view::BlockRef, supervisor::BoxError};

/// What the auditor asks of the chain, and tells it.
pub(super) trait Chain: Send + Sync + 'static {
    /// The reporters' keys that this node can sign with. Looks at the disk.
    fn keys(&self) -> Vec<sr25519::Public>;

    /// What `key` has to do, by the state of the block `at`. A runtime call: some milliseconds.
    ///
    /// # Errors
    /// When the state or the runtime API is not there.
    fn duty(&self, at: Hash, key: &sr25519::Public) -> Result<Option<Duty>, BoxError>;

    /// Hands in a report. What comes of it, the chain tells in a later duty.
    fn report(
        &self,
        at: Hash,
        key: sr25519::Public,
        report: Report,
    ) -> impl Future<Output = ()> + Send;

    /// Whether the node is still catching up with the chain, and the blocks it imports are history.
    fn is_catching_up(&self) -> bool;
}

/// What the auditor asks of the network.
pub(super) trait Net: Clone + Send + 'static {
    /// Who provides a blob, by the directory; `None` if that could not be told.
    fn lookup(&self, blob: Blob) -> impl Future<Output = Option<Vec<OverlayKey>>> + Send;

    /// Asks a subject for a part of what it claims.
    fn probe(&self, probe: Probe) -> impl Future<Output = Probed> + Send;
}

/// What a probe came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probed {
    pub(super) answer: Answer,
    /// Whether the subject's service record says that it is a super-node.
    pub(super) super_node: bool,
    /// From the first packet to the last byte.
    pub(super) took: Duration,
}

/// Something that was under way is over.
enum Event {
    LookedUp(Blob, Option<Vec<OverlayKey>>),
    Probed(Probe, Probed),
}

/// A window, and the work on it.
struct Open {
    window: Window,
    key: sr25519::Public,
    plan: Plan,
    began: Instant,
    /// Whether probes are still made.
    auditing: bool,
}

/// Audits until it is told to stop.
pub(super) struct Driver<C, N> {
    config: Config,
    /// The time between blocks.
    slot: Duration,
    chain: Arc<C>,
    net: N,
    heads: watch::Receiver<BlockRef>,
    catalogue: Arc<Mutex<Catalogue>>,
    /// Where what is known outlives the node.
    memory: Memory,
    /// This node's own overlay key, which it does not audit.
    own: OverlayKey,
    metrics: Metrics,
    open: Option<Open>,
    /// Lookups and probes: `config.parallel`, so at most that many connections.
    tasks: JoinSet<Event>,
}

impl<C: Chain, N: Net> Driver<C, N> {
    #[allow(
        clippy::too_many_arguments,
        reason = "each once, by its name, in the one place that builds it"
    )]
    pub(super) fn new(
        config: Config,
        slot: Duration,
        chain: Arc<C>,
        net: N,
        heads: watch::Receiver<BlockRef>,
        catalogue: Arc<Mutex<Catalogue>>,
        memory: Memory,
        own: OverlayKey,
        metrics: Metrics,
    ) -> Self {
        let tasks = JoinSet::new();
        Self { config, slot, chain, net, heads, catalogue, memory, own, metrics, open: None, tasks }
    }

    /// Runs until `shutdown`, or until nobody tells of blocks any more.
    ///
    /// # Errors
    /// When a probe or lookup panicked.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), BoxError> {
        // The window that is going on at the start counts.
        self.heads.mark_changed();
        loop {
            let wake = self.carry_on();
            // In this order: what was answered before a block came still counts in its window.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = self.tasks.join_next() => self.on_done(done?),
                changed = self.heads.changed() => match changed {
                    Ok(()) => self.on_head().await,
                    Err(_) => return Ok(()),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Starts what is to be started now; when there may be more.
    fn carry_on(&mut self) -> Option<Instant> {
        let open = self.open.as_mut().filter(|open| open.auditing)?;
        loop {
            match open.plan.next(open.began.elapsed()) {
                Step::Lookup(blob) => {
                    let net = self.net.clone();
                    self.tasks.spawn(async move { Event::LookedUp(blob, net.lookup(blob).await) });
                }
                Step::Probe(probe) => {
                    let net = self.net.clone();
                    self.tasks.spawn(async move { Event::Probed(probe, net.probe(probe).await) });
                }
                Step::Wait(until) => return Some(open.began + until),
                Step::Idle | Step::Done => return None,
            }
        }
    }

    fn on_done(&mut self, event: Event) {
        let Some(open) = &mut self.open else { return };
        match event {
            Event::LookedUp(blob, found) => {
                if found.is_none() {
                    self.metrics.lookup_failed();
                }
                open.plan.looked_up(blob, found.unwrap_or_default());
            }
            Event::Probed(probe, Probed { answer, super_node, took }) => {
                self.metrics.probed(answer, took);
                tracing::debug!(
                    target: "nsn::audit",
                    binding = probe.subject.binding,
                    "probe: {}", answer.label()
                );
                open.plan.probed(&probe.subject, answer, super_node, open.began.elapsed());
            }
        }
    }

    async fn on_head(&mut self) {
        let head = *self.heads.borrow_and_update();
        if self.chain.is_catching_up() {
            return;
        }
        let todo = self.open.as_ref().map(|open| open.window.at(head.number));
        match todo {
            Some(Todo::Nothing) => {}
            Some(Todo::Report) => self.report(head).await,
            Some(Todo::Over(outcome)) => {
                self.close(outcome);
                self.remember().await;
                self.begin(head).await;
            }
            None => self.begin(head).await,
        }
    }

    /// Begins the window of the block `head`, if this node has a duty in it.
    async fn begin(&mut self, head: BlockRef) {
        let chain = self.chain.clone();
        let asked = blocking(move || {
            for key in chain.keys().into_iter().take(KEYS) {
                if let Some(duty) = chain.duty(head.hash, &key)? {
                    return Ok(Some((key, duty)));
                }
            }
            Ok(None)
        });
        let (key, duty) = match asked.await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(target: "nsn::audit", "the duty could not be asked for: {error}");
                return;
            }
        };
        let mut dice = rand::rng();
        let window = Window::new(duty, head.number, &mut dice);
        let span = window.span(head.number, self.slot, self.config.deadline);
        let others = window.duty().subjects.iter().filter(|subject| subject.key != self.own);
        let (subjects, lookups): (Vec<_>, _) = {
            let catalogue = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
            let claims = others.map(|subject| (*subject, catalogue.claims(&subject.key)));
            (claims.collect(), catalogue.pick(self.config.lookups, &mut dice))
        };
        self.metrics.subjects(subjects.len());
        tracing::debug!(
            target: "nsn::audit",
            session = window.duty().session,
            window = window.duty().window,
            subjects = subjects.len(),
            "a window to audit, for {span:?}"
        );
        let limits = Limits {
            probes: self.config.probes,
            tries: self.config.tries,
            parallel: self.config.parallel,
        };
        let plan = Plan::new(limits, subjects, lookups, span, dice.random());
        self.open = Some(Open { window, key, plan, began: Instant::now(), auditing: true });
    }

    /// Reports, or sees whether the report is on chain by now.
    async fn report(&mut self, head: BlockRef) {
        let Some(open) = &mut self.open else { return };
        // What is still going on comes too late.
        open.auditing = false;
        self.tasks = JoinSet::new();
        let (chain, key) = (self.chain.clone(), open.key);
        let duty = match blocking(move || chain.duty(head.hash, &key)).await {
            Ok(duty) => duty,
            Err(error) => {
                // The next block asks again.
                tracing::debug!(target: "nsn::audit", "the duty could not be asked for: {error}");
                return;
            }
        };
        if let Some(report) = open.window.report(head.number, duty, open.plan.entries()) {
            self.chain.report(head.hash, key, report).await;
        }
    }

    /// Keeps what is known for after a restart of the node.
    async fn remember(&self) {
        let known = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner).remembered();
        let memory = self.memory.clone();
        if let Err(error) = blocking(move || Ok(memory.save(known)?)).await {
            tracing::warn!(target: "nsn::audit", "what is known of those to audit is not kept: {error}");
        }
    }

    fn close(&mut self, outcome: Outcome) {
        self.open = None;
        self.tasks = JoinSet::new();
        self.metrics.subjects(0);
        self.metrics.window_over(outcome);
    }
}

/// Keys of which the duty is asked for; a validator has one, and for a session or two a second one.
const KEYS: usize = 8;

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Result<T, BoxError> {
    tokio::task::spawn_blocking(call).await?
}

/// Waits until `wake`; for ever without it.
async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
