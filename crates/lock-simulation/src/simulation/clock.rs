//! A node's clock.

use std::time::Duration;

use dapper_lock::Timestamp;

const MILLION: u64 = 1_000_000;

/// A clock that began anywhere and runs at its own rate. The store's clock is the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: u64,
    rate_ppm: u64,
}

impl Clock {
    /// A clock that shows `offset` at the beginning and runs at `rate_ppm` millionths of the store's rate.
    pub(crate) fn new(offset: u64, rate_ppm: u64) -> Self {
        Self { offset, rate_ppm: rate_ppm.max(1) }
    }

    pub(crate) fn rate_ppm(self) -> u64 {
        self.rate_ppm
    }

    /// What it shows when the store's clock shows `now`.
    pub(crate) fn read(self, now: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_nanos(self.offset + scale(now, self.rate_ppm, MILLION)))
    }

    /// The first moment of the store's clock at which this one shows `at` or more.
    pub(crate) fn when(self, at: Timestamp) -> u64 {
        let shown = u64::try_from(at.since_origin().as_nanos()).unwrap_or(u64::MAX);
        let local = shown.saturating_sub(self.offset);
        let mut now = scale(local, MILLION, self.rate_ppm);
        while self.read(now) < at {
            now += 1;
        }
        now
    }
}

fn scale(time: u64, by: u64, of: u64) -> u64 {
    if let Some(product) = time.checked_mul(by) {
        return product / of;
    }
    u64::try_from(u128::from(time) * u128::from(by) / u128::from(of)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_moment_that_reads_so() {
        for rate in [650_000, 999_999, MILLION, 1_350_001] {
            let clock = Clock::new(17, rate);
            for nanos in [17, 18, 1_000_003, 987_654_321] {
                let at = Timestamp::from_origin(Duration::from_nanos(nanos));
                let when = clock.when(at);
                assert!(clock.read(when) >= at, "{rate} {nanos}");
                assert!(when == 0 || clock.read(when - 1) < at, "{rate} {nanos}");
            }
        }
    }
}
