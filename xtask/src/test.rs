//! `cargo xtask test`.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use duct::Expression;

use crate::example::cargo_example;
use crate::steps::{Steps, cargo};
use crate::{browser, etcd, postgres_binaries};

/// Run all tests of the workspace, examples in the documentation included, with a PostgreSQL.
///
/// Where there is no etcd its tests are left out, and named at the end; so are those of the page where there is no Chromium. The tests of the example crate in docs/examples
/// come last. Fails when no test ran at all. `cargo xtask test -p dapper-core` runs one crate's; what follows `--` goes to
/// the test programs, such as a part of a test's name.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Test {
    /// Only this package (may be given more than once)
    #[arg(long, short, value_name = "NAME")]
    package: Vec<String>,
    /// Arguments for the test programs
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What the test programs counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let mut total = Tally::default();
        steps.step("test", || self.test(&mut total));
        if self.package.is_empty() {
            match etcd::can_test() {
                Ok(()) => steps.step("test of etcd", || self.test_etcd(&mut total)),
                Err(reason) => steps.skip("test of etcd", &reason),
            }
            match browser::can_browse().and_then(|()| browser::axe()) {
                Ok(axe) => steps.step("test of the page", || self.test_page(&axe, &mut total)),
                Err(reason) => steps.skip("test of the page", &reason),
            }
            steps.step("test of the example", || {
                let more = self.arguments.iter().map(String::as_str);
                let all: Vec<&str> = ["--no-fail-fast", "--"].into_iter().chain(more).collect();
                run_tests(&cargo_example("test", &all)?, &mut total).map(drop)
            });
        }
        let Tally { passed, failed, ignored } = total;
        eprintln!("{passed} tests passed, {failed} failed, {ignored} ignored");
        steps.step("tests ran", || total.verdict());
        steps.finish()
    }

    /// The packages that were asked for, or all but what concerns etcd.
    fn test(&self, total: &mut Tally) -> Result<()> {
        let mut arguments = Vec::new();
        for package in &self.package {
            arguments.extend(["--package", package]);
        }
        if self.package.is_empty() {
            arguments.extend(["--workspace", "--exclude", etcd::PACKAGE]);
            arguments.extend(docker_feature());
        } else if self.package.iter().any(|package| package == etcd::PACKAGE) {
            etcd::can_test().map_err(anyhow::Error::msg)?;
        }
        cargo_test(&arguments, &self.arguments, total).map(drop)
    }

    /// The page in a browser.
    fn test_page(&self, axe: &Path, total: &mut Tally) -> Result<()> {
        let feature = format!("{}/chromium", browser::PACKAGE);
        let mut arguments =
            vec!["test", "--no-fail-fast", "--package", browser::PACKAGE, "--features", &feature];
        arguments.extend(["--test", "page", "--"]);
        arguments.extend(self.arguments.iter().map(String::as_str));
        run_tests(&cargo(arguments).env(browser::AXE_VARIABLE, axe), total).map(drop)
    }

    /// The package for etcd; and of others the tests that need one, which have it in their names.
    fn test_etcd(&self, total: &mut Tally) -> Result<()> {
        let own = ["--package", etcd::PACKAGE];
        if !self.arguments.is_empty() {
            return cargo_test(&own, &self.arguments, total).map(drop);
        }
        cargo_test(&own, &[], total)?.verdict()?;
        for (package, feature, tests) in [
            ("dapper-testkit", "dapper-testkit/etcd", "main"),
            ("dapper-orchestrator-cli", etcd::FEATURE, "integration"),
        ] {
            let arguments = ["--package", package, "--features", feature, "--test", tests];
            cargo_test(&arguments, &["etcd".to_owned()], total)?.verdict()?;
        }
        Ok(())
    }
}

/// Runs tests, with arguments for cargo and for the test programs, and counts them; fails when one does.
fn cargo_test(arguments: &[&str], more: &[String], total: &mut Tally) -> Result<Tally> {
    let more = more.iter().map(String::as_str);
    let arguments = ["test", "--no-fail-fast"].iter().chain(arguments).copied().chain(["--"]).chain(more);
    run_tests(&cargo(arguments), total)
}

fn run_tests(cargo_test: &Expression, total: &mut Tally) -> Result<Tally> {
    // An error of the program comes out of the reader, at the end of the output.
    let reader = cargo_test.unchecked().reader().context("cannot run cargo test")?;
    let mut tally = Tally::default();
    let mut out = std::io::stdout();
    for line in BufReader::new(&reader).split(b'\n') {
        let line = line.context("cannot read what cargo test says")?;
        tally.add(&String::from_utf8_lossy(&line));
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).context("cannot write to stdout")?;
    }
    total.merge(tally);
    let status = reader.try_wait().context("cannot wait for cargo test")?.map(|output| output.status);
    match status {
        Some(status) if !status.success() => {
            bail!("cargo test ended with {status}")
        }
        _ => Ok(tally),
    }
}

impl Tally {
    /// Counts in a line such as `test result: ok. 9 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            let Some((number, what)) = count.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    fn verdict(self) -> Result<()> {
        match self {
            Self { passed: 0, failed: 0, .. } => bail!("no test ran"),
            Self { failed: 0, .. } => Ok(()),
            Self { failed, .. } => bail!("{failed} tests failed"),
        }
    }
}

/// Cargo's arguments that build the testkit with its way to Docker, on machines where that is the way: it is the
/// costliest of its dependencies by far.
pub(crate) fn docker_feature() -> Vec<&'static str> {
    let named = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let engine = named("DOCKER_HOST") || Path::new("/var/run/docker.sock").exists();
    if named("DAPPER_TEST_DATABASE_URL") || postgres_binaries::find().is_some() || !engine {
        return Vec::new();
    }
    vec!["--features", "dapper-testkit/docker"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.add(line));
        tally
    }

    #[test]
    fn results_add_up() {
        let tally = tally(&[
            "running 9 tests",
            "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 15 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.00s",
            "test x ... ok",
        ]);
        assert_eq!(tally, Tally { passed: 24, failed: 2, ignored: 1 });
        assert_eq!(tally.verdict().unwrap_err().to_string(), "2 tests failed");
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        let tally = tally(&["test result: ok. 0 passed; 0 failed; 4 ignored; 0 measured; 7 filtered out"]);
        assert_eq!(tally.verdict().unwrap_err().to_string(), "no test ran");
        assert!(Tally { passed: 1, ..Tally::default() }.verdict().is_ok());
    }
}
