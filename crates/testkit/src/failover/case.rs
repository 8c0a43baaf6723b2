//! The faults.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::StopMode;

/// The time between two commits around a fault: there is always something to handle, and often something on its way.
pub const COMMIT_EVERY: Duration = Duration::from_millis(2);

/// Where the leases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Locks {
    /// Beside the cursor.
    Postgres,
    /// In an etcd of the measurement's own.
    Etcd,
}

/// What is done to the replica that holds the lease, or to the server under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Case {
    /// SIGTERM, with standbys.
    Stop,
    /// SIGTERM to the only replica, and once it has ended another in its place.
    StopStart,
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT three times to live later.
    Freeze,
    /// A proxy between the holder and the server passes nothing on, in either direction, until another has taken over;
    /// then it passes on what it kept.
    SilentProxy,
    /// The link between the holder's network namespace and the server's goes down, and up again once another has taken
    /// over.
    SilentLink,
    /// The server ends the session in which the holder has its lease.
    Terminated,
    /// The server is stopped in the fast mode, and started.
    RestartFast,
    /// The server is stopped in the immediate mode, as by a crash, and started.
    RestartImmediate,
}

/// What a case must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Case {
    /// All of them, the quick ones first.
    pub const ALL: [Self; 9] = [
        Self::Stop,
        Self::StopStart,
        Self::Kill,
        Self::Terminated,
        Self::Freeze,
        Self::SilentProxy,
        Self::SilentLink,
        Self::RestartFast,
        Self::RestartImmediate,
    ];

    /// Its name on the command line and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::StopStart => "stop-start",
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::SilentProxy => "silent-proxy",
            Self::SilentLink => "silent-link",
            Self::Terminated => "terminated",
            Self::RestartFast => "restart-fast",
            Self::RestartImmediate => "restart-immediate",
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Stop => "clean stop (SIGTERM)",
            Self::StopStart => "clean stop of the only replica, and a start",
            Self::Kill => "`kill -9`",
            Self::Freeze => "frozen for 3 TTL (SIGSTOP, SIGCONT)",
            Self::SilentProxy => "silent network (proxy)",
            Self::SilentLink => "silent network (link down)",
            Self::Terminated => "holder's session terminated",
            Self::RestartFast => "server restarted, `-m fast`",
            Self::RestartImmediate => "server restarted, `-m immediate`",
        }
    }

    /// Whether milliseconds count, so that one run at a time is made and events come close together.
    #[must_use]
    pub const fn is_quiet(self, locks: Locks) -> bool {
        match locks {
            Locks::Postgres => {
                matches!(self, Self::Stop | Self::StopStart | Self::Kill | Self::Terminated)
            }
            Locks::Etcd => matches!(self, Self::Stop | Self::StopStart),
        }
    }

    /// Whether the holder had time to finish and to record what it handled, so that nothing comes again, and nothing says
    /// that it might.
    #[must_use]
    pub const fn repeats_nothing(self) -> bool {
        matches!(self, Self::Stop | Self::StopStart)
    }

    /// Why there is no such case with these locks, if there is none.
    #[must_use]
    pub const fn missing_with(self, locks: Locks) -> Option<&'static str> {
        match (locks, self) {
            (Locks::Postgres, _)
            | (_, Self::Stop | Self::StopStart | Self::Kill | Self::Freeze | Self::SilentProxy) => None,
            (Locks::Etcd, Self::SilentLink) => Some("the etcd of the tests listens on this host alone"),
            (Locks::Etcd, Self::Terminated) => Some("a lease in etcd lives in no session"),
            (Locks::Etcd, Self::RestartFast | Self::RestartImmediate) => {
                Some("a holder keeps its term while PostgreSQL or etcd restarts: nobody takes over")
            }
        }
    }

    /// Whether it needs [`Namespace`](crate::Namespace)s, and with them root.
    #[must_use]
    pub const fn needs_namespaces(self) -> bool {
        matches!(self, Self::SilentLink)
    }

    /// The time between two commits of the trickle, except around a fault, where it is [`COMMIT_EVERY`].
    pub(super) const fn pause_between_commits(self, locks: Locks) -> Duration {
        if self.is_quiet(locks) { COMMIT_EVERY } else { Duration::from_millis(50) }
    }

    /// Whether the frozen holder may bring an event late that it had in its hands when it froze. Its token tells.
    #[must_use]
    pub const fn may_bring_late(self) -> bool {
        matches!(self, Self::Freeze)
    }

    pub(super) const fn replicas(self, locks: Locks) -> usize {
        match self {
            Self::StopStart => 1,
            _ if self.is_quiet(locks) => 3,
            _ => 2,
        }
    }

    pub(super) const fn stop_mode(self) -> Option<StopMode> {
        match self {
            Self::RestartFast => Some(StopMode::Fast),
            Self::RestartImmediate => Some(StopMode::Immediate),
            _ => None,
        }
    }

    pub(super) fn bounds(self, locks: Locks, ttl: Duration) -> Option<Bounds> {
        let ms = Duration::from_millis;
        let none = Duration::MAX;
        if locks == Locks::Etcd {
            // etcd ends a lease up to a second late; nothing tells sooner that its holder is dead.
            let max = if self.repeats_nothing() { none } else { ttl + ms(1_500) };
            return Some(Bounds { p50: none, p99: none, max });
        }
        match self {
            Self::Stop => Some(Bounds { p50: ms(10), p99: ms(50), max: none }),
            Self::Kill => Some(Bounds { p50: ms(20), p99: ms(100), max: none }),
            Self::Freeze | Self::SilentProxy | Self::SilentLink => {
                Some(Bounds { p50: none, p99: none, max: ttl + ms(500) })
            }
            Self::StopStart | Self::Terminated | Self::RestartFast | Self::RestartImmediate => None,
        }
    }
}

impl Locks {
    /// Its name on the command line and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::ALL.iter().map(|case| case.name()).collect();
        let found = Self::ALL.into_iter().find(|case| case.name() == text);
        found.ok_or_else(|| format!("there is no case {text:?}; there are {}", names.join(", ")))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
