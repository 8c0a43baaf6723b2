//! `cargo xtask conformance`.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::etcd;
use crate::steps::{Steps, cargo};

const SUITE: &str = "dapper-lock-conformance";
/// What a test program says behind the name of a case that its harness can't run.
const NOT_COVERED: &str = "ignored, not covered";
/// Checks the list of what is not covered; no case.
const NO_CASE: &str = "nothing_is_left_out_that_could_be_covered";

/// Run the lock store tests on backends, and show on wrong stores that each of them can fail.
///
/// Prints of each backend how many cases passed, which failed, and which its harness can't cover. No case at all is a
/// failure. What could not be run for want of a program is named at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Conformance {
    /// The backend to test
    #[arg(long, value_enum, default_value_t = Backend::All)]
    backend: Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    Memory,
    Postgres,
    Etcd,
    All,
}

/// What became of the cases.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cases {
    passed: usize,
    failed: Vec<String>,
    not_covered: Vec<String>,
}

impl Conformance {
    pub(crate) fn run(self) -> Result<()> {
        let wanted = |backend| self.backend == Backend::All || self.backend == backend;
        let mut steps = Steps::default();
        steps.step("controls", || test(SUITE, "controls::"));
        if wanted(Backend::Memory) {
            steps.step("memory", || test(SUITE, "memory::"));
        }
        if wanted(Backend::Postgres) {
            steps.step("postgres", || test("dapper-lock-postgres", "conformance::"));
        }
        if wanted(Backend::Etcd) {
            match etcd::can_test() {
                Ok(()) => steps.step("etcd", || test(etcd::PACKAGE, "conformance::")),
                Err(reason) if self.backend == Backend::Etcd => bail!("etcd can't be tested here: {reason}"),
                Err(reason) => steps.skip("etcd", &reason),
            }
        }
        steps.finish()
    }
}

/// Runs the tests of a package whose names begin with `prefix`, and says what became of them.
fn test(package: &str, prefix: &str) -> Result<()> {
    let arguments = ["test", "--package", package, "--test", "main", "--no-fail-fast", "--", prefix];
    let reader = cargo(arguments).unchecked().reader().context("cannot run cargo test")?;
    let mut cases = Cases::default();
    let mut out = std::io::stdout();
    for line in BufReader::new(&reader).split(b'\n') {
        let line = line.context("cannot read what cargo test says")?;
        cases.add(&String::from_utf8_lossy(&line), prefix);
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).context("cannot write to stdout")?;
    }
    let status = reader.try_wait().context("cannot wait for cargo test")?.map(|output| output.status);
    println!("{}", cases.summary());
    match status {
        Some(status) if !status.success() => bail!("cargo test ended with {status}"),
        _ => cases.verdict(),
    }
}

impl Cases {
    /// Counts in a line such as `test memory::a_stale_holder_is_told ... ok`.
    fn add(&mut self, line: &str, prefix: &str) {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        let Some(name) = name.strip_prefix(prefix) else { return };
        match result.trim() {
            "ok" if name.ends_with(NO_CASE) => {}
            "ok" => self.passed += 1,
            NOT_COVERED => self.not_covered.push(name.to_owned()),
            // Whatever else it says, it did not pass.
            _ => self.failed.push(name.to_owned()),
        }
    }

    fn summary(&self) -> String {
        let named = |names: &[String]| match names {
            [] => "0".to_owned(),
            names => format!("{} ({})", names.len(), names.join(", ")),
        };
        let (failed, not_covered) = (named(&self.failed), named(&self.not_covered));
        format!("cases passed: {}; failed: {failed}; not covered: {not_covered}", self.passed)
    }

    fn verdict(&self) -> Result<()> {
        match self {
            Self { failed, .. } if !failed.is_empty() => bail!("{} cases failed", failed.len()),
            Self { passed: 0, .. } => bail!("no case ran"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(lines: &[&str]) -> Cases {
        let mut cases = Cases::default();
        lines.iter().for_each(|line| cases.add(line, "memory::"));
        cases
    }

    #[test]
    fn cases_are_counted_and_named() {
        let found = cases(&[
            "running 5 tests",
            "test memory::a_stale_holder_is_told ... ok",
            "test memory::nothing_is_left_out_that_could_be_covered ... ok",
            "test memory::a_restart_frees_nothing ... ignored, not covered",
            "test memory::ended_never_lies ... FAILED",
            "test other::ended_never_lies ... ok",
            "test memory::b::nothing_is_left_out_that_could_be_covered ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.00s",
        ]);
        let expected = "cases passed: 1; failed: 2 (ended_never_lies, \
            b::nothing_is_left_out_that_could_be_covered); not covered: 1 (a_restart_frees_nothing)";
        assert_eq!(found.summary(), expected);
        assert_eq!(found.verdict().unwrap_err().to_string(), "2 cases failed");
    }

    #[test]
    fn no_case_at_all_is_a_failure() {
        let found = cases(&[
            "test memory::nothing_is_left_out_that_could_be_covered ... ok",
            "test memory::a_restart_frees_nothing ... ignored, not covered",
        ]);
        assert_eq!(found.verdict().unwrap_err().to_string(), "no case ran");
        assert!(cases(&["test memory::x ... ok"]).verdict().is_ok());
    }

    #[test]
    fn a_case_that_is_ignored_for_another_reason_has_failed() {
        assert_eq!(cases(&["test memory::x ... ignored"]).failed, ["x"]);
    }
}
