//! When to read again, so that no change waits and nobody polls an idle database.
//!
//! While the reader is awake, writers skip the NOTIFY, whose commit takes a lock that all databases of the server share.
//! Going to sleep is the delicate part. The reader first clears the flag, then draws a transaction id `F` of its own,
//! then reads on, ever more slowly, until a read comes back empty whose snapshot has `xmin >= F`. A writer that found the
//! flag set had drawn its id before the flag was cleared, so its id is below `F`; once `xmin >= F` it has finished, and
//! that read has seen what it wrote. Every later writer finds the flag cleared and notifies. (`xmax` of a snapshot will
//! not do for `F`: it is the latest *completed* id plus one, and a lone open writer is not below it.)
//!
//! This module decides; it is a pure state machine whose [`Action`]s the holder carries out.

use std::time::Duration;

/// Reads that must find something, one right after the other, before writers are told to skip the NOTIFY.
const HITS_UNTIL_AWAKE: u32 = 3;
/// Empty reads, [`LINGER`] apart, before an awake reader starts to go to sleep.
const EMPTY_READS_UNTIL_DROWSY: u32 = 5;
/// How long an awake reader waits between empty reads.
const LINGER: Duration = Duration::from_millis(1);
/// An awake reader that found so many change sets at once has busy writers, and gives them time for more: each read and
/// each claim takes from them the same, however much it brings.
const BUSY: usize = 8;
/// How much time it gives them.
const PAUSE: Duration = Duration::from_millis(2);
/// The longest wait while the flag's last readers are not known to have finished.
const SLOWEST_DROWSY: Duration = Duration::from_millis(100);
/// The longest wait of a reader that never gets a notification.
const SLOWEST_POLL: Duration = Duration::from_millis(200);
/// A sleeping reader looks at least this often, in case the flag was changed by somebody who should not have.
const BACKSTOP: Duration = Duration::from_secs(5);

/// What the holder must do, in order, before it reads or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read again at once.
    ReadNow,
    /// Tell writers to skip the NOTIFY, then read.
    SetAwake,
    /// Tell writers to notify, then draw `F` in a statement of its own, report it by [`WakeUp::drew`], then read.
    SetAsleep,
    /// Wait for so long, whatever comes, then read.
    Pause(Duration),
    /// Wait for a notification, at most this long, then read.
    Wait(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The flag is of unknown value.
    Unknown,
    /// Writers skip the NOTIFY.
    Awake,
    /// Writers notify from now on; those with an id below `f` may not have.
    Drowsy { f: u64 },
    /// Every writer that is not seen notifies.
    Asleep,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct WakeUp {
    /// Whether writers may notify at all.
    notify: bool,
    state: State,
    hits: u32,
    empty_reads: u32,
}

impl WakeUp {
    pub(crate) fn new(notify: bool) -> Self {
        Self { notify, state: State::Unknown, hits: 0, empty_reads: 0 }
    }

    /// Whether a notification can come.
    pub(crate) fn notifies(&self) -> bool {
        self.notify
    }

    /// A read found so many change sets, and nothing is left behind them if it is `exhausted`.
    pub(crate) fn found(&mut self, change_sets: usize, exhausted: bool) -> Action {
        self.hits += 1;
        self.empty_reads = 0;
        let awake = self.state == State::Awake;
        if !awake && (!self.notify || self.hits >= HITS_UNTIL_AWAKE) {
            self.set_awake()
        } else if awake && exhausted && change_sets >= BUSY {
            Action::Pause(PAUSE)
        } else {
            Action::ReadNow
        }
    }

    /// A read found nothing; `xmin` is its snapshot's, `awake_flag` what it saw of the flag.
    pub(crate) fn found_nothing(&mut self, xmin: u64, awake_flag: bool) -> Action {
        self.hits = 0;
        self.empty_reads = self.empty_reads.saturating_add(1);
        if awake_flag != (self.state == State::Awake) {
            // Somebody else changed it: a holder that was replaced, or a crash of the server.
            self.state = State::Unknown;
        }
        match self.state {
            State::Unknown if self.notify => Action::SetAsleep,
            State::Unknown => self.set_awake(),
            State::Awake if !self.notify => Action::Wait(self.slower(SLOWEST_POLL)),
            State::Awake if self.empty_reads >= EMPTY_READS_UNTIL_DROWSY => Action::SetAsleep,
            State::Awake => Action::Wait(LINGER),
            State::Drowsy { f } if xmin < f => Action::Wait(self.slower(SLOWEST_DROWSY)),
            State::Drowsy { .. } | State::Asleep => {
                self.state = State::Asleep;
                Action::Wait(BACKSTOP)
            }
        }
    }

    /// `F` was drawn after writers were told to notify.
    pub(crate) fn drew(&mut self, f: u64) {
        self.state = State::Drowsy { f };
        self.empty_reads = 0;
    }

    fn set_awake(&mut self) -> Action {
        self.state = State::Awake;
        Action::SetAwake
    }

    /// Doubles with every empty read, from [`LINGER`] to `slowest`.
    fn slower(&self, slowest: Duration) -> Duration {
        (LINGER * 2u32.saturating_pow(self.empty_reads.min(16))).min(slowest)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_comes_only_after_an_empty_read_above_f() {
        let mut wake_up = WakeUp::new(true);
        assert_eq!(wake_up.found_nothing(10, false), Action::SetAsleep);
        wake_up.drew(12);
        assert!(matches!(wake_up.found_nothing(11, false), Action::Wait(wait) if wait <= SLOWEST_DROWSY));
        assert_eq!(wake_up.found_nothing(12, false), Action::Wait(BACKSTOP));
        assert_eq!(wake_up.found_nothing(12, false), Action::Wait(BACKSTOP));
    }

    #[test]
    fn a_busy_reader_tells_writers_to_skip_the_notify() {
        let mut wake_up = WakeUp::new(true);
        assert_eq!(wake_up.found(1, true), Action::ReadNow);
        assert_eq!(wake_up.found(1, true), Action::ReadNow);
        assert_eq!(wake_up.found(1, true), Action::SetAwake);
        assert_eq!(wake_up.found(1, true), Action::ReadNow);
        for _ in 1..EMPTY_READS_UNTIL_DROWSY {
            assert_eq!(wake_up.found_nothing(10, true), Action::Wait(LINGER));
        }
        assert_eq!(wake_up.found_nothing(10, true), Action::SetAsleep);
    }

    #[test]
    fn busy_writers_are_given_time_and_a_backlog_is_not() {
        let mut wake_up = WakeUp::new(true);
        assert_eq!(wake_up.found(BUSY, true), Action::ReadNow, "not awake yet");
        wake_up.found(BUSY, true);
        wake_up.found(BUSY, true);
        assert_eq!(wake_up.found(BUSY - 1, true), Action::ReadNow);
        assert_eq!(wake_up.found(BUSY, true), Action::Pause(PAUSE));
        assert_eq!(wake_up.found(1_000, false), Action::ReadNow);
    }

    #[test]
    fn a_flag_changed_by_somebody_else_is_set_again() {
        let mut wake_up = WakeUp::new(true);
        wake_up.found_nothing(10, false);
        wake_up.drew(12);
        assert_eq!(wake_up.found_nothing(20, false), Action::Wait(BACKSTOP));
        assert_eq!(wake_up.found_nothing(20, true), Action::SetAsleep);
    }

    #[test]
    fn polling_never_lets_writers_notify() {
        let mut wake_up = WakeUp::new(false);
        assert_eq!(wake_up.found_nothing(1, false), Action::SetAwake);
        for _ in 0..20 {
            assert!(matches!(wake_up.found_nothing(1, true), Action::Wait(wait) if wait <= SLOWEST_POLL));
        }
    }
}
