//! What is wrong with an input's database, and what to do about it. Changes nothing.

pub(crate) mod server;
mod storage;
mod tables;

use std::time::Duration;

use dapper_core::InputConfig;
use tokio_postgres::Client;

use crate::PostgresError;
use crate::layout::{self, Fit};
use crate::options::Options;
use crate::session::Session;
use dapper_connect::ConnectionString;

/// From where on something is a problem.
#[derive(Clone, Copy, Debug)]
struct Thresholds {
    /// A transaction that is open for longer holds back others.
    open: Duration,
    /// A change that waits for longer is not being read.
    unread: Duration,
}

const THRESHOLDS: Thresholds =
    Thresholds { open: Duration::from_secs(5 * 60), unread: Duration::from_secs(60) };

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing, and nothing to do.
    Note,
    /// To be put right.
    Problem,
}

impl Severity {
    /// `ok`, `note` or `problem`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at; one of a fixed set of words, for programs.
    pub topic: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is the case, for people; no secret.
    pub message: String,
    /// What to do about a problem.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(topic: &'static str, message: impl Into<String>) -> Self {
        Self { topic, severity: Severity::Ok, message: message.into(), remedy: None }
    }

    fn note(topic: &'static str, message: impl Into<String>) -> Self {
        Self { topic, severity: Severity::Note, message: message.into(), remedy: None }
    }

    fn problem(topic: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { topic, severity: Severity::Problem, message: message.into(), remedy }
    }
}

/// Looks at everything that decides whether the input works: the server and how it is reached, the role's rights, what is
/// installed, which tables are covered, what is stored, and who holds it back. What stands in the way of looking is a
/// finding, too.
///
/// # Errors
/// Those of the configuration alone.
pub async fn diagnose(config: &InputConfig) -> Result<Vec<Finding>, PostgresError> {
    examine(&Options::parse(config)?, THRESHOLDS).await
}

async fn examine(options: &Options, thresholds: Thresholds) -> Result<Vec<Finding>, PostgresError> {
    let mut findings = Vec::new();
    let session = match Session::open(&options.connection, "dapper doctor").await {
        Ok(session) => session,
        Err(error) => return Ok(vec![unreachable(&error)]),
    };
    if let Err(error) = examine_session(&session, options, thresholds, &mut findings).await {
        let remedy = "see the server's log; if a right is missing, docs/permissions.md lists them";
        findings.push(Finding::problem("doctor", format!("it could not go on: {}", chain(&error)), remedy));
    }
    Ok(findings)
}

async fn examine_session(
    session: &Session,
    options: &Options,
    thresholds: Thresholds,
    findings: &mut Vec<Finding>,
) -> Result<(), PostgresError> {
    let client = session.client();
    findings.extend(server::server(client, &options.connection).await?);
    findings.push(pooler(client, &options.connection).await);
    findings.extend(server::settings(client, options).await?);
    findings.extend(storage::holding_back(client, thresholds).await?);
    findings.extend(server::rights(session, options).await?);
    if !layout(client, options, findings).await? {
        return Ok(());
    }
    findings.extend(storage::missed(client, options).await?);
    findings.extend(tables::tables(client, options).await?);
    findings.extend(storage::cursor(session, options).await?);
    findings.extend(storage::parked(client, options).await?);
    findings.extend(storage::change_sets(client, options, thresholds).await?);
    Ok(())
}

fn unreachable(error: &PostgresError) -> Finding {
    let message = chain(error);
    match error {
        PostgresError::Standby { .. } => {
            Finding::problem("standby", message, "let connection_string lead to the primary")
        }
        PostgresError::TooOld { .. } => Finding::problem("version", message, "upgrade the server"),
        _ => Finding::problem("connection", message, "check address, network, role and password"),
    }
}

/// Says which layout is there. Returns whether it can be looked into.
async fn layout(
    client: &Client,
    options: &Options,
    findings: &mut Vec<Finding>,
) -> Result<bool, PostgresError> {
    let schema = &options.names.schema;
    let install = "run `dapper install`";
    let Some(found) = layout::find(client, schema).await? else {
        findings.push(Finding::problem("layout", format!("schema {schema} is not installed"), install));
        return Ok(false);
    };
    let what = format!("schema {schema} has layout {}", found.layout);
    let (finding, usable) = match found.fit() {
        Fit::Current => (Finding::ok("layout", what), true),
        Fit::NewerUsable => (
            Finding::note(
                "layout",
                format!("{what}, a newer version's; this one runs on it and changes nothing"),
            ),
            true,
        ),
        Fit::NewerUnusable => {
            let what = format!("{what}, which this version does not understand");
            (Finding::problem("layout", what, "use the newer version"), false)
        }
        Fit::OlderUsable => (Finding::note("layout", format!("{what}, an older version's")), true),
        Fit::OlderUnusable => {
            (Finding::problem("layout", format!("{what}, an older version's"), install), false)
        }
    };
    findings.push(finding);
    Ok(usable)
}

/// Whether a pooler hands out the server's sessions by transaction: then two connections that ask in turns, one of them
/// kept busy meanwhile, are answered by one session, or by changing ones.
async fn pooler(one: &Client, connection: &ConnectionString) -> Finding {
    let backend = async |client: &Client| -> Result<i32, tokio_postgres::Error> {
        Ok(client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.get(0))
    };
    let look = async {
        let session = Session::open(connection, "dapper doctor").await.ok()?;
        let two = session.client();
        let (first, second) = (backend(one).await.ok()?, backend(two).await.ok()?);
        one.batch_execute("BEGIN").await.ok()?;
        let inside = backend(two).await;
        one.batch_execute("ROLLBACK").await.ok()?;
        let after = (backend(one).await.ok()?, backend(two).await.ok()?);
        Some(first == second || inside.ok()? != second || after != (first, second))
    };
    match look.await {
        Some(false) => Finding::ok("pooler", "connections have sessions of their own"),
        _ => Finding::problem(
            "pooler",
            "a pooler shares the server's sessions among connections: notifications and leases get lost there",
            "connect to the server itself, or to a pool in session mode",
        ),
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A time in seconds, for people.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A size in bytes, for people.
fn size(bytes: i64) -> String {
    match bytes {
        ..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} kB", bytes / 1024),
        _ => format!("{} MB", bytes / (1024 * 1024)),
    }
}

#[cfg(test)]
mod tests;
