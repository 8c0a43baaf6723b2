//! What can go wrong.

use std::error::Error;
use std::time::Duration;

use dapper_connect::ConnectError;
use dapper_core::ProcessError;
use dapper_inbox::InboxError;

use crate::fields::FIELDS;
use crate::settings::{CONNECTION_STRING, KEYS, MAX_TIMEOUT, STATEMENT};

/// Why a SQL process could not be made, or did not handle an event. Holds no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlProcessError {
    /// The execution context has a key that means nothing here.
    #[error("unknown key {key:?}; did you mean {nearest:?}? Known are {}", KEYS.join(", "))]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// The known key that is most like it.
        nearest: &'static str,
    },
    /// The connection string is missing or can't be used. It is not shown.
    #[error("{CONNECTION_STRING:?} {reason}")]
    ConnectionString {
        /// What is wrong with it.
        reason: String,
    },
    /// The statement can't be used.
    #[error("{STATEMENT:?} {reason}")]
    Statement {
        /// What is wrong with it.
        reason: String,
    },
    /// The statement names a field that events do not have.
    #[error(
        "{STATEMENT:?} has the unknown placeholder :{name}; did you mean :{nearest}? Known are {}",
        placeholders()
    )]
    UnknownPlaceholder {
        /// The name as it was given.
        name: String,
        /// The known name that is most like it.
        nearest: &'static str,
    },
    /// A value is none that its key may have.
    #[error("{key:?} is {text:?}; {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as it was given.
        text: String,
        /// What it may be.
        expected: String,
    },
    /// No connection could be had.
    #[error(transparent)]
    Connect {
        /// Why.
        source: ConnectError,
    },
    /// Something took too long. What was done was not committed.
    #[error("{task} took longer than {timeout:?}")]
    Timeout {
        /// What.
        task: &'static str,
        /// How long the whole call may take.
        timeout: Duration,
    },
    /// The server refused a statement, or the connection broke. What was done was not committed.
    #[error("{task} failed")]
    Failed {
        /// What was to be done.
        task: &'static str,
        /// What happened.
        source: tokio_postgres::Error,
    },
    /// The inbox refused the event, or there is none.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// The event has no id, so that the inbox could not tell a repeat.
    #[error(
        "the event has no event_id, by which the inbox would know it; with inbox = \"false\" it is handled without"
    )]
    NoEventId,
    /// The commit was sent and its answer did not come. With the inbox the repeat finds out whether it was done.
    #[error("whether the transaction was committed is not known")]
    UnknownOutcome {
        /// What happened instead of an answer, where anything did.
        source: Option<tokio_postgres::Error>,
    },
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlErrorKind {
    /// It can: the server is away or busy, or another transaction was in the way.
    Transient,
    /// It can't before somebody has changed something: a syntax error, a missing table, a violated constraint.
    Permanent,
}

impl SqlProcessError {
    /// Whether trying again can help.
    #[must_use]
    pub fn kind(&self) -> SqlErrorKind {
        let is_transient = match self {
            Self::Connect { source } => source.is_transient(),
            Self::Failed { source, .. } => is_transient(source),
            Self::Timeout { .. } | Self::UnknownOutcome { .. } => true,
            Self::Inbox(error) => error.is_transient(),
            _ => false,
        };
        if is_transient { SqlErrorKind::Transient } else { SqlErrorKind::Permanent }
    }

    /// The key of the execution context at fault, where there is one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, .. } => Some(key),
            Self::ConnectionString { .. } | Self::Connect { .. } => Some(CONNECTION_STRING),
            Self::Statement { .. } | Self::UnknownPlaceholder { .. } => Some(STATEMENT),
            Self::Value { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The same as a constructor of the registry says it.
    pub(crate) fn into_config_error(self, process: String) -> ProcessError {
        let cause = self.source().map(|source| format!(": {source}")).unwrap_or_default();
        ProcessError::Config { process, key: self.key().map(str::to_owned), reason: format!("{self}{cause}") }
    }

    pub(crate) fn timeout_out_of_range(key: &'static str, text: &str) -> Self {
        let expected = format!("it must be above 0 and at most {} s", MAX_TIMEOUT.as_secs());
        Self::Value { key, text: text.to_owned(), expected }
    }
}

/// By the class of the server's code: connection, rollback, resources, object in use, intervention, system, cluster.
fn is_transient(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| matches!(&code.code()[..2], "08" | "40" | "53" | "55" | "57" | "58"))
}

fn placeholders() -> String {
    FIELDS.map(|(name, _)| format!(":{name}")).join(", ")
}
