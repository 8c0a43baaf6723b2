//! What can go wrong.

use tokio_postgres::error::SqlState;

use crate::names::SchemaName;
use crate::sql::STALE_TOKEN;

/// Why an event was not accepted. The transaction has failed with it: nothing but rolling back is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// The token is lower than one already seen: the caller, or whoever sent it the event, was replaced. Do nothing, and do
    /// not try again.
    #[error("the token {token} of input {input:?} is stale: token {seen} was seen")]
    StaleToken {
        /// The input.
        input: String,
        /// The token of the event.
        token: u64,
        /// The highest token seen.
        seen: u64,
    },
    /// The transaction got in another's way (a serialization failure or a deadlock). Begin it again.
    #[error("the transaction met another one; begin it again")]
    Conflict {
        /// What the server says.
        source: tokio_postgres::Error,
    },
    /// The schema has no inbox, or this role may not use it.
    #[error(
        "there is no inbox in schema {schema} that this role may use; install it, and grant what docs/inbox.md says"
    )]
    NotInstalled {
        /// The schema.
        schema: SchemaName,
        /// What the server says.
        source: tokio_postgres::Error,
    },
    /// What is installed is not what this program knows.
    #[error("the inbox in schema {schema} has the unknown layout {layout:?}")]
    UnknownLayout {
        /// The schema.
        schema: SchemaName,
        /// What its comment says.
        layout: String,
    },
    /// The token is beyond what the database can store (2⁶³ − 1).
    #[error("the token {token} is out of range")]
    TokenOutOfRange {
        /// The token.
        token: u64,
    },
    /// A statement failed for another reason, such as a lost connection.
    #[error("{task} failed")]
    Statement {
        /// What was to be done.
        task: &'static str,
        /// What happened.
        source: tokio_postgres::Error,
    },
}

impl InboxError {
    /// Whether beginning the transaction again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::Statement { source, .. } => match source.code() {
                None => true,
                // Connection, resources, operator's intervention, timeouts.
                Some(code) => matches!(&code.code()[..2], "08" | "53" | "57" | "58" | "55"),
            },
            Self::StaleToken { .. }
            | Self::NotInstalled { .. }
            | Self::UnknownLayout { .. }
            | Self::TokenOutOfRange { .. } => false,
        }
    }

    /// What the server's answer to a call means.
    pub(crate) fn of(
        task: &'static str,
        schema: &SchemaName,
        stale: Option<(&str, u64)>,
        source: tokio_postgres::Error,
    ) -> Self {
        let Some(code) = source.code() else { return Self::Statement { task, source } };
        if code.code() == STALE_TOKEN
            && let Some((input, token)) = stale
        {
            let seen = source.as_db_error().and_then(|error| error.detail()?.parse().ok());
            return Self::StaleToken { input: input.to_owned(), token, seen: seen.unwrap_or(token + 1) };
        }
        if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) {
            return Self::Conflict { source };
        }
        let absent = [
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::UNDEFINED_TABLE,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        if absent.contains(code) {
            return Self::NotInstalled { schema: schema.clone(), source };
        }
        Self::Statement { task, source }
    }
}
