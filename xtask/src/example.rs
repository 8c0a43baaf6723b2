//! The example crate outside the workspace.

use std::fs;

use anyhow::{Context, Result};
use duct::Expression;

use crate::metadata;
use crate::steps::{cargo, root};

const FOLDER: &str = "docs/examples/custom-lock-store";

/// `cargo COMMAND` for the example, in the workspace's target folder and with the versions of its lock file, so that
/// little is built twice and nothing is asked of a registry that the workspace did not ask.
pub(crate) fn cargo_example(command: &str, more: &[&str]) -> Result<Expression> {
    let folder = root().join(FOLDER);
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    let manifest = folder.join("Cargo.toml").into_os_string();
    let target = metadata::target_directory()?.into_os_string();
    let mut arguments = vec![command.into(), "--manifest-path".into(), manifest];
    if command != "fmt" {
        arguments.extend(["--target-dir".into(), target]);
    }
    arguments.extend(more.iter().map(Into::into));
    Ok(cargo(arguments))
}
