//! What can go wrong with etcd as a store of leases.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use dapper_lock::{LockError, LockErrorKind};
use tonic::Code;

use crate::options::Endpoint;

/// The cause of a [`LockError`] of this backend; found through its `source`. No variant shows a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdLockError {
    /// The options name no endpoint.
    #[error("no endpoint of etcd is given")]
    NoEndpoint,
    /// An endpoint could not be reached, refused the user, or has no quorum behind it.
    #[error("connecting to etcd at {endpoint} failed")]
    Connect {
        /// The endpoint.
        endpoint: String,
        /// What the client says.
        source: ClientError,
    },
    /// An endpoint did not answer in time.
    #[error("connecting to etcd at {endpoint} took longer than {limit:?}")]
    ConnectTimeout {
        /// The endpoint.
        endpoint: String,
        /// How long it could take.
        limit: Duration,
    },
    /// A request failed.
    #[error("etcd failed to {task}")]
    Request {
        /// What the request was for.
        task: &'static str,
        /// What the client says.
        source: ClientError,
    },
    /// A request, or all that was needed before it, was not done in time; the connection was given up.
    #[error("etcd took longer than {limit:?} to {task}")]
    RequestTimeout {
        /// What the request was for.
        task: &'static str,
        /// How long the whole call could take.
        limit: Duration,
    },
    /// A watch ended before anything happened.
    #[error("etcd ended a watch: {reason}")]
    WatchEnded {
        /// What etcd says.
        reason: String,
    },
    /// A key of ours holds something that this crate did not write.
    #[error("etcd has under the key {key:?} {problem}")]
    Garbage {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

/// What the client library says, with its causes, which its own type hides.
#[derive(Debug)]
pub struct ClientError(pub(crate) etcd_client::Error);

impl EtcdLockError {
    /// The name that errors of this backend carry.
    pub(crate) const BACKEND: &'static str = "etcd";

    pub(crate) fn into_lock_error(self) -> LockError {
        LockError::with_source(Self::BACKEND, self.kind(), self)
    }

    fn kind(&self) -> LockErrorKind {
        match self {
            Self::NoEndpoint => LockErrorKind::Refused,
            Self::Connect { source, .. } | Self::Request { source, .. } => source.kind(),
            Self::ConnectTimeout { .. } | Self::RequestTimeout { .. } => LockErrorKind::Timeout,
            Self::WatchEnded { .. } => LockErrorKind::Unavailable,
            Self::Garbage { .. } => LockErrorKind::Inconsistent,
        }
    }

    /// The same, of a request that was part of connecting.
    pub(crate) fn while_connecting(self, endpoint: &Endpoint) -> Self {
        match self {
            Self::Request { source, .. } => Self::Connect { endpoint: endpoint.to_string(), source },
            other => other,
        }
    }

    /// Whether every endpoint would say the same.
    pub(crate) fn is_refused(&self) -> bool {
        self.kind() == LockErrorKind::Refused
    }
}

impl ClientError {
    /// What somebody has to change first is refused. A token that has expired is not: the next connection gets one.
    fn kind(&self) -> LockErrorKind {
        let etcd_client::Error::GRpcStatus(status) = &self.0 else {
            return match self.0 {
                etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => {
                    LockErrorKind::Refused
                }
                _ => LockErrorKind::Unavailable,
            };
        };
        match status.code() {
            // Users were changed since the client authenticated.
            Code::InvalidArgument if status.message().contains("revision of auth store is old") => {
                LockErrorKind::Unavailable
            }
            Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
                LockErrorKind::Refused
            }
            Code::DeadlineExceeded => LockErrorKind::Timeout,
            _ => LockErrorKind::Unavailable,
        }
    }

    /// Whether etcd itself answered, so that the connection is as good as before.
    pub(crate) fn leaves_connection(&self) -> bool {
        let etcd_client::Error::GRpcStatus(status) = &self.0 else { return false };
        let answers = matches!(
            status.code(),
            Code::PermissionDenied
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::NotFound
                | Code::OutOfRange
                | Code::ResourceExhausted
        );
        answers && status.source().is_none() && !status.message().contains("revision of auth store is old")
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            etcd_client::Error::GRpcStatus(status) => f.write_str(status.message()),
            etcd_client::Error::TransportError(error) => error.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            etcd_client::Error::GRpcStatus(status) => status.source(),
            etcd_client::Error::TransportError(error) => error.source(),
            _ => None,
        }
    }
}
