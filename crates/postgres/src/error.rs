//! What can go wrong between an input and its database.

use dapper_connect::{ConnectError, ConnectionStringError};
use dapper_core::{ErrorKind, InputError};
use dapper_lock::LockError;

/// Why an operation on the input's database failed.
///
/// No variant and no source of one ever holds a password: connection strings are never part of an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// An option of the input can't be used.
    #[error("{reason}")]
    Option {
        /// The configuration key.
        key: String,
        /// What is wrong with its value and what would be right.
        reason: String,
    },
    /// The connection string can't be used.
    #[error("connection_string {reason}")]
    ConnectionString {
        /// What is wrong, without the text itself.
        reason: String,
    },
    /// The server can't be reached, can't prove who it is, or refuses us.
    #[error(transparent)]
    Connect {
        /// Why.
        source: ConnectError,
    },
    /// Connecting took too long.
    #[error(
        "PostgreSQL at {server} did not answer within {seconds} s; is the address right and the network open?"
    )]
    ConnectTimeout {
        /// Hosts, port, database and user.
        server: String,
        /// The limit in seconds.
        seconds: u64,
    },
    /// The answer to a statement did not come in time; whether it was carried out is unknown.
    #[error("{doing} got no answer within {seconds} s")]
    StatementTimeout {
        /// What we were doing.
        doing: &'static str,
        /// The limit in seconds.
        seconds: u64,
    },
    /// The server is a standby.
    #[error(
        "PostgreSQL at {server} is a standby (in recovery): on a standby open transactions look finished and their \
         changes would be lost; point connection_string at the primary"
    )]
    Standby {
        /// Hosts, port, database and user.
        server: String,
    },
    /// The server is too old.
    #[error("PostgreSQL {version} at {server} is too old; 13 or newer is needed")]
    TooOld {
        /// Hosts, port, database and user.
        server: String,
        /// The server's version.
        version: String,
    },
    /// The role may not do what installing needs.
    #[error("role {role:?} {lacks}; grant it, or install once with a role that may")]
    MissingRights {
        /// The role we are connected as.
        role: String,
        /// The right that is missing.
        lacks: String,
    },
    /// Nothing is installed, or too old a layout, and this replica is not the one to install.
    #[error("schema {schema:?} is not installed or too old, and {reason}; run `dapper install`")]
    NotInstalled {
        /// The input's schema.
        schema: String,
        /// Why this replica does not install it.
        reason: String,
    },
    /// A table is not as it should be, and this replica is not the one to change that.
    #[error("{found}, and {reason}; run `dapper install`")]
    Drift {
        /// What differs.
        found: String,
        /// Why this replica does not change it.
        reason: String,
    },
    /// The schema was laid out by a newer version of this software.
    #[error(
        "schema {schema:?} has layout {found}, this version knows {known} and may not change it; use the newer version"
    )]
    NewerLayout {
        /// The input's schema.
        schema: String,
        /// The layout found.
        found: i64,
        /// The newest layout this version knows.
        known: i64,
    },
    /// The cursor belongs to another database cluster.
    #[error(
        "the cursor in schema {schema:?} was written by cluster {expected}, this is cluster {found} (a restored \
         dump?): its transaction ids mean nothing here and changes would be lost; run `dapper rebase` to deliver \
         everything still in change_sets again, marked as a possible repeat"
    )]
    ForeignCluster {
        /// The input's schema.
        schema: String,
        /// The system identifier in the cursor row.
        expected: i64,
        /// The system identifier of the server.
        found: i64,
    },
    /// The cursor is sealed by tokens of another lock store, with which ours can't be compared.
    #[error(
        "the cursor in schema {schema:?} is sealed by the tokens of lock store {sealed_by}, this replica's lease is of \
         lock store {ours}: replicas with different [lock] sections would not exclude each other; run all with the same \
         one, or, to move to this one for good, stop those that use the old one and run `dapper accept-lock-store`"
    )]
    OtherLockStore {
        /// The input's schema.
        schema: String,
        /// The identity of the lock store in the cursor row.
        sealed_by: String,
        /// The identity of the lock store that granted our lease.
        ours: String,
    },
    /// Another replica sealed the cursor with a higher fencing token.
    #[error(
        "the cursor is sealed with fencing token {sealed}, ours is {ours}: another replica has taken over, or the lock \
         store has gone back in time (restored from a backup?), which `dapper accept-lock-store` puts right"
    )]
    Fenced {
        /// The token in the cursor row.
        sealed: u64,
        /// Our token.
        ours: u64,
    },
    /// The lease ended while we held it.
    #[error("the lease on {resource} is lost: {reason}")]
    LeaseLost {
        /// What was leased.
        resource: String,
        /// Why, as the lock manager says.
        reason: String,
    },
    /// The lock could not be had.
    #[error("can't acquire the lease")]
    Lock(#[from] LockError),
    /// A statement failed.
    #[error("{doing} failed")]
    Statement {
        /// What we were doing.
        doing: &'static str,
        /// What the server or the connection says.
        source: tokio_postgres::Error,
    },
    /// The connection ended.
    #[error("the connection to PostgreSQL is lost")]
    ConnectionLost,
    /// A change set could not be understood. Nothing was skipped.
    #[error(
        "change set {seq} can't be understood; the input stops rather than skip it: look at that row of change_sets"
    )]
    ChangeSet {
        /// Its position.
        seq: i64,
        /// Where and why.
        source: dapper_payload::ParseError,
    },
    /// A value of the server has an unexpected form.
    #[error("{what} has the unexpected value {value:?}")]
    Unexpected {
        /// What was read.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// A notification with text arrived; ours are empty. Nothing is lost: notifications carry no data.
    #[error("{count} notification(s) with text on channel {channel:?}, ignored; the last: {detail}")]
    Garbage {
        /// The channel.
        channel: String,
        /// How many since the last report.
        count: u64,
        /// What the last one was, with position and offending text when it could not be parsed.
        detail: String,
    },
    /// Whoever ran the processes dropped events without handling them.
    #[error("events were abandoned by the orchestrator; they will be delivered again")]
    Abandoned,
    /// Nobody takes events any more.
    #[error("nobody takes events any more")]
    SinkClosed,
    /// A table could not be brought under capture.
    #[error("table {table} is not covered")]
    Table {
        /// The table, with its schema.
        table: String,
        /// Why.
        source: Box<PostgresError>,
    },
    /// A table can't be captured, because part of it is a foreign table.
    #[error(
        "its part {part} is a foreign table, whose changes PostgreSQL can't report: writes to its other parts by their own \
         names are captured, writes through it are not; leave it out with `exclude`, or detach the foreign table"
    )]
    ForeignPart {
        /// The foreign table, with its schema.
        part: String,
    },
    /// What is stored has grown beyond the size to warn of.
    #[error(
        "the change sets in schema {schema} take {mebibytes} MiB: either they are not read fast enough, or retention keeps \
         them, or open transactions do; `dapper doctor` says which"
    )]
    Grown {
        /// The input's schema.
        schema: String,
        /// Their size.
        mebibytes: i64,
    },
    /// Statements passed whose changes could not be recorded, as `on_capture_error = "skip"` asks. These changes are lost.
    #[error(
        "the changes of about {statements} statement(s) could not be recorded in schema {schema} and are lost \
         (on_capture_error is \"skip\"); the server's log says of which tables and why; `dapper doctor` says what to do"
    )]
    Missed {
        /// The input's schema.
        schema: String,
        /// How many statements since the count was last reset.
        statements: i64,
    },
    /// Programs died while a process had an event, as often as it may: it is a dead letter.
    #[error(
        "an event of {location} {id:?} is a dead letter: programs died while process {process:?} had it; `dapper dead-letters` \
         shows it and lets you retry or discard it"
    )]
    Killer {
        /// The process's id.
        process: String,
        /// The event's location.
        location: String,
        /// The event's key.
        id: String,
    },
    /// Changes that should be replayed may be gone.
    #[error(
        "changes since {since} are asked for, and those up to {emptied_until} are no longer kept (retention); replay since \
         then, or later"
    )]
    NotRetained {
        /// From when on they are asked for, RFC 3339.
        since: String,
        /// Up to when they may be gone, RFC 3339.
        emptied_until: String,
    },
    /// What is to be skipped is not there, or not any more.
    #[error(
        "there is no {what}: it was handled meanwhile, or is a dead letter already; without --event and --seq `dapper skip` \
         shows what is in the way"
    )]
    NothingToSkip {
        /// What was named.
        what: String,
    },
    /// Replicas of the input are connected.
    #[error(
        "{connections} connection(s) of running replicas of this input are open; stop the replicas first"
    )]
    Running {
        /// How many connections.
        connections: i64,
    },
    /// After a promotion of another server everything unread is delivered marked.
    #[error(
        "the database was promoted (timeline {from} to {to}); changes that were committed on the old primary and \
         did not reach this one are gone; everything not yet read is delivered marked as a possible repeat"
    )]
    Promoted {
        /// The timeline in the cursor row.
        from: i64,
        /// The timeline of the server.
        to: i64,
    },
}

impl PostgresError {
    /// Attaches what we were doing to an error of the client library.
    pub(crate) fn statement(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| {
            if source.is_closed() { Self::ConnectionLost } else { Self::Statement { doing, source } }
        }
    }

    /// Whether it can pass by itself.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Option { .. }
            | Self::ConnectionString { .. }
            | Self::Standby { .. }
            | Self::TooOld { .. }
            | Self::MissingRights { .. }
            | Self::NotInstalled { .. }
            | Self::NewerLayout { .. }
            | Self::NotRetained { .. }
            | Self::NothingToSkip { .. }
            | Self::Running { .. }
            | Self::OtherLockStore { .. }
            | Self::ForeignCluster { .. } => ErrorKind::Permanent,
            Self::Garbage { .. } => ErrorKind::Garbage,
            Self::Table { source, .. } => source.kind(),
            _ => ErrorKind::Transient,
        }
    }

    /// As an error of the input called `input`.
    #[must_use]
    pub fn into_input_error(self, input: &str) -> InputError {
        let input = input.to_owned();
        match self {
            Self::Option { key, reason } => InputError::Config { input, key: Some(key), reason },
            Self::ConnectionString { .. } => {
                InputError::Config { input, key: Some("connection_string".into()), reason: self.to_string() }
            }
            Self::SinkClosed => InputError::SinkClosed { input },
            other => InputError::Failed { input, kind: other.kind(), source: Box::new(other) },
        }
    }
}

impl From<ConnectionStringError> for PostgresError {
    fn from(error: ConnectionStringError) -> Self {
        Self::ConnectionString { reason: error.reason }
    }
}
