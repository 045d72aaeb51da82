//! A player: bytes come, playing takes them at a constant rate, and when there are none it stalls.
//!
//! Decisions only.

use std::time::{Duration, Instant};

/// A buffer of one viewer, in seconds of film.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Player {
    /// Bytes a second.
    rate: f64,
    /// Seconds to keep.
    ahead: f64,
    /// Seconds in the buffer.
    buffer: f64,
    seen: Instant,
    state: State,
    pub(crate) stalls: u64,
    pub(crate) stalled: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has not begun, or has just jumped: to wait is no stall.
    Starting,
    Playing,
    Stalled,
}

/// Seconds that must be there before it plays.
const ENOUGH: f64 = 1.0;

impl Player {
    /// A player of `rate` bytes a second, which must not be 0.
    pub(crate) fn new(rate: f64, ahead: f64, now: Instant) -> Self {
        Self {
            rate,
            ahead: ahead.max(ENOUGH),
            buffer: 0.0,
            seen: now,
            state: State::Starting,
            stalls: 0,
            stalled: Duration::ZERO,
        }
    }

    /// Plays until `now`.
    pub(crate) fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen);
        self.seen = now;
        match self.state {
            State::Starting => {}
            State::Stalled => self.stalled += passed,
            State::Playing => {
                self.buffer -= passed.as_secs_f64();
                if self.buffer < 0.0 {
                    self.stalls += 1;
                    self.stalled += Duration::from_secs_f64(-self.buffer);
                    self.buffer = 0.0;
                    self.state = State::Stalled;
                }
            }
        }
    }

    /// Takes bytes that came.
    pub(crate) fn received(&mut self, bytes: u64, now: Instant) {
        self.advance(now);
        self.buffer += bytes as f64 / self.rate;
        if self.buffer >= ENOUGH {
            self.state = State::Playing;
        }
    }

    /// Throws the buffer away: the viewer is elsewhere.
    pub(crate) fn jump(&mut self, now: Instant) {
        self.advance(now);
        self.buffer = 0.0;
        self.state = State::Starting;
    }

    /// How long the buffer is full enough.
    pub(crate) fn content(&mut self, now: Instant) -> Duration {
        self.advance(now);
        Duration::from_secs_f64((self.buffer - self.ahead).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn what_comes_in_time_never_stalls() {
        let start = Instant::now();
        let mut player = Player::new(1000.0, 10.0, start);
        for second in 0..20 {
            player.received(1000, after(start, f64::from(second)));
        }
        assert_eq!((player.stalls, player.stalled), (0, Duration::ZERO));
    }

    #[test]
    fn an_empty_buffer_is_a_stall_until_a_second_is_there() {
        let start = Instant::now();
        let mut player = Player::new(1000.0, 10.0, start);
        player.received(2000, start);
        // Empty at 2 s; half a second comes at 3 s, which is not enough; the rest at 4 s.
        player.received(500, after(start, 3.0));
        player.received(500, after(start, 4.0));
        assert_eq!(player.stalls, 1);
        assert!((player.stalled.as_secs_f64() - 2.0).abs() < 0.001, "{:?}", player.stalled);
        player.advance(after(start, 4.9));
        assert_eq!(player.stalls, 1);
    }

    #[test]
    fn waiting_for_the_beginning_or_after_a_jump_is_no_stall() {
        let start = Instant::now();
        let mut player = Player::new(1000.0, 10.0, start);
        player.advance(after(start, 5.0));
        player.received(5000, after(start, 5.0));
        player.jump(after(start, 6.0));
        player.advance(after(start, 60.0));
        assert_eq!((player.stalls, player.stalled), (0, Duration::ZERO));
    }

    #[test]
    fn a_full_buffer_asks_for_nothing() {
        let start = Instant::now();
        let mut player = Player::new(1000.0, 10.0, start);
        assert_eq!(player.content(start), Duration::ZERO);
        player.received(15_000, start);
        assert_eq!(player.content(start), Duration::from_secs(5));
        assert_eq!(player.content(after(start, 6.0)), Duration::ZERO);
    }
}
