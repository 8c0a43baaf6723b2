//! What is done with events.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;

use crate::Event;

/// Something that handles events.
///
/// # What an implementer owes
/// - `Ok` with any status but [`ProcessExitStatus::Fail`] means handled: the event will not come again on purpose.
/// - Everything else means that the event is tried again, with a higher `attempt`.
/// - An event can come again all the same (`attempt` above 1 says when that is possible), and it can come with a
///   lower `token` than one already seen: then it comes from a replica that was replaced.
/// - The call may be dropped at any await point when the replica must stop.
#[async_trait]
pub trait Process: Send + Sync {
    /// The process's id: what links name.
    fn id(&self) -> &str;

    /// Handles one event.
    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError>;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessExitStatus {
    /// The process does not say; counts as success.
    #[default]
    Unknown,
    /// It saw no need to start; counts as success.
    Unstarted,
    /// It did its work.
    Success,
    /// It did not; the event is tried again.
    Fail,
}

/// What a process says of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessStatus {
    /// The process's name.
    pub name: String,
    /// How it ended.
    pub status: ProcessExitStatus,
    /// What it has to say, line by line. No secrets.
    pub logs: Vec<String>,
}

impl ProcessStatus {
    /// Success, without anything to say.
    pub fn success(name: impl Into<String>) -> Self {
        Self { name: name.into(), status: ProcessExitStatus::Success, logs: Vec::new() }
    }

    /// Failure, with the reason as a log line.
    pub fn fail(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), status: ProcessExitStatus::Fail, logs: vec![reason.into()] }
    }
}

/// Why a process could not be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The configuration can't be used as it stands.
    #[error("process {process:?}: {reason}")]
    Config {
        /// The process's configured name.
        process: String,
        /// The key of the execution context at fault, where there is one.
        key: Option<String>,
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// The run failed.
    #[error("process {process:?}")]
    Failed {
        /// The process's id.
        process: String,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The run failed, and the next one has to wait: whoever was called said so.
    #[error("process {process:?}, which asks for a pause of {} s", after.as_secs())]
    RetryAfter {
        /// The process's id.
        process: String,
        /// How long to wait at least; the process's `max_backoff` bounds it.
        after: Duration,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ProcessError {
    /// How long the next run has to wait at least, where whoever was called said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RetryAfter { after, .. } => Some(*after),
            Self::Config { .. } | Self::Failed { .. } => None,
        }
    }
}
