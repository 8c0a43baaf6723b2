//! How long a lease lasts and how often it is renewed.

use std::time::Duration;

/// The three times of a lease. They always fit each other: `renew_every < ttl − margin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseConfig {
    ttl: Duration,
    renew_every: Duration,
    margin: Duration,
}

/// Why three times can't be those of a lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseConfigError {
    /// The time to live is out of bounds.
    #[error(
        "a lease can't live {ttl:?}: it must be between {:?} and {:?}",
        LeaseConfig::MIN_TTL,
        LeaseConfig::MAX_TTL
    )]
    Ttl {
        /// The time asked for.
        ttl: Duration,
    },
    /// The margin is zero.
    #[error("a lease needs a margin above zero, for clocks that run at different rates")]
    NoMargin,
    /// The lease would be renewed without a pause.
    #[error("a lease can't be renewed every 0 s")]
    NoInterval,
    /// The first renewal would come when trust has already ended.
    #[error(
        "renewing every {renew_every:?} is too seldom: trust in a lease of {ttl:?} with a margin of {margin:?} ends before"
    )]
    RenewTooSeldom {
        /// The time to live asked for.
        ttl: Duration,
        /// The interval asked for.
        renew_every: Duration,
        /// The margin asked for.
        margin: Duration,
    },
}

impl LeaseConfig {
    /// The shortest time to live.
    pub const MIN_TTL: Duration = Duration::from_millis(100);
    /// The longest time to live.
    pub const MAX_TTL: Duration = Duration::from_secs(3600);

    /// A lease of `ttl` that is renewed three times in that time, with a tenth of it as the margin.
    ///
    /// # Errors
    /// [`LeaseConfigError::Ttl`] when `ttl` is below [`MIN_TTL`](Self::MIN_TTL) or above [`MAX_TTL`](Self::MAX_TTL).
    pub fn from_ttl(ttl: Duration) -> Result<Self, LeaseConfigError> {
        Self::new(ttl, ttl / 3, ttl / 10)
    }

    /// A lease of `ttl`, renewed every `renew_every`, that its holder stops trusting `margin` before the store does.
    ///
    /// # Errors
    /// [`LeaseConfigError`] when `ttl` is out of bounds, when `margin` or `renew_every` is zero, and when
    /// `renew_every >= ttl − margin`.
    pub fn new(ttl: Duration, renew_every: Duration, margin: Duration) -> Result<Self, LeaseConfigError> {
        if !(Self::MIN_TTL..=Self::MAX_TTL).contains(&ttl) {
            return Err(LeaseConfigError::Ttl { ttl });
        }
        if margin.is_zero() {
            return Err(LeaseConfigError::NoMargin);
        }
        if renew_every.is_zero() {
            return Err(LeaseConfigError::NoInterval);
        }
        if renew_every >= ttl.saturating_sub(margin) {
            return Err(LeaseConfigError::RenewTooSeldom { ttl, renew_every, margin });
        }
        Ok(Self { ttl, renew_every, margin })
    }

    /// How long the store keeps a grant that is not renewed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The time between two renewals.
    #[must_use]
    pub fn renew_every(&self) -> Duration {
        self.renew_every
    }

    /// How long before the store's end of the lease its holder stops trusting it.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.margin
    }

    /// How long a holder trusts a grant, counted from when it sent the request: `ttl − margin`.
    #[must_use]
    pub fn trust(&self) -> Duration {
        self.ttl.saturating_sub(self.margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_derived_times_fit() {
        let config = LeaseConfig::from_ttl(10 * SECOND).unwrap();
        assert_eq!(config.trust(), 9 * SECOND);
        assert_eq!(config.renew_every(), 10 * SECOND / 3);
        assert!(LeaseConfig::from_ttl(LeaseConfig::MIN_TTL).is_ok());
        assert!(LeaseConfig::from_ttl(LeaseConfig::MAX_TTL).is_ok());
    }

    #[test]
    fn a_time_to_live_out_of_bounds_is_refused() {
        for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(3601), Duration::MAX] {
            assert_eq!(LeaseConfig::from_ttl(ttl), Err(LeaseConfigError::Ttl { ttl }));
        }
    }

    #[test]
    fn renewing_as_seldom_as_the_lease_lives_is_refused() {
        for renew_every in [9 * SECOND, 10 * SECOND, 11 * SECOND] {
            let error = LeaseConfig::new(10 * SECOND, renew_every, SECOND).unwrap_err();
            assert!(matches!(error, LeaseConfigError::RenewTooSeldom { .. }), "{error}");
        }
        assert!(LeaseConfig::new(10 * SECOND, SECOND, 10 * SECOND).is_err());
        assert!(LeaseConfig::new(10 * SECOND, 8 * SECOND, SECOND).is_ok());
    }

    #[test]
    fn zeros_are_refused() {
        let zero = Duration::ZERO;
        assert_eq!(LeaseConfig::new(SECOND, zero, SECOND / 10), Err(LeaseConfigError::NoInterval));
        assert_eq!(LeaseConfig::new(SECOND, SECOND / 3, zero), Err(LeaseConfigError::NoMargin));
    }
}
