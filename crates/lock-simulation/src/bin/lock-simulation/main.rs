//! `lock-simulation simulate | model`: the lease machine under simulated faults, and under every interleaving of a small
//! configuration. `cargo xtask simulate` and `cargo xtask model` run it.

mod model;
mod simulate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The lease machine under simulated faults, and under every interleaving of a small configuration.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Simulate(simulate::Simulate),
    Model(model::Model),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Simulate(simulate) => simulate.run(),
        Command::Model(model) => model.run(),
    };
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
