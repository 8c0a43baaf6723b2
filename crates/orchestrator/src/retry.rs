//! How long to wait before the next try.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The least delay, so that a policy of zero does not spin.
const LEAST_BACKOFF: Duration = Duration::from_millis(1);

/// Longer delays are not waited for in memory where the event can be parked.
const LONGEST_QUICK: Duration = Duration::from_secs(1);

/// When a failing event is tried again, and for how often.
///
/// The delay before try number n + 1 is drawn evenly between nothing and `min_backoff` · 2ⁿ⁻¹, but `max_backoff` at the
/// most: events that failed together do not come back together. A pause that the process asks for comes first, up to
/// `max_backoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest delay before the second try.
    pub min_backoff: Duration,
    /// No delay is longer.
    pub max_backoff: Duration,
    /// After so many tries the event is a dead letter at this process; never when absent. Where its input can't store
    /// it, it is tried on instead, every `max_backoff` and reported as an error.
    pub max_attempts: Option<u32>,
    /// After so many tries in a row the event is parked, where its input can do that: it then no longer holds up others.
    pub quick_attempts: u32,
    /// After the program has died so often while nothing but this event was tried, it is a dead letter.
    pub max_crashes: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5 * 60),
            max_attempts: Some(10),
            quick_attempts: 3,
            max_crashes: 3,
        }
    }
}

/// How a failing event can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// In memory alone.
    Memory,
    /// In memory, or as a dead letter.
    Ended,
    /// In memory at first, then parked.
    Quick,
    /// It is parked, and stays so.
    Parked,
}

/// What becomes of an event that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is tried again after this, and keeps its place in memory.
    Hold(Duration),
    /// It is tried again after this, and parked until then.
    Park(Duration),
    /// It is not tried again.
    Dead,
}

impl RetryPolicy {
    /// Whether after so many tries no further one is due.
    pub(crate) fn is_exhausted(&self, tries: u32) -> bool {
        self.max_attempts.is_some_and(|most| tries >= most)
    }

    /// What becomes of an event after `tries` tries, the last of which failed and may have asked for a pause. `jitter`
    /// is drawn evenly from 0 to 1.
    pub(crate) fn verdict(
        &self,
        tries: u32,
        pause: Option<Duration>,
        keeping: Keeping,
        jitter: f64,
    ) -> Verdict {
        let exhausted = self.is_exhausted(tries);
        if exhausted && keeping != Keeping::Memory {
            return Verdict::Dead;
        }
        let max = self.max_backoff.max(LEAST_BACKOFF);
        let delay = if exhausted {
            max.mul_f64((1.0 + jitter.clamp(0.0, 1.0)) / 2.0)
        } else {
            let doublings = tries.saturating_sub(1).min(31);
            self.min_backoff.saturating_mul(1 << doublings).min(max).mul_f64(jitter.clamp(0.0, 1.0))
        };
        let delay = delay.max(pause.unwrap_or_default()).clamp(LEAST_BACKOFF, max);
        let park = match keeping {
            Keeping::Memory | Keeping::Ended => false,
            Keeping::Quick => tries >= self.quick_attempts || delay > LONGEST_QUICK,
            Keeping::Parked => true,
        };
        if park { Verdict::Park(delay) } else { Verdict::Hold(delay) }
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
    use proptest::prelude::*;

    fn keeping() -> impl Strategy<Value = Keeping> {
        prop::sample::select(vec![Keeping::Memory, Keeping::Ended, Keeping::Quick, Keeping::Parked])
    }

    proptest! {
        #[test]
        fn every_event_ends_and_no_delay_leaves_its_bounds(
            (min, max, most) in (0_u64..10_000, 0_u64..10_000_000, 1_u32..50),
            quick_attempts in 0_u32..10,
            (keeping, tries, jitter) in (keeping(), 1_u32..100, 0.0..=1.0),
            pause in prop::option::of(0_u64..20_000_000),
        ) {
            let policy = RetryPolicy {
                min_backoff: Duration::from_millis(min),
                max_backoff: Duration::from_millis(max),
                max_attempts: Some(most),
                quick_attempts,
                ..RetryPolicy::default()
            };
            let pause = pause.map(Duration::from_millis);
            let verdict = policy.verdict(tries, pause, keeping, jitter);
            prop_assert_eq!(verdict == Verdict::Dead, tries >= most && keeping != Keeping::Memory);
            let (Verdict::Hold(delay) | Verdict::Park(delay)) = verdict else { return Ok(()) };
            let longest = policy.max_backoff.max(LEAST_BACKOFF);
            prop_assert!(delay >= LEAST_BACKOFF && delay <= longest);
            prop_assert!(pause.is_none_or(|pause| delay >= pause.min(longest)), "the pause is honoured");
            match keeping {
                Keeping::Memory | Keeping::Ended => prop_assert_eq!(verdict, Verdict::Hold(delay)),
                Keeping::Parked => prop_assert_eq!(verdict, Verdict::Park(delay)),
                Keeping::Quick => {
                    let quick = tries < quick_attempts && delay <= LONGEST_QUICK;
                    prop_assert_eq!(verdict == Verdict::Hold(delay), quick);
                }
            }
        }

        #[test]
        fn the_jitter_is_full(tries in 1_u32..20, jitter in 0.0..=1.0) {
            let policy = RetryPolicy::default();
            let Verdict::Hold(delay) = policy.verdict(tries, None, Keeping::Memory, jitter) else { panic!() };
            let whole = policy.min_backoff.saturating_mul(1 << (tries - 1)).min(policy.max_backoff);
            if tries < 10 {
                let off = delay.abs_diff(whole.mul_f64(jitter).max(LEAST_BACKOFF));
                prop_assert!(off < Duration::from_millis(1));
            } else {
                prop_assert!(delay >= policy.max_backoff / 2 && delay <= policy.max_backoff);
            }
        }
    }

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
