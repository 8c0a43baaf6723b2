//! Runs the binary on a pipeline file of its own, to its end or for as long as a test needs it.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use dapper_testkit::Database;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;

/// The design's example.
pub(crate) const EXAMPLE: &str = include_str!("../files/example.toml");

/// Stands for every password and token: must never be seen.
pub(crate) const CANARY: &str = "c4n4ry";

/// A pipeline that needs no server until it runs.
pub(crate) const SMALL: &str = "[[inputs]]
name = \"orders-input\"
type = \"postgres\"
connection_string = \"${DATABASE_URL}\"

[[processes]]
name = \"print\"
type = \"log\"

[[links]]
input = \"orders-input\"
process = \"print\"
";

/// What the binary said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command line on `pipeline`, saved as `pipeline.toml` in a folder of its own, which is the working folder.
pub(crate) struct Dapper {
    folder: TempDir,
    command: Command,
}

impl Dapper {
    pub(crate) fn new(pipeline: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapper"));
        command
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .env("DATABASE_URL", format!("postgres://app:{CANARY}@127.0.0.1:1/app"))
            .env("LOCK_DATABASE_URL", format!("host=127.0.0.1 port=1 user=lock password={CANARY}"))
            .stdin(Stdio::null());
        Self { folder, command }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Said {
        let Output { status, stdout, stderr } = self.command.output().unwrap();
        drop(self.folder);
        let said = Said {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        };
        assert!(!said.out.contains(CANARY) && !said.err.contains(CANARY), "a secret is shown: {said:?}");
        assert!(!said.err.contains("panicked"), "{said:?}");
        said
    }
}

pub(crate) fn dapper(pipeline: &str, arguments: &[&str]) -> Said {
    Dapper::new(pipeline, arguments).run()
}

/// Nothing here takes nearly as long, not even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A `dapper run` that is killed when the test ends.
pub(crate) struct Running {
    child: Child,
    out: Option<Lines<BufReader<ChildStdout>>>,
    pub(crate) err: Lines<BufReader<ChildStderr>>,
    _folder: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(pipeline: &str, database: &Database) -> Self {
        Self::start_with(pipeline, database, &[], &[])
    }

    pub(crate) fn start_with(
        pipeline: &str,
        database: &Database,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let url = database.url();
        let all: Vec<(&str, &str)> =
            [("DATABASE_URL", url.as_str())].into_iter().chain(variables.iter().copied()).collect();
        Self::start_at(pipeline, arguments, &all)
    }

    /// With nothing in its environment but `variables`.
    pub(crate) fn start_at(pipeline: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_dapper"))
            .args(["run", "pipeline.toml"])
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = child.stdout.take().map(|out| BufReader::new(out).lines());
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err, _folder: folder }
    }

    /// Waits for a log line that contains `text`.
    pub(crate) async fn logged(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let found = timeout(LIMIT, async {
            while let Some(line) = self.err.next_line().await.unwrap() {
                if line.contains(text) {
                    return Some(line);
                }
                seen.push(line);
            }
            None
        });
        let found = found.await.ok().flatten();
        found.unwrap_or_else(|| panic!("{text:?} is not in the logs: {seen:#?}"))
    }

    pub(crate) async fn printed(&mut self) -> String {
        timeout(LIMIT, self.out.as_mut().unwrap().next_line()).await.unwrap().unwrap().unwrap()
    }

    /// As when the program behind a pipe ends.
    pub(crate) fn close_output(&mut self) {
        self.out = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    pub(crate) async fn exit_code(mut self) -> Option<i32> {
        timeout(LIMIT, self.child.wait()).await.unwrap().unwrap().code()
    }
}

/// A database with one table.
pub(crate) async fn database() -> (Database, tokio_postgres::Client) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY)").await.unwrap();
    (database, client)
}
