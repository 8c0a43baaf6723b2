//! docs/operations.md is true: its commands are run as they stand there, and what it hands out can be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dapper_testkit::{Server, ServerOptions};

use crate::support::{Dapper, LIMIT};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The blocks of a page in Markdown that are marked by `mark`.
fn blocks(page: &str, mark: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while lines.by_ref().any(|line| line == format!("```sh {mark}")) {
        blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
    }
    blocks
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// All blocks are one shell, as for somebody who reads the page from top to bottom; it ends, and all that it has started
/// with it, with the first command that fails.
#[test]
fn the_page_is_walked_through_command_by_command() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let blocks = blocks(&page, "walk");
    assert!(blocks.len() >= 7, "{} blocks", blocks.len());
    let (server, other) =
        (Server::start(&ServerOptions::default()), Server::start(&ServerOptions::default()));
    let (server, other) = (server.unwrap(), other.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let own = format!(
        "set -eu\ntrap 'kill $(cat *.pid) 2> /dev/null || true' EXIT\ntrap 'exit 1' TERM\nset -x\n{}\n",
        blocks.join("\n")
    );
    let programs = Path::new(env!("CARGO_BIN_EXE_dapper")).parent().unwrap().to_owned();
    let path = format!(
        "{}:{}:{}",
        programs.display(),
        server.bin().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("timeout")
        .args([&(LIMIT * 8).as_secs().to_string(), "sh", "-c", &own.replace("9090", &port)])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .env("DATABASE_URL", server.url("postgres"))
        .env("RESTORED_URL", other.url("postgres"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let logs = || {
        let files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let logs = files.filter(|file| file.extension().is_some_and(|end| end == "log"));
        let text = |file: PathBuf| format!("{}:\n{}\n", file.display(), fs::read_to_string(&file).unwrap());
        logs.map(text).collect::<String>()
    };
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{out}\n{said}\n{}", output.status, logs());
    assert!(out.contains("orders-input"), "{out}");
    assert!(said.lines().last().is_some_and(|line| !line.is_empty()), "{said}");
}

/// The text below a key of a YAML file that holds a whole file, without its indentation.
fn embedded<'t>(yaml: &'t str, key: &str) -> Vec<&'t str> {
    let lines = yaml.lines().skip_while(|line| line.trim() != format!("{key}: |")).skip(1);
    lines.take_while(|line| line.is_empty() || line.starts_with("    ")).map(str::trim_start).collect()
}

#[test]
fn the_pipeline_in_the_manifests_is_one() {
    let yaml = fs::read_to_string(root().join("deploy/kubernetes/dapper.yaml")).unwrap();
    let pipeline = embedded(&yaml, "pipeline.toml").join("\n");
    assert!(pipeline.contains("[[inputs]]"), "{pipeline}");
    let said = Dapper::new(&pipeline, &["check", "--offline", "pipeline.toml"]).run();
    assert_eq!(said.code, Some(0), "{said:?}");
}
