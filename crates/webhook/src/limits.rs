//! How many calls there may be: at the same time, and in a time.

use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// What lets calls through, first come, first served.
#[derive(Debug)]
pub(crate) struct Limits {
    at_once: Option<Semaphore>,
    bucket: Option<Mutex<Bucket>>,
}

/// So many calls in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// How long after one call the next one may come.
    pub(crate) interval: Duration,
    /// How many may come at once after a quiet time.
    pub(crate) burst: u32,
}

/// A bucket of tokens, kept as the time at which it is full again.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    full_at: Instant,
}

/// The right to make one call, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'l> {
    _place: Option<SemaphorePermit<'l>>,
}

impl Limits {
    pub(crate) fn new(at_once: Option<usize>, rate: Option<Rate>) -> Self {
        let bucket = rate.map(|rate| Mutex::new(Bucket { rate, full_at: Instant::now() }));
        Self { at_once: at_once.map(Semaphore::new), bucket }
    }

    /// Waits until a call may be made. Whoever stops waiting has used up nothing and holds up nobody.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let place = match &self.at_once {
            Some(at_once) => Some(at_once.acquire().await.expect("the semaphore is never closed")),
            None => None,
        };
        if let Some(bucket) = &self.bucket {
            // The lock is a queue: the one at its head waits for the time, the others for the lock.
            let mut bucket = bucket.lock().await;
            sleep_until(bucket.due()).await;
            bucket.take(Instant::now());
        }
        Turn { _place: place }
    }
}

impl Bucket {
    /// When there is a token.
    fn due(&self) -> Instant {
        let saved = self.rate.interval.saturating_mul(self.rate.burst.saturating_sub(1));
        self.full_at.checked_sub(saved).unwrap_or(self.full_at)
    }

    fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.rate.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::join_all;

    fn per_second(calls: u32, burst: u32) -> Limits {
        Limits::new(None, Some(Rate { interval: Duration::from_secs(1) / calls, burst }))
    }

    /// When each of `count` calls, all asked for at once, came through, in milliseconds.
    async fn turns(limits: &Limits, count: usize) -> Vec<u128> {
        let start = Instant::now();
        join_all((0..count).map(|_| async {
            limits.turn().await;
            start.elapsed().as_millis()
        }))
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn calls_come_in_order_and_no_faster_than_the_rate() {
        let limits = per_second(10, 1);
        assert_eq!(turns(&limits, 5).await, [0, 100, 200, 300, 400]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(turns(&limits, 3).await, [0, 100, 200], "quiet times are not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_saved_up_and_no_more() {
        let limits = per_second(10, 3);
        assert_eq!(turns(&limits, 5).await, [0, 0, 0, 100, 200]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(turns(&limits, 5).await, [0, 0, 0, 100, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_uses_up_nothing() {
        let limits = per_second(1, 1);
        limits.turn().await;
        let start = Instant::now();
        let mut first = Box::pin(limits.turn());
        assert!((&mut first).now_or_never().is_none());
        let second = limits.turn();
        drop(first);
        second.await;
        assert_eq!(start.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_made_at_once() {
        let limits = Limits::new(Some(2), None);
        let (one, _two) = (limits.turn().await, limits.turn().await);
        let mut three = Box::pin(limits.turn());
        assert!((&mut three).now_or_never().is_none());
        drop(one);
        assert!(three.now_or_never().is_some());
    }
}
