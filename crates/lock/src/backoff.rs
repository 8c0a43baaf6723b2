//! How long to wait after a failure.

use std::time::Duration;

/// Doubling delays with jitter, reproducible from a seed: the n-th is between half and all of
/// `min(FIRST · 2ⁿ, LONGEST)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Backoff {
    random: u64,
    step: u32,
}

impl Backoff {
    pub(crate) const FIRST: Duration = Duration::from_millis(50);
    pub(crate) const LONGEST: Duration = Duration::from_secs(2);

    pub(crate) fn new(seed: u64) -> Self {
        Self { random: seed, step: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.step = 0;
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.step.min(16)).min(Self::LONGEST);
        self.step = self.step.saturating_add(1);
        let half = full / 2;
        let thousandths = u32::try_from(self.next_random() % 1001).unwrap_or(0);
        half + half * thousandths / 1000
    }

    /// SplitMix64: small, and good enough to keep replicas from knocking at the same moment.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_up_to_the_longest() {
        let mut backoff = Backoff::new(7);
        for step in 0..40_u32 {
            let full = Backoff::FIRST.saturating_mul(1 << step.min(16)).min(Backoff::LONGEST);
            let delay = backoff.next_delay();
            assert!(delay >= full / 2 && delay <= full, "step {step}: {delay:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Backoff::FIRST);
    }

    #[test]
    fn two_seeds_give_different_delays() {
        assert_ne!(Backoff::new(1).next_delay(), Backoff::new(2).next_delay());
    }
}
