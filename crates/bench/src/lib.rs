//! What dapper costs and how fast it is, beside what one would otherwise use, in turns within one run (`cargo xtask bench`).
//!
//! Writers are `pgbench`; each reader is a process of its own that does the same few instructions with an event: dapper's
//! replica is the program `dapper` with one more type of process, the other ways are written here as their users write
//! them. A figure stands beside that of the same round without capture, or of another way; what is quoted is the median of
//! these ratios with the least and the most.
//!
//! What it does not do: it says nothing of other machines, and its times are of no use without the ratios. It assumes
//! Linux's `/proc` and a PostgreSQL of local binaries.

mod allocations;
mod arguments;
mod backlog;
mod bench;
mod case;
mod child;
mod docs;
mod load;
mod machine;
mod meter;
mod output;
mod plot;
mod probe;
mod readers;
mod replica;
mod scenarios;
mod site;
mod sql;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

pub use allocations::Counting;
use arguments::{Arguments, Command, Run};
use bench::{Bench, Scale};
use scenarios::Scenario;

/// The driver, and the readers of the other ways.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::runtime::Runtime::new().context("cannot start").and_then(|runtime| {
        runtime.block_on(async {
            match arguments.command {
                Command::Run(run) => measure(run).await,
                Command::Reader { reader } => reader.run().await,
            }
        })
    });
    exit(done)
}

/// dapper's replica.
#[must_use]
pub fn replica() -> ExitCode {
    replica::main()
}

/// Prints what the ways of reading a payload allocate; the program must have [`Counting`].
#[must_use]
pub fn parser_allocations() -> ExitCode {
    exit(scenarios::parser::print_allocations())
}

fn exit(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(run: Run) -> Result<()> {
    let bench = Bench::new(scale(&run), run.results.clone())?;
    let all = Scenario::value_variants();
    let scenarios = if run.scenario.is_empty() { all } else { &run.scenario };
    if !run.kept {
        for scenario in scenarios {
            scenario.run(&bench).await.with_context(|| format!("scenario {}", scenario.name()))?;
        }
    }
    if run.json {
        println!("{}", serde_json::to_string_pretty(&bench::kept(&run.results)?)?);
    }
    match &run.write_docs {
        Some(page) => docs::write(&run.results, page),
        None => Ok(()),
    }
}

fn scale(run: &Run) -> Scale {
    let quick = run.quick;
    Scale {
        rounds: if quick { 1 } else { run.rounds },
        seconds: if quick { 1 } else { run.seconds },
        backlog: if quick { 4_000 } else { run.backlog },
        largest_backlog: if quick { 100_000 } else { run.largest_backlog },
        is_quick: quick,
        rivals: run.rivals.clone(),
        chosen: run.cases.clone(),
    }
}
