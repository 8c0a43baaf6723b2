//! What can go wrong.

use std::error::Error;
use std::io;
use std::time::Duration;

use dapper_core::ProcessError;

use crate::settings::KEYS;

/// Why a command process could not be made, or a program could not be run to its end. Shows of the command line the
/// program alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
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
    /// The program is not there, or may not be run.
    #[error("{program} cannot be started")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The program was running, and the system would not say what became of it.
    #[error("{program} cannot be waited for")]
    Wait {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The program took too long and was killed, with all of its process group.
    #[error("{program} was killed, since it took longer than {timeout:?}{said}")]
    Timeout {
        /// The program.
        program: String,
        /// How long it may take.
        timeout: Duration,
        /// The end of what it wrote to standard error, after `: `; empty when that is nothing.
        said: String,
    },
}

impl CommandError {
    /// The key of the execution context at fault, where there is one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, .. } | Self::Value { key, .. } => Some(key),
            Self::Start { .. } | Self::Wait { .. } | Self::Timeout { .. } => None,
        }
    }

    pub(crate) fn value(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { key: key.into(), reason: reason.into() }
    }

    /// The same as a constructor of the registry says it.
    pub(crate) fn into_config_error(self, process: String) -> ProcessError {
        let cause = self.source().map(|source| format!(": {source}")).unwrap_or_default();
        ProcessError::Config { process, key: self.key().map(str::to_owned), reason: format!("{self}{cause}") }
    }
}
