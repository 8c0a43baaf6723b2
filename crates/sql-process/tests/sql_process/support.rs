//! A database with a table to write into, and processes that do.

use std::error::Error;
use std::time::Duration;

use dapper_core::{Event, Operation, Process, ProcessConfig, ProcessError};
use dapper_sql_process::{SqlErrorKind, SqlProcess, SqlProcessError};
use dapper_testkit::Database;
use tokio_postgres::Client;

/// Far longer than anything takes that is not stuck.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const ADD: &str = "UPDATE counter SET n = n + 1";

pub(crate) struct Stage {
    pub(crate) database: Database,
    pub(crate) client: Client,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        client
            .batch_execute("CREATE TABLE counter (n bigint); INSERT INTO counter VALUES (0)")
            .await
            .unwrap();
        Self { database, client }
    }

    pub(crate) fn process(&self, statement: &str, more: &[(&str, &str)]) -> SqlProcess {
        SqlProcess::new(&self.config(&self.database.url(), statement, more)).unwrap()
    }

    pub(crate) fn config(&self, url: &str, statement: &str, more: &[(&str, &str)]) -> ProcessConfig {
        let given = [("connection_string", url), ("statement", statement)];
        let execution_context =
            given.iter().chain(more).map(|&(key, value)| (key.into(), value.into())).collect();
        ProcessConfig { name: "count".into(), kind: "sql".into(), execution_context }
    }

    pub(crate) async fn count(&self) -> i64 {
        self.client.query_one("SELECT n FROM counter", &[]).await.unwrap().get(0)
    }

    /// Sessions of processes, but for those that look.
    pub(crate) async fn sessions(&self) -> Vec<i32> {
        let statement = "SELECT pid FROM pg_stat_activity
                          WHERE datname = current_database() AND application_name = 'dapper count'";
        self.client.query(statement, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Waits until a query with one boolean in its answer says so.
    pub(crate) async fn until(&self, query: &str) {
        let started = tokio::time::Instant::now();
        while !self.client.query_one(query, &[]).await.unwrap().get::<_, bool>(0) {
            assert!(started.elapsed() < LIMIT, "not true in time: {query}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn event(number: u32, token: u64) -> Event {
    let mut event = Event::new("orders", Operation::Update, number.to_string(), "orders_input");
    event.event_id = Some(format!("6f0c31c8-3c0f-4f0e-a6d8-{number:012x}/0"));
    event.attempt = Some(1);
    event.token = Some(token);
    event
}

/// Runs it; the error is the process's own.
pub(crate) async fn run(process: &SqlProcess, event: &Event) -> Result<(), SqlProcessError> {
    match process.run(event).await {
        Ok(_) => Ok(()),
        Err(ProcessError::Failed { source, .. }) => Err(*source.downcast().unwrap()),
        Err(other) => panic!("{other:?}"),
    }
}

pub(crate) async fn fails(process: &SqlProcess, event: &Event, kind: SqlErrorKind) -> String {
    let error = run(process, event).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    chain(&error)
}

/// The error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}
