//! The clock that trust is measured on.

use std::fmt;
use std::time::Duration;

/// A point in time: the time since some fixed origin of the [`Clock`] that read it. Two are comparable only when they
/// come from the same clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Duration);

/// A clock that never goes back.
///
/// # What an implementer owes
/// - Every reading, from any thread, is at least as late as those that were finished before it began.
/// - It goes on while the machine is suspended; if it can't, a holder may believe in its lease that much longer.
/// - Reading it neither waits nor fails: [`Lease::is_valid`](crate::Lease::is_valid) does it before each hand-off.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock since boot. On Linux it counts suspended time (`CLOCK_BOOTTIME`); elsewhere it is
/// [`std::time::Instant`], which may not.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Timestamp {
    /// The time that is `since_origin` after the clock's origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time since the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this, zero when that is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time `duration` after this; the end of time when there is none.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Clock for BootClock {
    #[cfg(target_os = "linux")]
    fn now(&self) -> Timestamp {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Neither part of the time since boot is ever negative.
        Timestamp(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> Timestamp {
        static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        Timestamp(ORIGIN.get_or_init(std::time::Instant::now).elapsed())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_moves_forward_only() {
        let first = BootClock.now();
        std::thread::sleep(Duration::from_millis(5));
        let second = BootClock.now();
        assert!(second.since(first) >= Duration::from_millis(5), "{first} {second}");
        assert_eq!(first.since(second), Duration::ZERO);
    }

    #[test]
    fn arithmetic_saturates() {
        let end = Timestamp::from_origin(Duration::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end);
    }
}
