//! Every interleaving of a small configuration, with the production machine: own search, breadth first, by states that
//! count as one when they can only go on in the same way.
//!
//! Time is counted in ticks, of which a time to live has a few, and nothing happens between two ticks. Within a tick
//! everything that can happen happens in every order. A tick passes only when everybody has done what is due, except
//! for those that pause and for messages that are lost or late, of which there are only so many. `docs/leases.md` says
//! why this leaves nothing out that matters, and what it does leave out.

mod canon;
mod explore;
mod state;

use std::fmt;

use crate::{Break, Violation};

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

impl Configuration {
    /// Three nodes with exact clocks, two pauses, one message lost or late, one restart.
    pub const THREE_NODES: Self = Self {
        nodes: 3,
        ttl: 3,
        margin: 1,
        renew_every: 1,
        delay: 0,
        pauses: 2,
        losses: 1,
        restarts: 1,
        slow_clocks: 0,
        sessions: false,
        let_go: false,
        broken: None,
    };

    /// Two nodes, one of them with the slowest clock that the margin allows, over a store that follows dead sessions.
    pub const SLOW_CLOCK: Self = Self { nodes: 2, slow_clocks: 1, sessions: true, ..Self::THREE_NODES };

    /// Two nodes, and messages that take up to a tick each way.
    pub const DELAYS: Self =
        Self { nodes: 2, delay: 1, pauses: 1, sessions: true, let_go: true, ..Self::THREE_NODES };

    /// One that takes a second: three nodes, one pause, one message lost or late.
    pub const SMALL: Self = Self { pauses: 1, restarts: 0, let_go: true, ..Self::THREE_NODES };

    /// The smallest of these in which that shows.
    #[must_use]
    pub fn that_shows(broken: Break) -> Self {
        let base = match broken {
            Break::Margin => Self { pauses: 1, losses: 0, restarts: 0, ..Self::SLOW_CLOCK },
            _ => Self { let_go: true, ..Self::SMALL },
        };
        Self { broken: Some(broken), ..base }
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, slow_clocks, pauses, losses, restarts, delay, .. } = self;
        write!(
            f,
            "{nodes} nodes ({slow_clocks} with a slow clock), {pauses} pauses, {losses} lost or late, \
             {restarts} restarts, delay up to {delay} ticks"
        )
    }
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
    pub found: Option<Violation>,
    /// The shortest way to it.
    pub path: Vec<String>,
}

/// Visits every state of the configuration, or stops at the first that breaks a promise. `progress` is called now and
/// then.
pub fn explore(configuration: Configuration, progress: &mut dyn FnMut(&Report)) -> Report {
    explore::explore(&state::Rules::new(configuration), progress)
}
