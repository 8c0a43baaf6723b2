//! What can go wrong while a graph runs.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use dapper_core::{ErrorKind, InputError, ProcessError};

/// Something that happened while a graph runs, and that does not end it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrchestratorError {
    /// An input ended with an error.
    #[error("input {input:?} failed{}", again(*restart_in))]
    InputFailed {
        /// The input's id.
        input: String,
        /// When it is started again; `None` while stopping.
        restart_in: Option<Duration>,
        /// What it said.
        source: InputError,
    },
    /// An input ended as if it had been told to stop, which it had not.
    #[error("input {input:?} ended though nobody stopped it{}", again(*restart_in))]
    InputEnded {
        /// The input's id.
        input: String,
        /// When it is started again; `None` while stopping.
        restart_in: Option<Duration>,
    },
    /// An input panicked.
    #[error("input {input:?} panicked{}: {message}", again(*restart_in))]
    InputPanicked {
        /// The input's id.
        input: String,
        /// When it is started again; `None` while stopping.
        restart_in: Option<Duration>,
        /// The message of the panic.
        message: String,
    },
    /// An input goes on, but has something to complain of, such as garbage that came in.
    #[error("input {input:?} reports")]
    InputReported {
        /// The input's id.
        input: String,
        /// What it said.
        source: InputError,
    },
    /// A process did not handle an event. It is tried again, unless this was its last attempt; the later events of its
    /// key wait meanwhile.
    #[error("process {process:?} failed on {location:?} {id:?}, attempt {attempt}{}", logged(logs))]
    ProcessFailed {
        /// The process's id.
        process: String,
        /// The event's location.
        location: String,
        /// The event's key.
        id: String,
        /// The event's own id, where it has one.
        event_id: Option<String>,
        /// The attempt that failed, as the process was told.
        attempt: u32,
        /// Whether the policy's `max_attempts` is reached: the event is a dead letter, or where its input can't store it is
        /// tried on seldom.
        exhausted: bool,
        /// What the process had to say.
        logs: Vec<String>,
        /// What happened.
        source: FailureCause,
    },
    /// The reader of the error stream was behind; so many errors were left out before this one.
    #[error("{count} errors were left out because the error stream was full")]
    ErrorsDropped {
        /// How many.
        count: u64,
    },
}

/// How a run of a process failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureCause {
    /// It said so by its exit status.
    #[error("it reported failure")]
    Status,
    /// It returned an error.
    #[error(transparent)]
    Error(ProcessError),
    /// It panicked with this message.
    #[error("it panicked: {0}")]
    Panicked(String),
}

/// Why a graph did not stop well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// These inputs did not return in time after the stop and were dropped; they may repeat events.
    #[error("did not stop in time and were dropped: inputs {}", inputs.join(", "))]
    InputsDropped {
        /// The ids of the inputs, in order.
        inputs: Vec<String>,
    },
}

impl OrchestratorError {
    /// The id of the input or process that it is about.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::InputFailed { input, .. }
            | Self::InputEnded { input, .. }
            | Self::InputPanicked { input, .. }
            | Self::InputReported { input, .. } => Some(input),
            Self::ProcessFailed { process, .. } => Some(process),
            Self::ErrorsDropped { .. } => None,
        }
    }

    /// Whether somebody has to act before it can go well.
    pub(crate) fn is_grave(&self) -> bool {
        match self {
            Self::InputFailed { source, .. } => source.kind() == ErrorKind::Permanent,
            Self::InputPanicked { .. } => true,
            Self::ProcessFailed { exhausted, .. } => *exhausted,
            _ => false,
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line.replace(['\n', '\r'], " ")
}

fn again(restart_in: Option<Duration>) -> String {
    match restart_in {
        Some(delay) => format!(", starting it again in {:.1} s", delay.as_secs_f64()),
        None => String::new(),
    }
}

/// The last log lines of a failed run, cut to a length that suits a log.
fn logged(logs: &[String]) -> String {
    const MOST_CHARACTERS: usize = 300;
    let Some(last) = logs.last() else { return String::new() };
    let mut text: String = last.chars().take(MOST_CHARACTERS).collect();
    if text.len() < last.len() {
        text.push('…');
    }
    format!(" ({text})")
}
