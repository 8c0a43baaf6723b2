//! `cargo xtask failover`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::etcd;
use crate::play::Program;

/// Measure how long it takes until another replica takes over, and that nothing goes wrong meanwhile.
///
/// Builds `dapper` optimised, runs real replicas against a real store, and disturbs the one that holds the lease: by
/// SIGTERM, `kill -9`, SIGSTOP, a silent network, the end of its session, a restart of the server. Ends with a table;
/// exit code 1 if two holders were valid at once, a stale write was accepted, an event was lost or repeated unmarked,
/// or a takeover took too long. docs/failover.md says what is measured. All of it takes about half an hour and wants a
/// quiet machine. What follows `--` goes to the measuring program; `cargo xtask failover -- --help` lists that.
#[derive(Debug, clap::Args)]
pub(crate) struct Failover {
    /// Which store of leases: postgres, etcd or all
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// How many runs of each case (200)
    #[arg(long)]
    runs: Option<u32>,
    /// Which cases, separated by commas (all)
    #[arg(long, value_name = "CASES")]
    cases: Option<String>,
    /// The time to live of the leases (10s)
    #[arg(long)]
    ttl: Option<String>,
    /// How many groups of replicas are disturbed at once, in cases that take about a time to live (25)
    #[arg(long, value_name = "COUNT")]
    parallel: Option<u32>,
    /// Measure instead what so many standbys cost
    #[arg(long, value_name = "COUNT")]
    standbys: Option<u32>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print the result as a table for docs/failover.md
    #[arg(long)]
    markdown: bool,
    /// More arguments for the measuring program
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Failover {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let wanted = self.backend.as_deref().unwrap_or("all");
        let etcd = if wanted == "postgres" { Err(String::new()) } else { etcd::can_test() };
        let (backend, left_out) = match (wanted, &etcd) {
            ("etcd", Err(reason)) => bail!("etcd can't be measured here: {reason}"),
            ("all", Err(reason)) => ("postgres", Some(reason)),
            (wanted, _) => (wanted, None),
        };
        let features: &[&str] = if etcd.is_ok() { &["--features", etcd::FEATURE] } else { &[] };
        let program = Program::build("failover", true, features)?;
        let mut arguments: Vec<OsString> = Vec::new();
        for (name, value) in [
            ("--backend", Some(backend.to_owned())),
            ("--runs", self.runs.map(|runs| runs.to_string())),
            ("--cases", self.cases),
            ("--ttl", self.ttl),
            ("--parallel", self.parallel.map(|count| count.to_string())),
            ("--standbys", self.standbys.map(|count| count.to_string())),
        ] {
            arguments.extend(value.into_iter().flat_map(|value| [name.into(), value.into()]));
        }
        arguments.extend(self.json.then(|| "--json".into()));
        arguments.extend(self.markdown.then(|| "--markdown".into()));
        arguments.extend(self.arguments);
        let code = program.run(arguments);
        if let Some(reason) = left_out {
            eprintln!("left out: etcd: {reason}");
        }
        code
    }
}
