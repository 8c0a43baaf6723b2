//! Programs of the testkit that run `dapper` itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::steps::{cargo, root, run, seconds};
use crate::{metadata, test};

/// A program of the testkit, built together with `dapper`.
pub(crate) struct Program {
    name: &'static str,
    folder: PathBuf,
}

impl Program {
    /// `features` are Cargo's arguments for more of them.
    pub(crate) fn build(name: &'static str, release: bool, features: &[&'static str]) -> Result<Self> {
        let start = std::time::Instant::now();
        eprintln!("--- build");
        let mut build = vec!["build", "--package", "dapper-orchestrator-cli", "--package", "dapper-testkit"];
        build.extend(["--bin", "dapper", "--bin", name]);
        build.extend(release.then_some("--release"));
        build.extend(test::docker_feature());
        build.extend(features);
        run(&cargo(build), "cargo build")?;
        eprintln!("--- build: ok, {}", seconds(start.elapsed()));
        let folder = metadata::target_directory()?.join(if release { "release" } else { "debug" });
        Ok(Self { name, folder })
    }

    /// Runs it with the path of `dapper` and these arguments, and ends as it does.
    pub(crate) fn run(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<ExitCode> {
        let dapper = [OsString::from("--dapper"), self.folder.join("dapper").into_os_string()];
        let program = duct::cmd(self.folder.join(self.name), dapper.into_iter().chain(arguments));
        let status = program
            .dir(root())
            .unchecked()
            .run()
            .with_context(|| format!("cannot run the program {}", self.name))?
            .status;
        // Whatever is no plain exit (a signal) is a failure, too.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
