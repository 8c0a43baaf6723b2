//! `cargo xtask fix`.

use anyhow::Result;

use crate::steps::{Steps, cargo, run};
use crate::{etcd, metadata};

/// Format the code and apply what clippy can fix by itself; changes files.
#[derive(Debug, clap::Args)]
pub(crate) struct Fix {}

impl Fix {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        steps.step("clippy --fix", || {
            let everything = etcd::everything(&metadata::load()?);
            let arguments = ["clippy", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
            let arguments = arguments.map(str::to_owned).into_iter().chain(everything);
            run(&cargo(arguments), "cargo clippy --fix")
        });
        if let Err(reason) = etcd::can_build() {
            steps.skip("clippy --fix of etcd", &reason);
        }
        steps.step("fmt", || run(&cargo(["fmt", "--all"]), "cargo fmt"));
        steps.finish()
    }
}
