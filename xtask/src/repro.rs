//! `cargo xtask repro`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::steps::{cargo, root, run};
use crate::{metadata, test};

/// Show bugs that others had: a naive version of the mechanism has each, dapper in the same scenario has not.
///
/// Each row runs on a real PostgreSQL, or in the simulated time of the lease machine. Exit code 1 unless every naive
/// version came to harm and dapper never did. The rows are listed in docs/reliability.md. All of them take about a minute.
#[derive(Debug, clap::Args)]
pub(crate) struct Repro {
    /// Which rows
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "list", "markdown"])]
    names: Vec<String>,
    /// All rows
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Only say what rows there are
    #[arg(long, conflicts_with_all = ["names", "all"])]
    list: bool,
    /// Only print the table for docs/reliability.md
    #[arg(long, conflicts_with_all = ["names", "all", "list", "json"])]
    markdown: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// How many rows are played at once (3)
    #[arg(long, value_name = "COUNT")]
    jobs: Option<u8>,
}

impl Repro {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut build = vec!["build", "--package", "dapper-repro", "--bins"];
        build.extend(test::docker_feature());
        run(&cargo(build), "cargo build")?;
        let mut arguments: Vec<OsString> = self.names.into_iter().map(Into::into).collect();
        for (is_wanted, flag) in
            [(self.all, "--all"), (self.list, "--list"), (self.markdown, "--markdown"), (self.json, "--json")]
        {
            arguments.extend(is_wanted.then(|| flag.into()));
        }
        arguments.extend(self.jobs.into_iter().flat_map(|jobs| ["--jobs".into(), jobs.to_string().into()]));
        let program = metadata::target_directory()?.join("debug").join("repro");
        let status = duct::cmd(program, arguments)
            .dir(root())
            .unchecked()
            .run()
            .context("cannot run the program repro")?
            .status;
        // Whatever is no plain exit (a signal) is a failure, too.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
