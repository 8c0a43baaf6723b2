//! A few connections to the database. One goes back only after a transaction that ended well: whatever else happened to it,
//! a call that was dropped in the middle included, it is closed, and the server rolls back what was open.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dapper_inbox::Inbox;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio_postgres::{Client, Statement};

use crate::error::SqlProcessError;
use crate::settings::Settings;

/// So many connections at most, as many as events are handled at once unless the command line says otherwise.
const MAX_CONNECTIONS: usize = 8;

/// Connections, those that nobody uses.
pub(crate) struct Pool {
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
    installed: OnceCell<()>,
    application_name: String,
}

/// A connection that is set up, with the statement prepared.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) statement: Statement,
}

/// A connection in use, closed when dropped.
pub(crate) struct Taken<'p> {
    pub(crate) connection: Connection,
    pool: &'p Pool,
    _permit: SemaphorePermit<'p>,
}

impl Pool {
    pub(crate) fn new(process: &str) -> Self {
        Self {
            permits: Semaphore::new(MAX_CONNECTIONS),
            idle: Mutex::new(Vec::new()),
            installed: OnceCell::new(),
            application_name: format!("dapper {process}"),
        }
    }

    /// A connection of the idle ones, or a new one; waits while too many are in use. Cancel-safe.
    pub(crate) async fn take(&self, settings: &Settings) -> Result<Taken<'_>, SqlProcessError> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) if connection.client.is_closed() => continue,
                Some(connection) => connection,
                None => self.open(settings).await?,
            };
            return Ok(Taken { connection, pool: self, _permit: permit });
        }
    }

    async fn open(&self, settings: &Settings) -> Result<Connection, SqlProcessError> {
        let mut client = connect(settings, &self.application_name).await?;
        if let Some(inbox) = &settings.inbox {
            // Only the first needs to look; when it fails the next one does.
            self.installed.get_or_try_init(|| install(inbox, &mut client)).await?;
        }
        let statement = prepare(&client, settings).await?;
        Ok(Connection { client, statement })
    }
}

impl Taken<'_> {
    /// Keeps the connection for the next event: its transaction has ended well.
    pub(crate) fn give_back(self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.connection);
    }
}

/// Connects, and sets the session up.
pub(crate) async fn connect(settings: &Settings, application_name: &str) -> Result<Client, SqlProcessError> {
    let connected = settings.connection.connect(application_name).await;
    let (client, driver) = connected.map_err(|source| SqlProcessError::Connect { source })?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a connection of a SQL process has ended");
        }
    });
    let task = "setting up the session";
    let done = client.batch_execute(&set_up(settings.statement_timeout)).await;
    done.map_err(|source| SqlProcessError::Failed { task, source })?;
    Ok(client)
}

/// Lets the server say what is wrong with the statement, and which types its parameters have.
pub(crate) async fn prepare(client: &Client, settings: &Settings) -> Result<Statement, SqlProcessError> {
    let task = "preparing the statement";
    let prepared = client.prepare(&settings.template.sql).await;
    prepared.map_err(|source| SqlProcessError::Failed { task, source })
}

async fn install(inbox: &Inbox, client: &mut Client) -> Result<(), SqlProcessError> {
    Ok(inbox.install(client).await?)
}

/// What a crash of the server could undo must not be reported as handled, hence the synchronous commit; a stricter setting
/// (`remote_apply`) stays. A replica that hangs in the middle of a transaction must not hold up its successor for ever, which
/// waits for what it has accepted: hence the limits. Strings are read as the lexer reads them.
fn set_up(limit: Duration) -> String {
    let limit = limit.as_millis();
    format!(
        "SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
          WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local');
         SET standard_conforming_strings = on;
         SET statement_timeout = {limit};
         SET idle_in_transaction_session_timeout = {limit}"
    )
}
