//! What whoever runs the pipeline tells this crate, and does for it.

use std::fmt;

use async_trait::async_trait;
use serde::Serialize;

/// The graph that runs: ids of inputs and processes, and the links between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// The inputs.
    pub inputs: Vec<String>,
    /// The processes.
    pub processes: Vec<String>,
    /// From and to.
    pub links: Vec<(String, String)>,
}

/// What a look at an input's database found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Observation {
    /// The fencing token of whoever reads.
    pub token: u64,
    /// Events that were handled or parked, ever.
    pub handled: u64,
    /// Changes that are not handled.
    pub lag_changes: u64,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// Keys that are parked.
    pub parked_keys: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Statements that passed unrecorded.
    pub missed: u64,
    /// Whether somebody has paused the input or a process.
    pub paused: bool,
    /// All of what `dapper status --json` says of the input.
    pub status: serde_json::Value,
}

/// An event that waits at a process for its next try, or had its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// The input's id.
    pub input: String,
    /// Names it among those of its input and kind.
    pub number: i64,
    /// The process's id.
    pub process: String,
    /// The event's table.
    pub location: String,
    /// The event's key.
    pub key: String,
    /// How often the process tried.
    pub tries: u32,
    /// Since when it is there, RFC 3339.
    pub since: String,
    /// When it is tried next, RFC 3339; nothing for a dead letter.
    pub next: Option<String>,
    /// Events of its key that wait behind it.
    pub behind: u64,
    /// How it failed.
    pub error: String,
}

/// What can be done to a parked event or a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have a dead letter tried again, or a parked event now.
    Retry,
    /// Forget a dead letter.
    Discard,
}

/// Which list a [`Letter`] is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It waits for its next try.
    Parked,
    /// It had its last.
    Dead,
}

/// Why the source could not answer. The text is shown to whoever may see the page: no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Looks at the databases of a pipeline's inputs, and acts on them.
///
/// # What an implementer owes
/// - Every call may be dropped at any await point.
/// - No text shows a secret.
#[async_trait]
pub trait Source: Send + Sync {
    /// Looks at the database of one input; `None` when it has none that anybody could look at.
    async fn observe(&self, input: &str) -> Result<Option<Observation>, SourceError>;

    /// The oldest parked events and dead letters of an input, `limit` of each at the most.
    async fn letters(&self, input: &str, limit: u32) -> Result<(Vec<Letter>, Vec<Letter>), SourceError>;

    /// Acts on one of them; says on how many it did.
    async fn act(&self, action: Action, kind: Kind, input: &str, number: i64) -> Result<u64, SourceError>;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parked => "parked event",
            Self::Dead => "dead letter",
        })
    }
}
