//! A staggered race: candidates in order, the next one when the last has failed or taken too long.

use futures::{StreamExt, stream::FuturesUnordered};
use std::{pin::pin, time::Duration};
use tokio::time::sleep;

/// Runs `attempt` on the candidates in their order and gives the first success; the others are
/// dropped, and so cancelled. The next candidate starts when an attempt has failed, or when
/// `patience` with the newest attempt has run out and fewer than `parallel` are going on.
///
/// # Errors
/// All failures in the order in which they happened, when every candidate has failed.
pub(super) async fn staggered<C, T, E, F>(
    candidates: impl IntoIterator<Item = C>,
    parallel: usize,
    patience: impl Fn(&C) -> Duration,
    attempt: impl Fn(C) -> F,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = candidates.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    let mut next_after = Duration::ZERO;
    loop {
        let may_start = running.len() < parallel.max(1);
        let mut patience_over = pin!(sleep(next_after));
        tokio::select! {
            biased;
            Some(result) = running.next(), if !running.is_empty() => match result {
                Ok(won) => return Ok(won),
                Err(error) => {
                    failures.push(error);
                    next_after = Duration::ZERO;
                }
            },
            () = &mut patience_over, if may_start && next_after < Duration::MAX => {
                match waiting.next() {
                    Some(candidate) => {
                        next_after = patience(&candidate);
                        running.push(attempt(candidate));
                    }
                    None if running.is_empty() => return Err(failures),
                    None => next_after = Duration::MAX,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_success_ends_the_race_and_later_candidates_never_start() {
        let started = AtomicUsize::new(0);
        let result: Result<_, Vec<()>> = staggered(
            0..5,
            2,
            |_| LONG,
            |n| {
                started.fetch_add(1, SeqCst);
                ready(Ok(n))
            },
        )
        .await;
        assert_eq!((result, started.load(SeqCst)), (Ok(0), 1));
    }

    #[tokio::test]
    async fn a_failure_starts_the_next_at_once() {
        let result = staggered(0..5, 2, |_| LONG, |n| ready(if n < 3 { Err(n) } else { Ok(n) }));
        assert_eq!(result.await, Ok(3));
    }

    #[tokio::test]
    async fn all_failures_come_back() {
        let result = staggered(0..3, 2, |_| LONG, |n| ready(Err::<(), _>(n)));
        assert_eq!(result.await, Err(vec![0, 1, 2]));
        let none = staggered(0..0, 2, |_| LONG, |n| ready(Err::<(), _>(n)));
        assert_eq!(none.await, Err(vec![]));
    }

    #[tokio::test]
    async fn a_slow_one_is_joined_by_the_next() {
        let result: Result<_, Vec<()>> = staggered(
            0..3,
            2,
            |_| SHORT,
            |n| async move {
                if n == 0 {
                    pending::<()>().await;
                }
                Ok(n)
            },
        )
        .await;
        assert_eq!(result, Ok(1));
    }

    #[tokio::test]
    async fn no_more_run_at_a_time_than_allowed() {
        // The first two hang until the third has had every chance to start.
        let started = AtomicUsize::new(0);
        let attempt = |_| {
            started.fetch_add(1, SeqCst);
            pending::<Result<(), ()>>()
        };
        let race = staggered(0..9, 2, |_| SHORT, attempt);
        assert!(tokio::time::timeout(SHORT * 50, race).await.is_err());
        assert_eq!(started.load(SeqCst), 2);
    }
}
