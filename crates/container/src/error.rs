//! What can go wrong.

use std::error::Error;
use std::time::Duration;

use dapper_core::ProcessError;

use crate::settings::KEYS;

/// Why a container process could not be made, or a container could not be run to its end. Holds no value of a variable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The execution context has a key that means nothing here.
    #[error("unknown key {key:?}; did you mean {nearest:?}? Known are {}", KEYS.join(", "))]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// The known key that is most like it.
        nearest: &'static str,
    },
    /// A value is none that its key may have.
    #[error("{key:?} {reason}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No HTTP client could be set up.
    #[error("no HTTP client could be set up")]
    Client {
        /// What the client says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The engine can't be reached, or broke off.
    #[error("the engine at {socket} could not be asked to {task}")]
    Engine {
        /// The engine's socket.
        socket: String,
        /// What it was to do.
        task: &'static str,
        /// What the client says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The engine refused.
    #[error("the engine at {socket} refused to {task}: {said}")]
    Refused {
        /// The engine's socket.
        socket: String,
        /// What it was to do.
        task: &'static str,
        /// The HTTP status of its answer.
        status: u16,
        /// What it says, within bounds.
        said: String,
    },
    /// The event is too large for a variable, and a container has no other way to get it.
    #[error("the event has {bytes} bytes, which is too large for a variable of a container's")]
    EventTooLarge {
        /// The bytes of its JSON.
        bytes: usize,
    },
    /// The container took too long and was removed.
    #[error("{image} was removed, since it took longer than {timeout:?}{said}")]
    Timeout {
        /// The image.
        image: String,
        /// How long it may take.
        timeout: Duration,
        /// The end of what it wrote to standard error, after `: `; empty when that is nothing.
        said: String,
    },
}

impl ContainerError {
    /// The key of the execution context at fault, where there is one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, .. } | Self::Value { key, .. } => Some(key),
            _ => None,
        }
    }

    pub(crate) fn value(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { key: key.into(), reason: reason.into() }
    }

    /// Whether the engine says that it does not have what was asked for.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The same as a constructor of the registry says it.
    pub(crate) fn into_config_error(self, process: String) -> ProcessError {
        let cause = self.source().map(|source| format!(": {source}")).unwrap_or_default();
        ProcessError::Config { process, key: self.key().map(str::to_owned), reason: format!("{self}{cause}") }
    }
}
