//! Which faults there are, and the schedule that a seed makes of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dapper_failpoints::Point;
use fastrand::Rng;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the holder.
    KillHolder,
    /// `kill -9` of any replica.
    KillAny,
    /// SIGTERM to the holder: it hands over.
    Stop,
    /// `kill -9` at a named point.
    KillAtPoint,
    /// SIGSTOP at a named point, for longer than a lease lasts.
    FreezeAtPoint,
    /// SIGSTOP of the holder for longer than a lease lasts.
    Freeze,
    /// Nothing passes between a replica and PostgreSQL.
    Partition,
    /// What the replica sends is held back, and arrives later.
    RequestsLate,
    /// What PostgreSQL answers is held back, and arrives later.
    RepliesLate,
    /// The replica is gone, and its connections stay open.
    HalfOpen,
    /// Everything takes longer on the way.
    Delay,
    /// Connections are reset, or end in the middle of a message.
    Reset,
    /// `pg_terminate_backend` of a replica's sessions.
    TerminateBackend,
    /// `pg_cancel_backend` of a replica's sessions.
    CancelBackend,
    /// PostgreSQL stops as by a crash and starts again.
    Crash,
    /// PostgreSQL stops in order and starts again.
    Restart,
    /// PostgreSQL crashes, and a standby that has not got everything is promoted.
    Promote,
    /// Nobody can connect any more for a while.
    TooManyConnections,
    /// The receiver takes its time.
    SlowReceiver,
    /// The receiver answers 500 for some keys.
    FailingReceiver,
    /// The receiver takes some events and does not answer in time.
    HangingReceiver,
    /// Tables are made, changed, and robbed of their triggers.
    Ddl,
}

/// One fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    /// How long after the one before.
    pub(super) after: Duration,
    /// How long it lasts, where it does; a share of what is possible, of 1,000.
    pub(super) length: u32,
    /// Which of several.
    pub(super) choice: u32,
    pub(super) point: Point,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::KillHolder,
        Self::KillAny,
        Self::Stop,
        Self::KillAtPoint,
        Self::FreezeAtPoint,
        Self::Freeze,
        Self::Partition,
        Self::RequestsLate,
        Self::RepliesLate,
        Self::HalfOpen,
        Self::Delay,
        Self::Reset,
        Self::TerminateBackend,
        Self::CancelBackend,
        Self::Crash,
        Self::Restart,
        Self::Promote,
        Self::TooManyConnections,
        Self::SlowReceiver,
        Self::FailingReceiver,
        Self::HangingReceiver,
        Self::Ddl,
    ];

    /// As the command line names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KillHolder => "kill-holder",
            Self::KillAny => "kill-any",
            Self::Stop => "stop",
            Self::KillAtPoint => "kill-at-point",
            Self::FreezeAtPoint => "freeze-at-point",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
            Self::RequestsLate => "requests-late",
            Self::RepliesLate => "replies-late",
            Self::HalfOpen => "half-open",
            Self::Delay => "delay",
            Self::Reset => "reset",
            Self::TerminateBackend => "terminate-backend",
            Self::CancelBackend => "cancel-backend",
            Self::Crash => "crash",
            Self::Restart => "restart",
            Self::Promote => "promote",
            Self::TooManyConnections => "too-many-connections",
            Self::SlowReceiver => "slow-receiver",
            Self::FailingReceiver => "failing-receiver",
            Self::HangingReceiver => "hanging-receiver",
            Self::Ddl => "ddl",
        }
    }

    /// In words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::KillHolder => "`kill -9` of the holder",
            Self::KillAny => "`kill -9` of any replica",
            Self::Stop => "SIGTERM to the holder",
            Self::KillAtPoint => "`kill -9` at a named point",
            Self::FreezeAtPoint => "SIGSTOP at a named point, beyond the TTL",
            Self::Freeze => "SIGSTOP of the holder beyond the TTL",
            Self::Partition => "partition, both ways",
            Self::RequestsLate => "partition, one way: requests held back",
            Self::RepliesLate => "partition, one way: replies held back",
            Self::HalfOpen => "`kill -9` with connections left half open",
            Self::Delay => "slow network",
            Self::Reset => "connections reset or cut in a message",
            Self::TerminateBackend => "`pg_terminate_backend`",
            Self::CancelBackend => "`pg_cancel_backend`",
            Self::Crash => "PostgreSQL: immediate stop and restart",
            Self::Restart => "PostgreSQL: fast restart",
            Self::Promote => "promotion of a lagging standby",
            Self::TooManyConnections => "too many connections",
            Self::SlowReceiver => "slow receiver",
            Self::FailingReceiver => "receiver answers 500",
            Self::HangingReceiver => "receiver does not answer",
            Self::Ddl => "DDL meanwhile",
        }
    }

    /// How often, of the sum of all.
    const fn weight(self) -> u32 {
        match self {
            Self::KillHolder => 120,
            Self::KillAny => 60,
            Self::Stop => 70,
            Self::KillAtPoint => 200,
            Self::FreezeAtPoint => 50,
            Self::Freeze => 50,
            Self::Partition | Self::RequestsLate | Self::RepliesLate => 30,
            Self::HalfOpen => 30,
            Self::Delay => 25,
            Self::Reset => 50,
            Self::TerminateBackend => 70,
            Self::CancelBackend => 60,
            Self::Crash => 20,
            Self::Restart => 12,
            Self::Promote => 7,
            Self::TooManyConnections => 10,
            Self::SlowReceiver | Self::FailingReceiver | Self::HangingReceiver => 20,
            Self::Ddl => 25,
        }
    }
}

/// `count` faults of these kinds, on average so far apart.
pub(super) fn schedule(seed: u64, kinds: &[Fault], count: usize, apart: Duration) -> Vec<Planned> {
    let mut random = Rng::with_seed(seed);
    let sum: u32 = kinds.iter().map(|kind| kind.weight()).sum();
    let mut points = Vec::new();
    let mut planned = Vec::with_capacity(count);
    for _ in 0..count {
        let mut drawn = random.u32(0..sum.max(1));
        let found = kinds.iter().find(|kind| {
            let here = drawn < kind.weight();
            drawn = drawn.saturating_sub(kind.weight());
            here
        });
        let Some(&fault) = found else { break };
        // Each point comes as often as the others.
        let mut point = Point::ALL[0];
        if matches!(fault, Fault::KillAtPoint | Fault::FreezeAtPoint) {
            if points.is_empty() {
                points = Point::ALL.into();
                random.shuffle(&mut points);
            }
            point = points.pop().unwrap_or(point);
        }
        // Sometimes one right after the other.
        let share = if random.u32(0..4) == 0 { random.f64() * 0.2 } else { 0.4 + random.f64() * 1.5 };
        planned.push(Planned {
            fault,
            after: apart.mul_f64(share),
            length: random.u32(0..=1000),
            choice: random.u32(..),
            point,
        });
    }
    planned
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            format!("there is no fault {text:?}; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_schedule_and_every_fault_comes() {
        let make = |seed| schedule(seed, &Fault::ALL, 1_000, Duration::from_secs(1));
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
        let planned = make(1);
        assert!(Fault::ALL.iter().all(|fault| planned.iter().any(|one| one.fault == *fault)));
        let at = |point| planned.iter().any(|one| one.fault == Fault::KillAtPoint && one.point == point);
        assert!(Point::ALL.into_iter().all(at));
    }
}
