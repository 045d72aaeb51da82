//! One attempt at one source: asks for a part of a blob and gives it out as it arrives, verified.

use super::{
    DialError, Source,
    reach::{Link, Reach, Reached},
};
use crate::{
    content::BlobId,
    wire::{
        Code, ExchangeError, Group, Groups, Node, Outboard, Patience, Priority, Promised, Way,
        get_blob, get_groups_as,
    },
};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{error}")]
    Exchange {
        #[source]
        error: ExchangeError,
        /// The connection had been used before, so it may have been closed while it lay in the pool.
        reused: bool,
    },
}

/// What an attempt comes to, step by step.
#[derive(Debug)]
pub(super) enum Event {
    /// There is a way, and the source is asked.
    Connected(Way),
    /// It has the blob, which it claims to be so long. Nothing is read before the next step is asked
    /// for.
    Header {
        /// Length of the blob, 1 to 16 MiB.
        len: u32,
    },
    /// The next group, with the nodes that came before it.
    Group(Group, Vec<Node>),
    /// The whole blob at once, from a source that cannot send groups.
    Raw(Bytes, Outboard),
}

/// Of whom, what, and how long to wait for it.
pub(super) struct Question<'a> {
    pub(super) reach: &'a Reach,
    pub(super) source: Source,
    pub(super) id: BlobId,
    /// Bytes of the blob; `None` for all.
    pub(super) range: Option<(u64, u64)>,
    pub(super) priority: Priority,
    pub(super) patience: Patience,
}

/// Where an attempt stands.
enum Stage {
    Dial,
    Ask(Link, bool),
    /// The other side does not know what groups are.
    AskRaw(Link, bool),
    Groups(Box<Groups>, bool),
    Raw(Box<Promised>, bool),
    Done,
}

/// Asks. The stream ends after all that was asked for came, or with an error; dropped, it tells the
/// source to stop.
pub(super) fn attempt(question: Question<'_>) -> BoxStream<'_, Result<Event, AttemptError>> {
    let begin = Some((question, Stage::Dial));
    let steps = stream::unfold(begin, |state| async move {
        let (question, stage) = state?;
        match step(&question, stage).await {
            Ok(Some((event, stage))) => Some((Ok(event), Some((question, stage)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    steps.boxed()
}

async fn step(
    question: &Question<'_>,
    stage: Stage,
) -> Result<Option<(Event, Stage)>, AttemptError> {
    let Question { reach, source, id, range, priority, patience } = question;
    let failed = |reused| move |error| AttemptError::Exchange { error, reused };
    match stage {
        Stage::Dial => {
            let Reached { link, reused } = reach.reach(source).await?;
            Ok(Some((Event::Connected(link.way()), Stage::Ask(link, reused))))
        }
        Stage::Ask(link, reused) => {
            let asked = get_groups_as(&link, *priority, *id, *range, false, *patience).await;
            match asked {
                Ok(groups) => {
                    let len = groups.span().total();
                    Ok(Some((Event::Header { len }, Stage::Groups(Box::new(groups), reused))))
                }
                Err(ExchangeError::Refused { code: Code::BadRequest, .. }) => {
                    Box::pin(step(question, Stage::AskRaw(link, reused))).await
                }
                Err(error) => Err(failed(reused)(error)),
            }
        }
        Stage::AskRaw(link, reused) => {
            let promised = get_blob(&link, *id, false, *patience).await;
            let promised = promised.map_err(failed(reused))?;
            let len = promised.size();
            Ok(Some((Event::Header { len }, Stage::Raw(Box::new(promised), reused))))
        }
        Stage::Groups(groups, reused) => {
            let next = groups.next_with_nodes().await.map_err(failed(reused))?;
            Ok(next.map(|(group, nodes, rest)| {
                (Event::Group(group, nodes), Stage::Groups(Box::new(rest), reused))
            }))
        }
        Stage::Raw(promised, reused) => {
            let bytes = promised.verified(patience.stall).await.map_err(failed(reused))?;
            let hashed = bytes.clone();
            let outboard = tokio::task::spawn_blocking(move || Outboard::of(&hashed)).await;
            let wrong = || failed(reused)(ExchangeError::WrongHash(*id));
            let outboard = outboard.ok().flatten().ok_or_else(wrong)?;
            Ok(Some((Event::Raw(bytes, outboard), Stage::Done)))
        }
        Stage::Done => Ok(None),
    }
}
