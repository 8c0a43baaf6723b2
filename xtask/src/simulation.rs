//! `cargo xtask simulate` and `cargo xtask model`.

use std::ffi::OsString;

use anyhow::Result;

use crate::steps::{cargo, run};

/// Try the lease machine under simulated faults, a run per seed, on all cores.
///
/// `--seeds N` says how many (a million by default), `--seed N` replays one and tells what happens, `--break NAME` leaves
/// a rule out and must be noticed; `--help` says more. What is proven by it is in docs/leases.md.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Simulate {
    /// Arguments of the simulation
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Try the lease machine in every interleaving of small configurations, and count the states.
///
/// Takes minutes; `--small` takes seconds. `--break NAME` leaves a rule out and shows the shortest way to the harm. What
/// is proven by it is in docs/leases.md.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Model {
    /// Arguments of the model
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Simulate {
    pub(crate) fn run(self) -> Result<()> {
        run_program("simulate", self.arguments)
    }
}

impl Model {
    pub(crate) fn run(self) -> Result<()> {
        run_program("model", self.arguments)
    }
}

/// Builds it optimised and runs it, from where this was called.
fn run_program(command: &str, arguments: Vec<OsString>) -> Result<()> {
    let mut all: Vec<OsString> =
        ["run", "--quiet", "--release", "--package", "dapper-lock-simulation", "--"].map(Into::into).into();
    all.push(command.into());
    all.extend(arguments);
    run(&cargo(all), command)
}
