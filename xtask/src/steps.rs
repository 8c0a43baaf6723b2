//! Running programs as named, timed steps.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use duct::Expression;

/// A sequence of steps. Each prints its name and how long it took; a failed one does not keep the others from running.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    failed: Vec<&'static str>,
    skipped: Vec<&'static str>,
}

impl Steps {
    /// Runs one step.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        eprintln!("--- {name}");
        let start = Instant::now();
        let done = work();
        let time = seconds(start.elapsed());
        match done {
            Ok(()) => eprintln!("--- {name}: ok, {time}"),
            Err(error) => {
                eprintln!("--- {name}: FAILED, {time}: {error:#}");
                self.failed.push(name);
            }
        }
    }

    /// Leaves a step out, and says so here and at the end.
    pub(crate) fn skip(&mut self, name: &'static str, reason: &str) {
        eprintln!("--- {name}: SKIPPED: {reason}");
        self.skipped.push(name);
    }

    /// The verdict.
    pub(crate) fn finish(self) -> Result<()> {
        if !self.skipped.is_empty() {
            eprintln!("--- not done: {}", self.skipped.join(", "));
        }
        if self.failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}", self.failed.join(", "))
    }
}

/// Cargo, in the workspace's root; the same cargo that runs this.
pub(crate) fn cargo<Argument: Into<OsString>>(arguments: impl IntoIterator<Item = Argument>) -> Expression {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    duct::cmd(program, arguments).dir(root())
}

/// Runs it, and fails if it does.
pub(crate) fn run(expression: &Expression, name: &str) -> Result<()> {
    let output = expression.unchecked().run().with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{name} ended with {}", output.status)
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_runs_and_each_failure_is_named() {
        let mut steps = Steps::default();
        let mut ran = 0;
        steps.step("first", || bail!("as asked"));
        steps.step("second", || {
            ran += 1;
            Ok(())
        });
        steps.step("third", || run(&duct::cmd!("false"), "false"));
        let error = steps.finish().unwrap_err().to_string();
        assert_eq!((ran, error.as_str()), (1, "failed: first, third"));
        assert!(Steps::default().finish().is_ok());
    }

    #[test]
    fn the_root_is_the_workspaces() {
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
