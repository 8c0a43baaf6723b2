//! What the tests of the page need besides Rust: Chromium, and axe-core, which checks whether everybody can use it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Result;

use crate::steps::{cargo, root, run};
use crate::{metadata, packages, test};

/// The package whose tests need them, with its feature `chromium`.
pub(crate) const PACKAGE: &str = "dapper-browser";
/// Names axe.min.js to the tests, and to us where somebody has it already.
pub(crate) const AXE_VARIABLE: &str = "DAPPER_TEST_AXE";

const CHROMIUM_VARIABLE: &str = "DAPPER_TEST_CHROMIUM";
const CHROMIUM_NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// From the Python package index, because that is reachable where npm is not.
const AXE_PACKAGE: &str = "axe-playwright-python==0.1.8";
const AXE_FILE: &str = "axe_playwright_python/axe.min.js";

/// Take the pictures of the page in docs/images, while a real pipeline runs and real faults happen to it.
///
/// Takes about three minutes. Needs Chromium, which is installed where that can be done.
#[derive(Debug, clap::Args)]
pub(crate) struct Screenshots {
    /// How long the pipeline runs before the first picture, in seconds
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(30..=600))]
    run: u64,
}

impl Screenshots {
    pub(crate) fn run(self) -> Result<ExitCode> {
        can_browse().map_err(anyhow::Error::msg)?;
        let mut build = vec!["build", "--package", "dapper-orchestrator-cli", "--package", PACKAGE, "--bins"];
        build.extend(test::docker_feature());
        run(&cargo(build), "cargo build")?;
        let folder = metadata::target_directory()?.join("debug");
        let seconds = self.run.to_string();
        let into = root().join("docs/images");
        let arguments =
            ["--dapper".into(), folder.join("dapper").into_os_string(), "--into".into(), into.into()];
        let program = duct::cmd(
            folder.join("screenshots"),
            arguments.into_iter().chain(["--run".into(), seconds.into()]),
        );
        run(&program, "screenshots")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sees to it that there is a Chromium, by installing one; the error says why there is none.
pub(crate) fn can_browse() -> Result<(), String> {
    static VERDICT: OnceLock<Result<(), String>> = OnceLock::new();
    let see_to = || {
        if is_named(CHROMIUM_VARIABLE) || CHROMIUM_NAMES.iter().any(|name| is_in_path(name)) {
            return Ok(());
        }
        packages::install(&["chromium", "fonts-inter", "fonts-dejavu-core"])
            .map_err(|reason| format!("looking at the page needs Chromium: {reason}"))
    };
    VERDICT.get_or_init(see_to).clone()
}

/// Where axe.min.js is, once it is there; the error says why it is not.
pub(crate) fn axe() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os(AXE_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(named.into());
    }
    let target = metadata::target_directory().map_err(|error| format!("{error:#}"))?;
    let (folder, file) = (target.join("axe"), target.join("axe").join(AXE_FILE));
    if file.is_file() {
        return Ok(file);
    }
    fetch_axe(&folder).map_err(|error| format!("checking the page needs axe-core: {error:#}"))?;
    Ok(file)
}

/// Downloads the package, runs nothing of it, and takes it apart.
fn fetch_axe(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let into = folder.as_os_str();
    let pip =
        ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"].map(Into::into);
    let download = duct::cmd("python3", pip.into_iter().chain([into.to_owned(), AXE_PACKAGE.into()]));
    run(&download.stdout_to_stderr(), "pip download")?;
    for entry in fs::read_dir(folder)? {
        let wheel = entry?.path();
        if wheel.extension().is_some_and(|extension| extension == "whl") {
            let unpack = duct::cmd!("python3", "-m", "zipfile", "-e", &wheel, into);
            run(&unpack, "unpacking")?;
        }
    }
    Ok(())
}

fn is_named(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn is_in_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
