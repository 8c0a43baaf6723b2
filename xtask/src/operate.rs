//! `cargo xtask storm`, `cargo xtask growth` and `cargo xtask failing-key`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::play::Program;

/// Start many replicas at once on many tables with writers, again and again.
///
/// In each round one of them must install, everything must be covered, and uninstalling under load must leave
/// `pg_dump --schema-only` as it was; no deadlock, no failed statement, no writer blocked for 500 ms. 100 rounds take
/// about 20 minutes on two cores.
#[derive(Debug, clap::Args)]
pub(crate) struct Storm {
    /// How often
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Replicas that start at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=32))]
    replicas: u32,
    /// Tables to cover
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tables: u32,
    /// Begin no further round after this many seconds
    #[arg(long, default_value_t = 7200)]
    limit: u64,
}

impl Storm {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { rounds, replicas, tables, limit } = self;
        let numbers = [
            ("--rounds", u64::from(rounds)),
            ("--replicas", replicas.into()),
            ("--tables", tables.into()),
            ("--limit", limit),
        ];
        play("storm", &numbers)
    }
}

/// Let many changes through, undisturbed and with a transaction that stays open, in turns.
///
/// Our schema must stay below 64 MiB plus what is unread, without a dead row in the change sets, and the open transaction
/// must not slow the reader down by more than 5 %. Also prints the bytes per change.
#[derive(Debug, clap::Args)]
pub(crate) struct Growth {
    /// Changes in each of the two halves
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    changes: u32,
    /// Rows in one statement
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rows: u32,
    /// Into how many pairs of parts the halves are cut
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
}

impl Growth {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { changes, rows, pairs } = self;
        play("growth", &[("--changes", changes.into()), ("--rows", rows.into()), ("--pairs", pairs.into())])
    }
}

/// Let a webhook refuse one key for long, beside another that refuses nothing, in turns.
///
/// The p99 latency of all other keys must stay within twice that without the refused key. Afterwards the key's events must
/// all come, each once and in order.
#[derive(Debug, clap::Args)]
pub(crate) struct FailingKey {
    /// How long the key is refused
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    minutes: u32,
    /// Changes per second, one in ten of them the refused key's
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=2_000))]
    rate: u32,
}

impl FailingKey {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { minutes, rate } = self;
        play("failing-key", &[("--minutes", minutes.into()), ("--rate", rate.into())])
    }
}

fn play(proof: &str, numbers: &[(&str, u64)]) -> Result<ExitCode> {
    let program = Program::build("operate", true, &[])?;
    let mut arguments: Vec<OsString> = vec![proof.into()];
    arguments.extend(numbers.iter().flat_map(|(name, value)| [name.into(), value.to_string().into()]));
    program.run(arguments)
}
