//! One connection to the input's database: set up, checked, and watched.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dapper_connect::{ConnectError, ConnectionString, Driver};
use tokio::sync::{Notify, mpsc, watch};
use tokio_postgres::{AsyncMessage, Client};

use crate::PostgresError;

/// Texts of foreign notifications kept until the reader looks at them; more are counted by their absence.
const FOREIGN_NOTIFICATIONS: usize = 64;

/// What a notification says that comes from somebody who has parked something for the holder to find.
pub(crate) const PARKED: &str = "parked";

/// What a notification says that comes from somebody who has paused or resumed something.
pub(crate) const PAUSED: &str = "paused";

/// No statement of ours may take longer on the server, in milliseconds.
const STATEMENT_TIMEOUT_MS: u32 = 60_000;

/// The oldest server that works, as `server_version_num` counts.
const OLDEST_VERSION: i32 = 130_000;

/// A connection whose driver runs in a task of its own. The task ends when this is dropped.
pub(crate) struct Session {
    client: Client,
    pub(crate) server: Server,
    notifications: Option<Notifications>,
    closed: watch::Receiver<bool>,
}

/// What the server says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) system_identifier: i64,
    pub(crate) timeline: i64,
    pub(crate) database: String,
    pub(crate) role: String,
    pub(crate) prepared_transactions: bool,
}

/// What arrived on the listened-to channel.
pub(crate) struct Notifications {
    /// Notified by each notification; it stores one wake-up, so none is lost between two looks.
    pub(crate) wake: Arc<Notify>,
    /// The texts of notifications that have one; ours have none.
    pub(crate) foreign: mpsc::Receiver<String>,
    /// Set when somebody says that he has parked something.
    pub(crate) parked: Arc<AtomicBool>,
    /// Set when somebody says that he has paused or resumed something.
    pub(crate) paused: Arc<AtomicBool>,
}

impl Notifications {
    fn none() -> (Self, mpsc::Sender<String>) {
        let (sender, foreign) = mpsc::channel(FOREIGN_NOTIFICATIONS);
        (Self { wake: Arc::default(), foreign, parked: Arc::default(), paused: Arc::default() }, sender)
    }
}

impl Session {
    /// Connects, sets the session up and checks the server.
    pub(crate) async fn open(
        connection: &ConnectionString,
        application_name: &str,
    ) -> Result<Self, PostgresError> {
        let limit = connection.connect_timeout();
        let timeout =
            || PostgresError::ConnectTimeout { server: connection.to_string(), seconds: limit.as_secs() };
        tokio::time::timeout(limit, Self::connect(connection, application_name))
            .await
            .map_err(|_| timeout())?
    }

    async fn connect(connection: &ConnectionString, application_name: &str) -> Result<Self, PostgresError> {
        let (client, driver) = connection.connect(application_name).await.map_err(refusal)?;
        let (closed_sender, closed) = watch::channel(false);
        let (notifications, foreign) = Notifications::none();
        let told = (
            Arc::clone(&notifications.wake),
            Arc::clone(&notifications.parked),
            Arc::clone(&notifications.paused),
        );
        tokio::spawn(drive(driver, told, foreign, closed_sender));

        client.batch_execute(&set_up()).await.map_err(PostgresError::statement("setting up the session"))?;
        let server = check(&client, connection).await?;
        Ok(Self { client, server, notifications: Some(notifications), closed })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What arrives on the channel this session listens to; only the first call gets it.
    pub(crate) fn take_notifications(&mut self) -> Notifications {
        self.notifications.take().unwrap_or_else(|| Notifications::none().0)
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.client.is_closed()
    }

    /// Resolves when the connection has ended. Cancel-safe.
    pub(crate) async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the driver is gone, which is the same.
        let _ = closed.wait_for(|&closed| closed).await;
    }
}

/// Polls the connection until it ends. It must never wait for anything else: every query hangs meanwhile.
async fn drive(
    mut connection: Driver,
    (wake, parked, paused): (Arc<Notify>, Arc<AtomicBool>, Arc<AtomicBool>),
    foreign: mpsc::Sender<String>,
    closed: watch::Sender<bool>,
) {
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message {
            if notification.payload() == PARKED {
                parked.store(true, Ordering::Release);
            } else if notification.payload() == PAUSED {
                paused.store(true, Ordering::Release);
            } else if !notification.payload().is_empty() {
                let _ = foreign.try_send(notification.payload().to_owned());
            }
            wake.notify_one();
        }
    }
    // Whoever waits must look up: nothing more will arrive.
    wake.notify_one();
    let _ = closed.send(true);
}

/// A commit of ours must be flushed before anything is delivered, so that no crash of the server can undo what was; a
/// stricter setting (`remote_apply`) stays. The rest keeps text forms and plans independent of the role's defaults.
fn set_up() -> String {
    format!(
        "SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
          WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local');
         SET search_path = ''; SET statement_timeout = {STATEMENT_TIMEOUT_MS}; SET TimeZone = 'UTC';
         SET default_transaction_isolation = 'read committed'; SET idle_in_transaction_session_timeout = '30s';
         SET jit = off; SET client_min_messages = warning;"
    )
}

async fn check(client: &Client, connection: &ConnectionString) -> Result<Server, PostgresError> {
    let doing = "asking the server what it is";
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version_num')::int4,
                    pg_catalog.current_setting('server_version'),
                    pg_catalog.pg_is_in_recovery(),
                    pg_catalog.current_database()::text,
                    current_user::text,
                    pg_catalog.current_setting('max_prepared_transactions')::int4",
            &[],
        )
        .await
        .map_err(PostgresError::statement(doing))?;
    let server = connection.to_string();
    refuse_old(row.get(0), row.get(1), &server)?;
    if row.get(2) {
        return Err(PostgresError::Standby { server });
    }
    let cluster = client
        .query_one(
            // The WAL file's name starts with the timeline; pg_control_checkpoint() is stale after a promotion.
            "SELECT c.system_identifier,
                    ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int8
               FROM pg_catalog.pg_control_system() c",
            &[],
        )
        .await
        .map_err(PostgresError::statement(doing))?;
    Ok(Server {
        system_identifier: cluster.get(0),
        timeline: cluster.get(1),
        database: row.get(3),
        role: row.get(4),
        prepared_transactions: row.get::<_, i32>(5) > 0,
    })
}

fn refuse_old(version_number: i32, version: &str, server: &str) -> Result<(), PostgresError> {
    if version_number >= OLDEST_VERSION {
        return Ok(());
    }
    Err(PostgresError::TooOld { server: server.to_owned(), version: version.to_owned() })
}

/// A refusal of several hosts because none accepts writes is the standby error too.
fn refusal(error: ConnectError) -> PostgresError {
    match error {
        ConnectError::ReadOnly { server } => PostgresError::Standby { server },
        ConnectError::Timeout { server, seconds } => PostgresError::ConnectTimeout { server, seconds },
        source => PostgresError::Connect { source },
    }
}

/// Bounds a wait for the server on our side too: the server's own limit does not help when it no longer answers.
pub(crate) async fn bounded<T>(
    doing: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PostgresError> {
    let limit = Duration::from_millis(u64::from(STATEMENT_TIMEOUT_MS)) + Duration::from_secs(5);
    match tokio::time::timeout(limit, query).await {
        Ok(result) => result.map_err(PostgresError::statement(doing)),
        Err(_) => Err(PostgresError::StatementTimeout { doing, seconds: limit.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_older_than_13_are_refused_by_name() {
        assert!(refuse_old(130_000, "13.0", "db:5432").is_ok());
        let error = refuse_old(120_022, "12.22", "db:5432").unwrap_err();
        assert_eq!(error.to_string(), "PostgreSQL 12.22 at db:5432 is too old; 13 or newer is needed");
    }
}
