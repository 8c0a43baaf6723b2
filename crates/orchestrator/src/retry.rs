//! How long to wait before the next try.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The least delay, so that a policy of zero does not spin.
const LEAST_BACKOFF: Duration = Duration::from_millis(1);

/// When a failing event is tried again. The delays grow by half to twice, at random, so that events that failed
/// together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// About the delay before the second attempt; each further delay is about twice the one before.
    pub initial_backoff: Duration,
    /// No delay is longer.
    pub max_backoff: Duration,
    /// After so many attempts success is no longer expected soon: the event is tried on only every `max_backoff`,
    /// and reported as an error. It is never given up.
    pub max_attempts: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5 * 60),
            max_attempts: None,
        }
    }
}

impl RetryPolicy {
    /// Whether the failure of attempt `attempt` leaves little hope.
    pub(crate) fn is_exhausted(&self, attempt: u32) -> bool {
        self.max_attempts.is_some_and(|most| attempt >= most)
    }
}

/// Growing delays with jitter: each is between half of and the whole of a value that doubles up to a maximum.
#[derive(Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    delays: ExponentialBackoff,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        let max = max.max(LEAST_BACKOFF);
        let initial = initial.clamp(LEAST_BACKOFF, max);
        Self { initial, max, delays: Self::delays(initial, max) }
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max).min(self.max)
    }

    /// A delay at the maximum; the growing ones stay where they are.
    pub(crate) fn longest(&self) -> Duration {
        Self::delays(self.max, self.max).next().unwrap_or(self.max).min(self.max)
    }

    /// Starts from the shortest delay again.
    pub(crate) fn reset(&mut self) {
        self.delays = Self::delays(self.initial, self.max);
    }

    fn delays(initial: Duration, max: Duration) -> ExponentialBackoff {
        // backon adds up to the same again as jitter, hence the halves.
        ExponentialBuilder::new()
            .with_jitter()
            .with_factor(2.0)
            .with_min_delay(initial / 2)
            .with_max_delay(max / 2)
            .without_max_times()
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_their_jitter_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole in [100, 200, 400, 800, 1000, 1000, 1000] {
            let delay = backoff.next().as_secs_f64() * 1000.0;
            let whole = f64::from(whole);
            assert!(delay >= whole / 2.0 - 0.01 && delay <= whole + 0.01, "{delay} for {whole}");
        }
        assert!(backoff.longest() >= Duration::from_millis(500));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(101));
    }

    #[test]
    fn the_maximum_bounds_the_initial_delay_and_nothing_spins() {
        assert!(
            Backoff::new(Duration::from_secs(9), Duration::from_secs(1)).next() <= Duration::from_secs(1)
        );
        assert!(Backoff::new(Duration::ZERO, Duration::ZERO).next() >= LEAST_BACKOFF / 2);
    }
}
