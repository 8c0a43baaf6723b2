//! `cargo xtask chaos`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::play::Program;

/// Disturb real replicas and a real PostgreSQL at random, and check that every promise is kept.
///
/// Builds `dapper` with its feature `failpoints`, runs several replicas and writers, and injects faults: `kill -9`
/// at random and at named points, SIGSTOP, partitions, restarts and a promotion of PostgreSQL, receivers that fail, DDL. Ends with
/// a table; exit code 1 if anything was lost, invented, repeated unmarked or out of order, a stale token was accepted, or a
/// statement of the application failed. Everything given is passed on; `cargo xtask chaos -- --help` lists it.
///
/// cargo xtask chaos                                                    five minutes of everything
/// cargo xtask chaos --minutes 40 --faults 1000 --events 1000000        the long form
/// cargo xtask chaos --controls                                         breaks each rule, and must notice
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Chaos {
    /// Build unoptimised, which takes most from what `test` has built; must come before the arguments
    #[arg(long)]
    unoptimised: bool,
    /// Arguments for the program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Chaos {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let features = ["--features", "dapper-orchestrator-cli/failpoints"];
        Program::build("chaos", !self.unoptimised, &features)?.run(self.arguments)
    }

    /// As continuous integration does.
    pub(crate) fn short() -> Self {
        Self { unoptimised: true, arguments: ["--minutes", "5", "--rate", "300"].map(OsString::from).into() }
    }
}
