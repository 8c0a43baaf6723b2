//! `cargo xtask demo`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::etcd;
use crate::play::Program;

/// Play the demo: rows become webhook calls, a leader is killed, another takes over, nothing is lost.
///
/// Builds `dapper`, raises a throw-away PostgreSQL, a webhook receiver and the replicas, writes inserts, updates and
/// deletes, kills the leader with `kill -9` a third of the way in, stops the next one with SIGTERM at two thirds, and
/// ends with a table. Exit code 1 if anything was lost, repeated unmarked or out of order.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Where the replicas keep their lease; with `memory` there is only one, and none takes over
    #[arg(long, value_enum, default_value_t = Backend::Postgres)]
    backend: Backend,
    /// How long to write, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    seconds: u64,
    /// How many replicas to run; two of them are stopped on the way, so at least 3
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=32))]
    replicas: u32,
    /// Changed rows per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Print the result as JSON on stdout, and all else on stderr
    #[arg(long)]
    json: bool,
    /// Build optimised, which takes longer to compile; for high rates
    #[arg(long)]
    release: bool,
}

/// A lock backend of `dapper`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    Postgres,
    Etcd,
    Memory,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
            Self::Memory => "memory",
        }
    }
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut features = Vec::new();
        if self.backend == Backend::Etcd {
            etcd::can_test().map_err(anyhow::Error::msg)?;
            features.extend(["--features", etcd::FEATURE]);
        }
        let program = Program::build("demo", self.release, &features)?;
        let mut arguments: Vec<OsString> = vec!["--backend".into(), self.backend.name().into()];
        for (name, value) in
            [("--seconds", self.seconds), ("--replicas", self.replicas.into()), ("--rate", self.rate.into())]
        {
            arguments.extend([name.into(), value.to_string().into()]);
        }
        arguments.extend(self.json.then(|| "--json".into()));
        program.run(arguments)
    }
}
