//! `cargo xtask check`.

use anyhow::{Context, Result, bail};

use crate::example::cargo_example;
use crate::steps::{Steps, cargo, root, run};
use crate::{etcd, headings, layering, metadata};

const ARCHITECTURE: &str = "docs/architecture.md";

/// Check everything that needs no database, and change nothing.
///
/// Formatting; clippy with warnings as errors; both of the example crate in docs/examples, too; which crate may depend
/// on which, and which are built by default; the headings of docs/architecture.md
/// against the crates; documentation with warnings as errors; licences, bans and sources by cargo-deny, if that is
/// installed. All run, even after one has failed. Without protoc, what needs it is left out, and named at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {}

impl Check {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        steps.step("fmt", || run(&cargo(["fmt", "--all", "--", "--check"]), "cargo fmt"));
        steps.step("layering", layering);
        steps.step("architecture", architecture);
        steps.step("clippy", || {
            let everything = etcd::everything(&metadata::load()?);
            let arguments = ["clippy", "--all-targets"].map(str::to_owned).into_iter().chain(everything);
            let lints = ["--", "-D", "warnings"].map(str::to_owned);
            run(&cargo(arguments.chain(lints)), "cargo clippy")
        });
        steps.step("example", || {
            run(&cargo_example("fmt", &["--", "--check"])?, "cargo fmt of the example")?;
            let clippy = cargo_example("clippy", &["--all-targets", "--", "-D", "warnings"])?;
            run(&clippy, "cargo clippy of the example")
        });
        steps.step("doc", || {
            let everything = etcd::everything(&metadata::load()?);
            let arguments = ["doc", "--no-deps"].map(str::to_owned).into_iter().chain(everything);
            run(&cargo(arguments).env("RUSTDOCFLAGS", "-D warnings"), "cargo doc")
        });
        if let Err(reason) = etcd::can_build() {
            steps.skip("clippy and doc of etcd", &reason);
        }
        if has_cargo_deny() {
            steps.step("deny", || {
                let arguments = ["deny", "--workspace", "check", "bans", "licenses", "sources"];
                run(&cargo(arguments), "cargo deny")
            });
        } else {
            steps.skip("deny", "licences, bans and sources need cargo-deny (cargo install cargo-deny)");
        }
        steps.finish()
    }
}

fn layering() -> Result<()> {
    let workspace = metadata::load()?;
    all_well(&[layering::violations(&workspace), etcd::violations(&workspace)].concat())
}

fn architecture() -> Result<()> {
    let path = root().join(ARCHITECTURE);
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {ARCHITECTURE}"))?;
    let workspace = metadata::load()?;
    let crates: Vec<&str> = workspace.members.iter().map(|member| member.name.as_str()).collect();
    all_well(&headings::violations(&text, &crates))
}

fn all_well(violations: &[String]) -> Result<()> {
    match violations {
        [] => Ok(()),
        some => bail!("\n  {}", some.join("\n  ")),
    }
}

fn has_cargo_deny() -> bool {
    let asked = cargo(["deny", "--version"]).stdout_null().stderr_null().unchecked().run();
    asked.is_ok_and(|output| output.status.success())
}
