//! What can go wrong with a throw-away server.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no server, or not the one that was asked for.
///
/// `Debug` is the message with its causes, because that is what a test that unwraps shows.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No way to a server is open on this machine.
    #[error(
        "no PostgreSQL to test with: {tried}. Set DAPPER_TEST_DATABASE_URL to the URL of a server whose role may \
         create databases, or install one. Debian, Ubuntu: apt-get install postgresql. Fedora: dnf install \
         postgresql-server. macOS: brew install postgresql"
    )]
    NotFound {
        /// What was tried, and why each failed.
        tried: String,
    },
    /// There is no etcd on this machine.
    #[error(
        "no etcd to test with: {reason}. Install one. Debian, Ubuntu: apt-get install etcd-server. macOS: brew install etcd"
    )]
    NoEtcd {
        /// Why there is none.
        reason: String,
    },
    /// A program could not be started, or a file not be written.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A server's program ended with an error.
    #[error("{program} failed: {output}")]
    Program {
        /// The program's path.
        program: PathBuf,
        /// The end of what it said.
        output: String,
    },
    /// The server did not reach the wanted state in time.
    #[error("the server in {directory} was not {state} within {seconds} s: {output}")]
    Timeout {
        /// The server's directory.
        directory: PathBuf,
        /// The state that was waited for.
        state: &'static str,
        /// How long.
        seconds: u64,
        /// The end of its log.
        output: String,
    },
    /// The operation needs a server that runs from local binaries.
    #[error("{operation} needs a server run from local binaries, and this one is {source_name}")]
    Unsupported {
        /// What was asked for.
        operation: &'static str,
        /// Where the server came from.
        source_name: String,
    },
    /// The server refused a connection or a statement.
    #[error("{action} failed")]
    Database {
        /// What was being done.
        action: String,
        /// What the client library says.
        source: tokio_postgres::Error,
    },
    /// `DAPPER_TEST_DATABASE_URL` cannot be used.
    #[error("DAPPER_TEST_DATABASE_URL is not a connection string this can use: {reason}")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// Another caller in this process failed to start the shared server.
    #[error("the shared server did not start: {reason}")]
    Shared {
        /// Why.
        reason: String,
    },
}

impl ServerError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::chain(self))
    }
}
