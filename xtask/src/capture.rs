//! `cargo xtask capture`.

use anyhow::Result;
use duct::Expression;

use crate::steps::{cargo, run};

/// Try capture on tables and statements made up from seeds, and rewrite what docs/capture.md says of what was tried.
///
/// Each case makes tables, lets two sessions write to them, and compares the events with what changed and each statement
/// with its fate on a database without us. What fails is told with its seed and as few messages as it needs.
/// `DAPPER_TEST_POSTGRES_BIN` chooses the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Capture {
    /// How many cases; 10,000 take about half an hour on two cores
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,
    /// The first case's seed; `--seed N --cases 1` replays one
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run the documented statements instead, and write their events into docs/capture.md
    #[arg(long, conflicts_with_all = ["cases", "seed", "ancestor", "bytes"])]
    document: bool,
    /// Run the matrix with the ancestor's trigger instead, and write its failures into docs/capture.md
    #[arg(long, conflicts_with_all = ["cases", "seed", "bytes"])]
    ancestor: bool,
    /// Measure instead how many bytes a change takes
    #[arg(long, conflicts_with_all = ["cases", "seed"])]
    bytes: bool,
}

impl Capture {
    pub(crate) fn run(self) -> Result<()> {
        let Self { cases, seed, document, ancestor, bytes } = self;
        let test = if document {
            test("documented_events").env("DAPPER_TEST_WRITE_DOCS", "1")
        } else if ancestor {
            test("ancestors_failures").env("DAPPER_TEST_WRITE_DOCS", "1")
        } else if bytes {
            test("bytes_per_change")
        } else {
            test("generated_cases")
                .env("DAPPER_TEST_CASES", cases.to_string())
                .env("DAPPER_TEST_SEED", seed.to_string())
        };
        run(&test, "the test")
    }
}

/// A test of dapper-postgres, telling what it does.
fn test(name: &str) -> Expression {
    cargo(["test", "--quiet", "--package", "dapper-postgres", "--lib", name, "--", "--nocapture"])
}
