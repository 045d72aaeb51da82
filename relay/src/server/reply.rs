//! The sending side of a request's stream: header and body, piece by piece, each in its turn.

use super::{Shared, viewer::Viewer};
use crate::{
    body::{BodyError, Sending},
    content::BlobId,
    error::Refusal,
    lookup::Found,
    metrics::Metrics,
    wire::{Code, Cost, Ended, Gone, Priority, Response, Sender, Spent, encode_frame},
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Bytes of a body that a viewer must take within `stall_timeout`, and that go out in one turn.
const PIECE: usize = 64 * 1024;

/// Why a reply could not be sent to its end.
pub(super) enum SendError {
    /// The viewer wants no more, or is gone. Nobody's fault.
    Gone,
    /// The viewer stopped reading.
    Slow,
    /// The body cannot be had to its end.
    Broken(Refusal),
    /// The body cannot be had, and nothing was sent as yet.
    Refused(Refusal),
    /// The reply cannot be written down.
    Internal,
}

impl From<Gone> for SendError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// The stream back to a viewer. quinn ends a stream cleanly when it is dropped, which would pass a
/// body cut short for a whole one: this resets it instead, unless it was sent to its end.
pub(super) struct Reply {
    send: Option<Sender>,
    viewer: Arc<Viewer>,
    shared: Arc<Shared>,
    priority: Priority,
}

impl Reply {
    pub(super) fn new(send: Sender, viewer: Arc<Viewer>, shared: Arc<Shared>) -> Self {
        Self { send: Some(send), viewer, shared, priority: Priority::Play }
    }

    /// Among the streams of one connection, the most urgent is sent first.
    pub(super) fn set_priority(&mut self, priority: Priority) {
        self.priority = priority;
        let number = match priority {
            Priority::Prefetch => -1,
            Priority::Play => 0,
            Priority::Seek => 1,
        };
        if let Some(send) = &self.send {
            send.set_priority(number);
        }
    }

    pub(super) fn reset(&mut self, code: Code) {
        if let Some(mut send) = self.send.take() {
            send.reset(code);
        }
    }

    /// Ends when the viewer wants no more, or is gone.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let ended = self.send.as_ref().map(Sender::ended);
        async move {
            if let Some(ended) = ended {
                ended.await;
            }
        }
    }

    /// Sends a header and a body that is there, a few hundred bytes at most, and waits until the viewer
    /// has them.
    pub(super) async fn send(&mut self, header: &Response, body: Bytes) -> Result<(), SendError> {
        let frame = encode_frame(header).map_err(|_| SendError::Internal)?;
        self.write(vec![frame.into(), body]).await?;
        self.finish(header.length).await
    }

    /// Sends header and body as they can be had, and waits until the viewer has them. `spent` says what
    /// the body cost so far, if that is to be told.
    ///
    /// What turns out to be damaged on the way comes from elsewhere from there on: from a fill of that
    /// blob, if one may be made.
    pub(super) async fn send_body(
        &mut self,
        header: Response,
        spent: Option<Spent>,
        mut sending: Sending,
        elsewhere: (BlobId, bool),
        asked: Instant,
    ) -> Result<(), SendError> {
        let mut gone = pin!(self.gone());
        let length = header.length;
        let (mut header, mut left) = (Some(header), length);
        let mut elsewhere = Some(elsewhere);
        // Held as long as what it is for.
        let mut _room = None;
        loop {
            let next = tokio::select! {
                next = sending.next() => next,
                () = &mut gone => return Err(SendError::Gone),
            };
            let mut pieces = match next {
                Ok(Some(pieces)) => VecDeque::from(pieces),
                Ok(None) if left == 0 => return self.finish(length).await,
                Ok(None) => return Err(SendError::Internal),
                Err(error) => {
                    let found = tokio::select! {
                        found = self.replaced(error, elsewhere.take(), &sending) => found,
                        () = &mut gone => return Err(SendError::Gone),
                    };
                    let refusal = match found {
                        Ok(found) if sending.go_on_with(found.body.clone()) => {
                            _room = Some(found.room);
                            continue;
                        }
                        Ok(_) => Refusal::Damaged,
                        Err(refusal) => refusal,
                    };
                    return Err(match header {
                        Some(_) => SendError::Refused(refusal),
                        None => SendError::Broken(refusal),
                    });
                }
            };
            while !pieces.is_empty() {
                let mut piece = take(&mut pieces, PIECE);
                let bytes = piece.iter().map(len).sum();
                let queued = self.turn(bytes, gone.as_mut()).await?;
                if let Some(mut header) = header.take() {
                    header.cost = cost(spent, queued);
                    let frame = encode_frame(&header).map_err(|_| SendError::Internal)?;
                    piece.insert(0, frame.into());
                    let waited = asked.elapsed().as_secs_f64();
                    self.shared.metrics.first_byte_seconds.observe(waited);
                }
                left = left.saturating_sub(bytes);
                self.write(piece).await?;
            }
        }
    }

    /// What there is instead of a body that cannot be read on; or what to tell the viewer.
    async fn replaced(
        &self,
        error: BodyError,
        elsewhere: Option<(BlobId, bool)>,
        sending: &Sending,
    ) -> Result<Found, Refusal> {
        let (refusal, here) = match error {
            BodyError::Failed(error) => return Err(self.shared.lookup.broken(error)),
            // It has been put aside. Whoever looks for it now finds that out, and tells the directory.
            BodyError::Damaged => (Refusal::Damaged, true),
            // Looked for here, it would be found again.
            BodyError::Disk => (Refusal::Internal, false),
        };
        let (id, fill) = elsewhere.ok_or(refusal)?;
        let (lookup, rest) = (&self.shared.lookup, Some(sending.rest()));
        let found = if here {
            lookup.find(id, rest, fill).await
        } else {
            lookup.elsewhere(id, rest, fill).await
        };
        found.map_err(|_| refusal)
    }

    /// Waits until this viewer may send so much more, and says how long that was.
    async fn turn(
        &self,
        bytes: u64,
        gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Duration, SendError> {
        let relayed = self.send.as_ref().is_some_and(Sender::is_relayed);
        let Shared { pace, circuits, metrics, .. } = &*self.shared;
        if pace.is_free() && (!relayed || circuits.is_free()) {
            return Ok(Duration::ZERO);
        }
        let began = Instant::now();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let turn = async {
            if relayed {
                circuits.turn(self.viewer.peer, self.viewer.weight, self.priority, bytes).await;
            }
            pace.turn(self.viewer.peer, self.viewer.weight, self.priority, bytes).await;
        };
        tokio::select! {
            () = turn => {
                let waited = began.elapsed();
                metrics.turn_wait_seconds.observe(waited.as_secs_f64());
                Ok(waited)
            }
            () = gone => Err(SendError::Gone),
        }
    }

    async fn write(&mut self, mut piece: Vec<Bytes>) -> Result<(), SendError> {
        let stall = self.shared.config.stall_timeout;
        let send = self.send.as_mut().ok_or(SendError::Internal)?;
        timeout(stall, send.write(&mut piece)).await.map_err(|_| SendError::Slow)??;
        Ok(())
    }

    /// Ends the stream after `length` bytes of body, and waits until the viewer has them.
    async fn finish(&mut self, length: u64) -> Result<(), SendError> {
        let stall = self.shared.config.stall_timeout;
        let send = self.send.as_mut().ok_or(SendError::Internal)?;
        let ending = async {
            send.finish().await?;
            Ok::<_, Gone>(send.ended().await)
        };
        match timeout(stall, ending).await.map_err(|_| SendError::Slow)?? {
            Ended::Taken => {
                let way = send.way().label();
                let Metrics { bytes_served_total, bytes_served_by_way_total, .. } =
                    &self.shared.metrics;
                bytes_served_total.inc_by(length);
                bytes_served_by_way_total.with_label_values(&[way]).inc_by(length);
                self.send = None;
                Ok(())
            }
            Ended::Gone => Err(SendError::Gone),
            Ended::Impossible => Err(SendError::Internal),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.reset(Code::Internal);
    }
}

fn cost(spent: Option<Spent>, queued: Duration) -> Cost {
    spent.map_or(Cost::UNTOLD, |spent| {
        let queue_us = spent.queue_us.saturating_add(micros(queued));
        Cost::of(Spent { queue_us, ..spent })
    })
}

/// As many microseconds as a header can tell.
pub(super) fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

pub(super) fn len(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Takes the next `most` bytes off a body, or all that is left.
fn take(body: &mut VecDeque<Bytes>, most: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    let mut room = most;
    while room > 0
        && let Some(mut piece) = body.pop_front()
    {
        let rest = piece.split_off(piece.len().min(room));
        room -= piece.len();
        taken.push(piece);
        if !rest.is_empty() {
            body.push_front(rest);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waiting_for_a_turn_is_part_of_the_cost() {
        let spent = Spent { queue_us: 5, disk_us: 7, upstream_us: 9 };
        let told = cost(Some(spent), Duration::from_millis(1)).spent();
        assert_eq!(told, Some(Spent { queue_us: 1005, ..spent }));
        assert_eq!(cost(None, Duration::from_millis(1)), Cost::UNTOLD);
        assert_eq!(micros(Duration::MAX), u32::MAX);
    }

    proptest! {
        #[test]
        fn a_body_is_taken_in_pieces_of_the_size_and_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            most in 1usize..100,
        ) {
            let whole = pieces.concat();
            let mut body: VecDeque<_> = pieces.into_iter().map(Bytes::from).collect();
            let mut taken = Vec::new();
            while !body.is_empty() {
                let piece = take(&mut body, most).concat();
                prop_assert!(piece.len() == most || body.is_empty());
                taken.extend(piece);
            }
            prop_assert_eq!(taken, whole);
        }
    }
}
