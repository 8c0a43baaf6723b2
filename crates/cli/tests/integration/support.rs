//! Runs the binary on a pipeline file of its own.

use std::fs;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

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
