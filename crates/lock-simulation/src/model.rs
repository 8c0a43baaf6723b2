//! Every interleaving of a small configuration.

mod canon;
mod explore;
mod state;

use crate::Break;
use crate::simulation::Violation as Found;

/// What is explored. Times are in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// How many nodes contend.
    pub nodes: u8,
    /// The time to live.
    pub ttl: u8,
    /// The margin.
    pub margin: u8,
    /// The time between two renewals.
    pub renew_every: u8,
    /// How long a message travels at most, unless it is lost or late.
    pub delay: u8,
    /// How often, in all, a node pauses, for any time and at any point.
    pub pauses: u8,
    /// How many messages, in all, are lost or come any time later.
    pub losses: u8,
    /// How often, in all, a process is killed and started again.
    pub restarts: u8,
    /// How many clocks are as slow as the margin allows.
    pub slow_clocks: u8,
    /// Whether the store follows the session of a killed process at once.
    pub sessions: bool,
    /// Whether holders give the lease back of their own will.
    pub let_go: bool,
    /// What is broken on purpose.
    pub broken: Option<Break>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many states there are.
    pub states: u64,
    /// How many steps lead from one to another.
    pub transitions: u64,
    /// How many steps the farthest is away from the first.
    pub depth: u32,
    /// What is wrong with one of them.
    pub found: Option<Found>,
    /// The shortest way to it.
    pub path: Vec<String>,
}

/// Visits every state of the configuration.
pub fn explore(configuration: Configuration, progress: &mut dyn FnMut(&Report)) -> Report {
    explore::explore(&state::Rules::new(configuration), progress)
}
