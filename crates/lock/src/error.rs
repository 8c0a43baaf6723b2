//! What can go wrong between a holder and its store.

use std::error::Error;
use std::fmt;

/// What went wrong when a store was asked for something.
///
/// `Display` names the backend and the kind only; the cause is in [`source`](Error::source). Neither shows a secret.
#[derive(Debug, thiserror::Error)]
#[error("lock store {backend}: {kind}")]
#[non_exhaustive]
pub struct LockError {
    /// Which backend it was, for example `postgres`.
    pub backend: &'static str,
    /// What it means for whoever asked.
    pub kind: LockErrorKind,
    /// What happened, where more is known.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

/// What a [`LockError`] means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockErrorKind {
    /// The store can't be reached or can't answer now. Whether it did what was asked is not known.
    Unavailable,
    /// No answer came in time. Whether the store did what was asked is not known.
    Timeout,
    /// The session that the term lived in is gone, and the term with it.
    SessionLost,
    /// The store will not do it until somebody changes something: rights, configuration, the server.
    Refused,
    /// The store's answer makes no sense, for example a token that is lower than an earlier one.
    Inconsistent,
}

impl LockError {
    /// An error without a cause.
    #[must_use]
    pub fn new(backend: &'static str, kind: LockErrorKind) -> Self {
        Self { backend, kind, source: None }
    }

    /// An error with its cause, which must not contain secrets.
    #[must_use]
    pub fn with_source(
        backend: &'static str,
        kind: LockErrorKind,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { backend, kind, source: Some(source.into()) }
    }

    /// Whether trying again later may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }
}

impl LockErrorKind {
    /// Whether trying again later may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unavailable | Self::Timeout | Self::SessionLost => true,
            Self::Refused | Self::Inconsistent => false,
        }
    }
}

impl fmt::Display for LockErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "it can't be reached or can't answer now",
            Self::Timeout => "no answer in time",
            Self::SessionLost => "the session of the lease is gone",
            Self::Refused => "it refuses the request",
            Self::Inconsistent => "its answer makes no sense",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_in_the_source_only() {
        let error = LockError::with_source("memory", LockErrorKind::Timeout, "the cause");
        assert_eq!(error.to_string(), "lock store memory: no answer in time");
        assert_eq!(error.source().unwrap().to_string(), "the cause");
        assert!(LockError::new("memory", LockErrorKind::Refused).source().is_none());
    }
}
