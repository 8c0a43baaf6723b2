//! `cargo xtask fix`.

use anyhow::Result;

use crate::steps::{Steps, cargo, run};

/// Format the code and apply what clippy can fix by itself; changes files.
#[derive(Debug, clap::Args)]
pub(crate) struct Fix {}

impl Fix {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        steps.step("clippy --fix", || {
            run(
                &cargo([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--all-features",
                    "--fix",
                    "--allow-dirty",
                    "--allow-staged",
                ]),
                "cargo clippy --fix",
            )
        });
        steps.step("fmt", || run(&cargo(["fmt", "--all"]), "cargo fmt"));
        steps.finish()
    }
}
