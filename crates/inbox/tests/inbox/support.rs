//! A database with an inbox, and sessions in it.

use std::error::Error;
use std::time::Duration;

use dapper_inbox::{Accepted, Inbox, InboxError, InboxOptions, Incoming};
use dapper_testkit::Database;
use tokio_postgres::{Client, GenericClient};

/// Far longer than anything takes that is not stuck.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const INPUT: &str = "orders_input";

pub(crate) struct Stage {
    pub(crate) database: Database,
    pub(crate) inbox: Inbox,
    /// Looks at the others; never in a transaction.
    pub(crate) watcher: Client,
}

impl Stage {
    /// A database with an inbox, and a table for the effects.
    pub(crate) async fn set() -> Self {
        let database = Database::create().await.unwrap();
        let mut watcher = database.connect().await.unwrap();
        let inbox = inbox("");
        inbox.install(&mut watcher).await.unwrap();
        watcher.batch_execute("CREATE TABLE effects (event_id text NOT NULL, token bigint)").await.unwrap();
        Self { database, inbox, watcher }
    }

    pub(crate) async fn session(&self) -> Client {
        self.database.connect().await.unwrap()
    }

    pub(crate) async fn effects(&self) -> Vec<String> {
        let rows = self.watcher.query("SELECT event_id FROM effects ORDER BY event_id", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until the session waits for a lock.
    pub(crate) async fn until_blocked(&self, pid: i32) {
        let started = tokio::time::Instant::now();
        while !self.is_blocked(pid).await {
            assert!(started.elapsed() < LIMIT, "session {pid} does not wait for a lock");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn is_blocked(&self, pid: i32) -> bool {
        let statement = "SELECT cardinality(pg_blocking_pids($1)) > 0";
        self.watcher.query_one(statement, &[&pid]).await.unwrap().get(0)
    }
}

pub(crate) fn inbox(consumer: &str) -> Inbox {
    Inbox::new(InboxOptions { consumer: consumer.to_owned(), ..InboxOptions::default() }).unwrap()
}

pub(crate) fn event_id(number: u32) -> String {
    format!("6f0c31c8-3c0f-4f0e-a6d8-{number:012x}/0")
}

/// Accepts, and notes the effect where the event is new.
pub(crate) async fn take<C: GenericClient>(
    inbox: &Inbox,
    client: &C,
    id: &str,
    token: u64,
) -> Result<Accepted, InboxError> {
    let accepted = inbox.accept_in(client, &Incoming::new(id, INPUT).with_token(token)).await?;
    if accepted == Accepted::New {
        let token = i64::try_from(token).unwrap();
        client.execute("INSERT INTO effects VALUES ($1, $2)", &[&id, &token]).await.unwrap();
    }
    Ok(accepted)
}

pub(crate) async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

pub(crate) async fn run(client: &Client, statement: &str) {
    client.batch_execute(statement).await.unwrap();
}

/// The error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}
