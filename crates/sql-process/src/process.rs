//! The process itself.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus, Registry};
use dapper_inbox::{Accepted, Inbox, Incoming};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::ToSql;

use crate::error::SqlProcessError;
use crate::fields::Text;
use crate::pool::{self, Connection, Pool};
use crate::settings::Settings;

/// The type under which [`register`] registers the process.
pub const KIND: &str = "sql";

/// Whatever the role's defaults are. Conflicts are then settled by waiting, without an error.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Runs a statement for each event; see the documentation of the crate.
pub struct SqlProcess {
    name: String,
    settings: Settings,
    pool: Pool,
}

/// Adds the process to `registry`, under type [`KIND`].
pub fn register(registry: &mut Registry) {
    registry.register_process(KIND, |config| {
        let name = config.name.clone();
        match SqlProcess::new(&config) {
            Ok(process) => Ok(Arc::new(process)),
            Err(error) => Err(error.into_config_error(name)),
        }
    });
}

/// Connects as the process would, and lets the server check the statement; says what is there, without a secret. Changes
/// nothing: an inbox that is not there yet is only mentioned.
///
/// # Errors
/// When the configuration can't be used, the server can't be reached, or it refuses the statement.
pub async fn probe(config: &ProcessConfig) -> Result<String, SqlProcessError> {
    let settings = Settings::read(config)?;
    let look = async {
        let client = pool::connect(&settings, "dapper check").await?;
        pool::prepare(&client, &settings).await?;
        let is_missing = match &settings.inbox {
            Some(inbox) => !inbox.is_installed(&client).await?,
            None => false,
        };
        let remark = if is_missing { "; the inbox is not installed yet" } else { "" };
        Ok(format!("PostgreSQL at {}{remark}", settings.connection))
    };
    let deadline = Instant::now() + settings.timeout;
    bounded(deadline, &settings, "looking at the database", look).await
}

/// Installs the process's inbox where it is not there yet; says where it is, and nothing for a process without one.
///
/// # Errors
/// When the configuration can't be used, the server can't be reached, or the role may not.
pub async fn install(config: &ProcessConfig) -> Result<Option<String>, SqlProcessError> {
    let settings = Settings::read(config)?;
    let Some(inbox) = &settings.inbox else { return Ok(None) };
    let work = async {
        let mut client = pool::connect(&settings, "dapper install").await?;
        inbox.install(&mut client).await?;
        Ok(Some(format!("inbox in schema {} is in place", inbox.schema())))
    };
    let deadline = Instant::now() + settings.timeout;
    bounded(deadline, &settings, "installing the inbox", work).await
}

/// The script that [`install`] would run, and where; nothing where nothing is to be done. Changes nothing.
///
/// # Errors
/// When the configuration can't be used or the server can't be reached.
pub async fn plan_install(config: &ProcessConfig) -> Result<Option<(String, String)>, SqlProcessError> {
    let settings = Settings::read(config)?;
    let Some(inbox) = &settings.inbox else { return Ok(None) };
    let look = async {
        let client = pool::connect(&settings, "dapper install").await?;
        let script = inbox.plan_install(&client).await?;
        Ok(script.map(|script| (settings.connection.to_string(), script)))
    };
    let deadline = Instant::now() + settings.timeout;
    bounded(deadline, &settings, "looking at the database", look).await
}

impl SqlProcess {
    /// Makes the process; it does not connect.
    ///
    /// # Errors
    /// When the execution context is not as the documentation of the crate has it.
    pub fn new(config: &ProcessConfig) -> Result<Self, SqlProcessError> {
        let settings = Settings::read(config)?;
        Ok(Self { pool: Pool::new(&config.name), name: config.name.clone(), settings })
    }

    /// Handles an event. When it is dropped in the middle, what was done is rolled back, or, when the commit was on its way,
    /// may be committed.
    async fn call(&self, event: &Event) -> Result<ProcessStatus, SqlProcessError> {
        let incoming = self.incoming(event)?;
        let deadline = Instant::now() + self.settings.timeout;
        let taken = self.pool.take(&self.settings);
        let taken = bounded(deadline, &self.settings, "getting a connection", taken).await?;
        let work = self.work(&taken.connection, event, incoming);
        let is_new = bounded(deadline, &self.settings, "running the statement", work).await?;
        // One statement after the other: were the commit sent before the answer to the statement is there, an error on the
        // way could commit the inbox's part alone.
        let committed = timeout_at(deadline, taken.connection.client.batch_execute("COMMIT")).await;
        match committed {
            Ok(Ok(())) => taken.give_back(),
            Ok(Err(source)) => return Err(commit_failed(source)),
            Err(_) => return Err(SqlProcessError::UnknownOutcome { source: None }),
        }
        let mut status = ProcessStatus::success(&self.name);
        if !is_new {
            status.logs.push("the inbox has seen this event".to_owned());
        }
        Ok(status)
    }

    /// Whether the event is new; then the statement was run. A transaction is open afterwards.
    async fn work(
        &self,
        connection: &Connection,
        event: &Event,
        incoming: Option<(&Inbox, Incoming<'_>)>,
    ) -> Result<bool, SqlProcessError> {
        let Connection { client, statement } = connection;
        let failed = |task| move |source| SqlProcessError::Failed { task, source };
        client.batch_execute(BEGIN).await.map_err(failed("beginning the transaction"))?;
        if let Some((inbox, incoming)) = incoming
            && inbox.accept_in(client, &incoming).await? == Accepted::Seen
        {
            return Ok(false);
        }
        let values: Vec<Text> =
            self.settings.template.fields.iter().map(|field| field.value(event)).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|it| it as &(dyn ToSql + Sync)).collect();
        client.execute(statement, &parameters).await.map_err(failed("running the statement"))?;
        Ok(true)
    }

    fn incoming<'e>(
        &'e self,
        event: &'e Event,
    ) -> Result<Option<(&'e Inbox, Incoming<'e>)>, SqlProcessError> {
        let Some(inbox) = &self.settings.inbox else { return Ok(None) };
        let id = event.event_id.as_deref().ok_or(SqlProcessError::NoEventId)?;
        Ok(Some((inbox, Incoming::new(id, &event.trigger).with_token(event.token))))
    }
}

/// Without an answer, or with one that a server gives while it goes down, the commit may have been done.
fn commit_failed(source: tokio_postgres::Error) -> SqlProcessError {
    let is_certain =
        source.code().is_some_and(|code| !matches!(&code.code()[..2], "08" | "57" | "58" | "XX"));
    if is_certain {
        SqlProcessError::Failed { task: "committing the transaction", source }
    } else {
        SqlProcessError::UnknownOutcome { source: Some(source) }
    }
}

async fn bounded<T>(
    deadline: Instant,
    settings: &Settings,
    task: &'static str,
    work: impl Future<Output = Result<T, SqlProcessError>>,
) -> Result<T, SqlProcessError> {
    let late = |_| SqlProcessError::Timeout { task, timeout: settings.timeout };
    timeout_at(deadline, work).await.map_err(late)?
}

#[async_trait]
impl Process for SqlProcess {
    fn id(&self) -> &str {
        &self.name
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        self.call(event)
            .await
            .map_err(|error| ProcessError::Failed { process: self.name.clone(), source: error.into() })
    }
}

impl fmt::Debug for SqlProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlProcess")
            .field("name", &self.name)
            .field("connection", &self.settings.connection)
            .finish_non_exhaustive()
    }
}
