//! The binary at work on a database.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{CANARY, Dapper, SMALL};
use dapper_testkit::{Database, Receiver};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// Nothing here takes nearly as long, not even on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A `dapper run` that is killed when the test ends.
struct Running {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(pipeline: &str, database: &Database) -> Self {
        Self::start_with(pipeline, database, &[])
    }

    fn start_with(pipeline: &str, database: &Database, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_dapper"))
            .args(["run", "pipeline.toml"])
            .args(arguments)
            .current_dir(folder.path())
            .env_clear()
            .env("DATABASE_URL", database.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err, _folder: folder }
    }

    /// Waits for a log line that contains `text`.
    async fn logged(&mut self, text: &str) {
        let mut seen = Vec::new();
        let found = timeout(LIMIT, async {
            while let Some(line) = self.err.next_line().await.unwrap() {
                if line.contains(text) {
                    return true;
                }
                seen.push(line);
            }
            false
        });
        assert!(matches!(found.await, Ok(true)), "{text:?} is not in the logs: {seen:#?}");
    }

    async fn printed(&mut self) -> String {
        timeout(LIMIT, self.out.next_line()).await.unwrap().unwrap().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    async fn exit_code(mut self) -> Option<i32> {
        timeout(LIMIT, self.child.wait()).await.unwrap().unwrap().code()
    }
}

async fn database() -> (Database, tokio_postgres::Client) {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY)").await.unwrap();
    (database, client)
}

#[tokio::test]
async fn rows_become_lines_and_a_signal_ends_it_well() {
    let (database, client) = database().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut dapper = Running::start(SMALL, &database);
        dapper.logged("tables under capture").await;
        client.batch_execute("INSERT INTO orders VALUES (42); DELETE FROM orders").await.unwrap();
        let (created, deleted) = (dapper.printed().await, dapper.printed().await);
        let start =
            r#"{"location":"orders","operation":"create","id":"42","trigger":"orders_input","event_id":""#;
        assert!(created.starts_with(start), "{created}");
        assert!(deleted.contains(r#""operation":"delete","id":"42""#), "{deleted}");
        dapper.signal(signal);
        dapper.logged("stopped").await;
        assert_eq!(dapper.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let context = format!(
        "type = \"webhook\"\n[processes.execution_context]\nurl = \"http://{}\"",
        silent.local_addr().unwrap()
    );
    let pipeline = SMALL.replace("type = \"log\"", &context);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let (database, client) = database().await;
        let mut dapper = Running::start(&pipeline, &database);
        dapper.logged("tables under capture").await;
        client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
        let _never_answered = timeout(LIMIT, silent.accept()).await.unwrap().unwrap();
        dapper.signal(Signal::SIGTERM);
        dapper.logged("stopping: finishing").await;
        dapper.signal(signal);
        assert_eq!(dapper.exit_code().await, Some(code));
    }
}

#[tokio::test]
async fn check_reaches_and_changes_nothing_and_uninstall_leaves_nothing() {
    let (database, client) = database().await;
    let said = |arguments: &[&str]| Dapper::new(SMALL, arguments).env("DATABASE_URL", &database.url()).run();
    let schemas = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'dapper%orders%'";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let checked = said(&["check", "pipeline.toml"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("reached  input \"orders-input\": PostgreSQL "), "{}", checked.out);
    assert_eq!(schemas().await, 0);

    let mut dapper = Running::start(SMALL, &database);
    dapper.logged("tables under capture").await;
    assert_eq!(schemas().await, 1);
    dapper.signal(Signal::SIGTERM);
    assert_eq!(dapper.exit_code().await, Some(0));
    let removed = said(&["uninstall", "pipeline.toml"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let expected =
        "orders-input: removed the triggers of public.orders; dropped schema dapper_orders_input\n";
    assert_eq!(removed.out, expected);
    assert_eq!(schemas().await, 0);
}

#[tokio::test]
async fn no_secret_is_logged_at_work_even_when_everything_is_logged() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    let context = format!(
        "type = \"webhook\"\n[processes.execution_context]\nurl = \"{}?token={CANARY}\"",
        receiver.url()
    );
    let pipeline = SMALL.replace("type = \"log\"", &context);
    let mut dapper =
        Running::start_with(&pipeline, &database, &["--log-level", "trace", "--log-format", "json"]);
    let mut logs = Vec::new();
    let mut stopping = false;
    let all = async {
        while let Some(line) = dapper.err.next_line().await.unwrap() {
            if line.contains("tables under capture") {
                client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
            }
            if !stopping && receiver.count() > 0 {
                stopping = true;
                kill(Pid::from_raw(dapper.child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
            }
            logs.push(line);
        }
    };
    timeout(LIMIT, all).await.unwrap();
    assert!(stopping && logs.iter().any(|line| line.contains("\"level\":\"TRACE\"")), "{logs:#?}");
    for line in logs {
        assert!(!line.contains(CANARY), "{line}");
    }
}
