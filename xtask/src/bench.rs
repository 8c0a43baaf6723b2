//! `cargo xtask bench`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::metadata;
use crate::steps::{cargo, root, run, seconds};

/// A package of its own: its dependencies are none of dapper's, and are in no build but this.
const RIVALS: &str = "crates/bench/rivals/Cargo.toml";
const PAGE: &str = "docs/performance.md";

/// Measure what dapper costs and how fast it is, beside what one would otherwise use, in turns within one run.
///
/// Prints the median of each figure, of its ratio to the same round of the way it is compared with, and how far both are
/// spread; and each target beside its figure. JSON and plots go to target/bench, where a case measured again takes the
/// place of the earlier one. Everything takes hours, and the backlogs gigabytes: --scenario and --case measure a part. Needs local
/// server binaries.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Which scenarios, with commas between: write, drain, latency, growth, parser, memory, idle, cost
    #[arg(long, value_name = "NAMES")]
    scenario: Option<String>,
    /// Only cases whose path, such as write/one-row-8, contains one of these
    #[arg(long = "case", value_name = "PARTS")]
    cases: Option<String>,
    /// How often each way has its turn (5)
    #[arg(long)]
    rounds: Option<u32>,
    /// How long a turn is, in seconds (5)
    #[arg(long)]
    seconds: Option<u32>,
    /// Changes in the backlog that is drained (5,000,000)
    #[arg(long)]
    backlog: Option<u64>,
    /// Change sets in the largest backlog whose growth is looked at (10,000,000)
    #[arg(long)]
    largest_backlog: Option<u64>,
    /// Only show that it runs: least of everything, without optimisation and without the queues of the registry
    #[arg(long)]
    quick: bool,
    /// Measure nothing: with --write-docs or --json, take what earlier runs have left in target/bench
    #[arg(long)]
    kept: bool,
    /// Print the cases as JSON, too
    #[arg(long)]
    json: bool,
    /// Put the tables and plots into docs/performance.md
    #[arg(long)]
    write_docs: bool,
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let start = std::time::Instant::now();
        eprintln!("--- build");
        let mut build = vec!["build", "--package", "dapper-bench", "--bins"];
        build.extend((!self.quick).then_some("--release"));
        run(&cargo(build), "cargo build")?;
        let target = metadata::target_directory()?;
        let rivals = if self.quick || self.kept { None } else { Some(build_rivals(&target)?) };
        eprintln!("--- build: ok, {}", seconds(start.elapsed()));
        let folder = target.join(if self.quick { "debug" } else { "release" });
        let status = duct::cmd(folder.join("bench"), self.arguments(&target, rivals))
            .dir(root())
            .unchecked()
            .run()
            .context("cannot run the program bench")?
            .status;
        // Whatever is no plain exit (a signal) is a failure, too.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }

    fn arguments(self, target: &Path, rivals: Option<PathBuf>) -> Vec<OsString> {
        // What only shows that it runs must not take the place of what was measured.
        let results = target.join(if self.quick { "bench-quick" } else { "bench" });
        let mut arguments: Vec<OsString> = vec!["run".into(), "--results".into(), results.into()];
        let numbers = [
            ("--rounds", self.rounds.map(u64::from)),
            ("--seconds", self.seconds.map(u64::from)),
            ("--backlog", self.backlog),
            ("--largest-backlog", self.largest_backlog),
        ];
        for (flag, number) in numbers {
            arguments.extend(number.into_iter().flat_map(|number| [flag.into(), number.to_string().into()]));
        }
        for (flag, text) in [("--scenario", self.scenario), ("--case", self.cases)] {
            arguments.extend(text.into_iter().flat_map(|text| [flag.into(), text.into()]));
        }
        for (flag, is_wanted) in [("--quick", self.quick), ("--kept", self.kept), ("--json", self.json)] {
            arguments.extend(is_wanted.then(|| flag.into()));
        }
        arguments
            .extend(rivals.into_iter().flat_map(|program| ["--rivals".into(), program.into_os_string()]));
        if self.write_docs {
            arguments.extend(["--write-docs".into(), root().join(PAGE).into_os_string()]);
        }
        arguments
    }
}

/// Builds the queues that take part in draining, and says where their program is.
fn build_rivals(target: &Path) -> Result<PathBuf> {
    let folder = target.join("rivals");
    let build = cargo(["build", "--release", "--locked", "--manifest-path", RIVALS]);
    run(&build.env("CARGO_TARGET_DIR", &folder), "cargo build of the rivals")?;
    Ok(folder.join("release/bench-rivals"))
}
