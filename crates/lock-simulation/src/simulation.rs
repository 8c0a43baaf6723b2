//! N nodes over a model store, in simulated time, with faults: one run per seed.
//!
//! A run draws its scenario (see `scenario`), lets nodes acquire, keep, write and release while things go wrong, then
//! lets three times to live pass without a fault. A judge of its own compares what happens with what was promised.

mod clock;
mod faults;
mod judge;
mod network;
mod queue;
mod scenario;
mod world;

use std::fmt;
use std::ops::AddAssign;

use crate::{Break, Violation};

/// What came of one seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What happened, counted.
    pub tally: Tally,
    /// The promises that were broken, the first of each kind, in the order of time.
    pub violations: Vec<Violation>,
    /// What happened, a line each; empty unless asked for.
    pub trace: Vec<String>,
}

/// What happened, counted: a run in which nothing goes wrong proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Everything that happened.
    pub events: u64,
    /// Faults.
    pub faults: u64,
    /// Messages that never arrived.
    pub lost_messages: u64,
    /// Grants by the store.
    pub grants: u64,
    /// Of these, before the end of the time to live, because the last holder's session had ended.
    pub followed_sessions: u64,
    /// Terms that their holders began.
    pub terms: u64,
    /// Renewals that their holders heard of.
    pub renewals: u64,
    /// Terms whose holder's trust ran out.
    pub expired: u64,
    /// Terms of which the store said that they are over.
    pub not_holder: u64,
    /// Terms whose session was lost.
    pub session_lost: u64,
    /// Acquisitions that ended in an error.
    pub gave_up: u64,
    /// Overlaps after a session was ended by force, which only the fence covers.
    pub forced_overlaps: u64,
    /// What the row accepted.
    pub accepted: u64,
    /// What the row refused.
    pub refused: u64,
    /// The longest time from the last fault to the next write, in thousandths of the time to live.
    pub slowest_progress: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.faults += other.faults;
        self.lost_messages += other.lost_messages;
        self.grants += other.grants;
        self.followed_sessions += other.followed_sessions;
        self.terms += other.terms;
        self.renewals += other.renewals;
        self.expired += other.expired;
        self.not_holder += other.not_holder;
        self.session_lost += other.session_lost;
        self.gave_up += other.gave_up;
        self.forced_overlaps += other.forced_overlaps;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.slowest_progress = self.slowest_progress.max(other.slowest_progress);
    }
}

/// Runs one seed. The same seed, with the same thing broken, always does the same.
#[must_use]
pub fn simulate(seed: u64, broken: Option<Break>) -> Outcome {
    world::World::new(seed, broken, false).run()
}

/// Runs one seed and tells what happens.
#[must_use]
pub fn trace(seed: u64, broken: Option<Break>) -> Outcome {
    world::World::new(seed, broken, true).run()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} faults, {} messages lost; {} grants ({} on a dead session), {} terms held, {} renewed; \
             lost: {} expired, {} not holder, {} session; {} gave up; row: {} accepted, {} refused; \
             {} overlaps after a session was ended by force; \
             slowest write after the last fault {:.3} times to live",
            self.events,
            self.faults,
            self.lost_messages,
            self.grants,
            self.followed_sessions,
            self.terms,
            self.renewals,
            self.expired,
            self.not_holder,
            self.session_lost,
            self.gave_up,
            self.accepted,
            self.refused,
            self.forced_overlaps,
            self.slowest_progress as f64 / 1000.0,
        )
    }
}
