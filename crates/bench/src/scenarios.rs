//! The scenarios, a module each. All print cases; each target of a case stands beside its figure.

mod cost;
mod drain;
mod growth;
mod idle;
mod latency;
mod memory;
pub(crate) mod parser;
mod write;

use anyhow::Result;
use clap::ValueEnum;

use crate::bench::Bench;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// What capture takes from writers, beside other ways of capturing.
    Write,
    /// How fast a backlog is worked off.
    Drain,
    /// How long after the commit a process is called.
    Latency,
    /// What becomes of the cost of an event when there is more of everything.
    Growth,
    /// What reading a payload takes.
    Parser,
    /// What a replica keeps in memory.
    Memory,
    /// What a replica does when nothing happens.
    Idle,
    /// What an event costs: log, statements, processor, allocations.
    Cost,
}

impl Scenario {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Drain => "drain",
            Self::Latency => "latency",
            Self::Growth => "growth",
            Self::Parser => "parser",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Cost => "cost",
        }
    }

    pub(crate) async fn run(self, bench: &Bench) -> Result<()> {
        match self {
            Self::Write => write::run(bench).await,
            Self::Drain => drain::run(bench).await,
            Self::Latency => latency::run(bench).await,
            Self::Growth => growth::run(bench).await,
            Self::Parser => parser::run(bench).await,
            Self::Memory => memory::run(bench).await,
            Self::Idle => idle::run(bench).await,
            Self::Cost => cost::run(bench).await,
        }
    }
}
