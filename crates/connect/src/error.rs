//! What can be wrong with a connection string, and with connecting.

use std::io;
use std::path::PathBuf;

/// A connection string that can't be used. Shows no part of its text but the names of parameters that exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct ConnectionStringError {
    /// What is wrong and what to do about it, to be read after "connection_string".
    pub reason: String,
    /// The parameter at fault, where there is one.
    pub parameter: Option<&'static str>,
}

impl ConnectionStringError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), parameter: None }
    }

    pub(crate) fn of(parameter: &'static str, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), parameter: Some(parameter) }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server can't be reached, or refuses us.
    #[error("can't connect to PostgreSQL at {server}")]
    Refused {
        /// Host, port, database and user.
        server: String,
        /// What the client library says.
        source: tokio_postgres::Error,
    },
    /// Nobody knows the host.
    #[error("can't find the address of {server}")]
    Lookup {
        /// Host, port, database and user.
        server: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// It took too long.
    #[error(
        "PostgreSQL at {server} did not answer within {seconds} s; is the address right and the network open?"
    )]
    Timeout {
        /// Host, port, database and user.
        server: String,
        /// The limit in seconds.
        seconds: u64,
    },
    /// No server of several accepts writes.
    #[error("no server at {server} accepts writes: each is a standby or set to read only")]
    ReadOnly {
        /// Hosts, ports, database and user.
        server: String,
    },
    /// The server, or somebody on the way to it, does without TLS.
    #[error(
        "PostgreSQL at {server} offers no TLS, and sslmode={mode} does not go without; turn it on there (ssl = on). If it \
         is on, somebody between here and there took it away"
    )]
    NoTls {
        /// Host, port, database and user.
        server: String,
        /// What the connection string asks for.
        mode: &'static str,
    },
    /// The server can't prove who it is.
    #[error("the certificate of PostgreSQL at {server} can't be trusted: {reason}")]
    Certificate {
        /// Host, port, database and user.
        server: String,
        /// What is wrong and what to do about it.
        reason: String,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The server refused what we showed, or both have no way of doing TLS in common.
    #[error("PostgreSQL at {server} and this program agree on no TLS session: {reason}")]
    Handshake {
        /// Host, port, database and user.
        server: String,
        /// What is wrong and what to do about it.
        reason: String,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// A file that the connection string names can't be used.
    #[error("{parameter}={path:?} {reason}")]
    File {
        /// Which parameter names it.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// The certificates that this system trusts can't be had.
    #[error("sslrootcert=system: this system has no certificates to trust: {reason}")]
    SystemRoots {
        /// What went wrong.
        reason: String,
    },
}

impl ConnectError {
    /// The client library's error, where the server was spoken to in its protocol.
    #[must_use]
    pub fn postgres(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Refused { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether waiting can help; else somebody has to change something first.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.code().is_none_or(|code| {
                matches!(code.code().get(..2), Some("08" | "40" | "53" | "55" | "57" | "58"))
            }),
            Self::Lookup { .. } | Self::Timeout { .. } | Self::ReadOnly { .. } => true,
            Self::NoTls { .. }
            | Self::Certificate { .. }
            | Self::Handshake { .. }
            | Self::File { .. }
            | Self::SystemRoots { .. } => false,
        }
    }
}
