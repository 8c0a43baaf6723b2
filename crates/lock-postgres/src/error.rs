//! What can go wrong with PostgreSQL as a store of leases.

use std::time::Duration;

use dapper_connect::ConnectError;
use dapper_lock::{LockError, LockErrorKind};
use tokio_postgres::error::{Severity, SqlState};

/// The cause of a [`LockError`] of this backend; found through its `source`. No variant shows a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresLockError {
    /// No session could be opened.
    #[error("connecting to PostgreSQL failed")]
    Connect {
        /// Why.
        source: ConnectError,
    },
    /// No session could be opened in time.
    #[error("connecting to PostgreSQL took longer than {limit:?}")]
    ConnectTimeout {
        /// How long it may take.
        limit: Duration,
    },
    /// A statement failed.
    #[error("PostgreSQL failed to {task}")]
    Statement {
        /// What the statement was for.
        task: &'static str,
        /// The client's error.
        source: tokio_postgres::Error,
    },
    /// A statement was not answered in time; its session was given up.
    #[error("PostgreSQL took longer than {limit:?} to {task}")]
    StatementTimeout {
        /// What the statement was for.
        task: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The server is a standby, where nothing can be locked.
    #[error("the server is a standby in recovery: leases are kept on the primary")]
    Standby,
    /// The session that the term lived in was given up or ended.
    #[error("the session of the term is gone")]
    SessionGone,
    /// Two statements of one connection were run by different sessions.
    #[error("a pooler shares the sessions behind this connection: from now on leases do without sessions")]
    SessionShared,
    /// The resource was freed and taken again and again while it was tried.
    #[error("the resource changed hands {rounds} times during one try")]
    Contended {
        /// How often.
        rounds: u32,
    },
    /// The table of leases holds something that this crate did not write.
    #[error("the table of leases has {text:?} as {column}")]
    Garbage {
        /// Which column.
        column: &'static str,
        /// What it holds.
        text: String,
    },
}

impl PostgresLockError {
    /// The name that errors of this backend carry.
    pub(crate) const BACKEND: &'static str = "postgres";

    pub(crate) fn into_lock_error(self) -> LockError {
        LockError::with_source(Self::BACKEND, self.kind(), self)
    }

    /// As [`into_lock_error`](Self::into_lock_error), when a term has been lost with its session.
    pub(crate) fn into_session_lost(self) -> LockError {
        LockError::with_source(Self::BACKEND, LockErrorKind::SessionLost, self)
    }

    fn kind(&self) -> LockErrorKind {
        match self {
            Self::Connect { source: ConnectError::Timeout { .. } } => LockErrorKind::Timeout,
            Self::Connect { source: ConnectError::ReadOnly { .. } } => LockErrorKind::Refused,
            Self::Connect { source } => source.postgres().map_or(LockErrorKind::Unavailable, kind_of),
            Self::Statement { source, .. } => kind_of(source),
            Self::ConnectTimeout { .. } | Self::StatementTimeout { .. } => LockErrorKind::Timeout,
            Self::Standby => LockErrorKind::Refused,
            Self::SessionGone => LockErrorKind::SessionLost,
            Self::SessionShared | Self::Contended { .. } => LockErrorKind::Unavailable,
            Self::Garbage { .. } => LockErrorKind::Inconsistent,
        }
    }

    /// Whether the server answered and goes on serving the session.
    pub(crate) fn leaves_session(&self) -> bool {
        let Self::Statement { source, .. } = self else { return false };
        source.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error))
    }

    /// Whether the table of leases is missing.
    pub(crate) fn is_not_installed(&self) -> bool {
        self.has_code(&SqlState::UNDEFINED_TABLE) || self.has_code(&SqlState::INVALID_SCHEMA_NAME)
    }

    /// Whether somebody else has made at the same moment what the statement was to make.
    pub(crate) fn is_lost_race(&self) -> bool {
        self.has_code(&SqlState::UNIQUE_VIOLATION) || self.has_code(&SqlState::DUPLICATE_SCHEMA)
    }

    fn has_code(&self, code: &SqlState) -> bool {
        matches!(self, Self::Statement { source, .. } if source.code() == Some(code))
    }
}

/// What somebody has to change first is refused; a missing table is not, since the next try installs it.
fn kind_of(error: &tokio_postgres::Error) -> LockErrorKind {
    let Some(code) = error.code() else { return LockErrorKind::Unavailable };
    let not_installed = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
    let class = code.code().get(..2).unwrap_or_default();
    let refused = matches!(class, "0A" | "22" | "28" | "3D" | "3F" | "42")
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION;
    if refused && !not_installed.contains(code) { LockErrorKind::Refused } else { LockErrorKind::Unavailable }
}
