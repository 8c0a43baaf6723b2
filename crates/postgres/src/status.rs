//! How an input is doing, as far as its database and its lock store tell: from any machine, without asking a replica.
//!
//! A look takes no lock, writes nothing, and costs as much with ten million changes unread as with ten thousand.

mod look;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dapper_core::InputConfig;
use dapper_lock::{LockManager, Resource};
use serde::Serialize;

use crate::PostgresError;
use crate::doctor::chain;
use crate::input::resource;
use crate::options::Options;
use crate::session::Session;

/// A look that takes longer is given up: whoever asks is told within 5 s that the database, or the lock store, is silent.
const LOOK_LIMIT: Duration = Duration::from_secs(4);
/// Tables are compared with what they should be no more often than this.
const COVERAGE_EVERY: Duration = Duration::from_secs(10);

/// How an input is doing. The same for `dapper status`, HTTP, metrics and the page.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The input's name, as in the pipeline file.
    pub input: String,
    /// Hosts, port, database and user.
    pub server: String,
    /// In a word.
    pub state: State,
    /// Why that is its state, in a sentence.
    pub reason: String,
    /// What deserves a look although the state may be well, a sentence each.
    pub warnings: Vec<String>,
    /// When the database was looked at, by its clock, RFC 3339; nothing when it could not be.
    pub at: Option<String>,
    /// Who holds the lease.
    pub holder: Option<Holder>,
    /// The replicas that could take over: those that are connected and do not hold the lease. A replica whose network is cut off
    /// is shown until the server has given its connection up.
    pub standbys: Vec<ReplicaStatus>,
    /// How far it is.
    pub cursor: Option<Cursor>,
    /// What waits.
    pub lag: Option<Lag>,
    /// Statements that passed unrecorded, since the installation (`on_capture_error = "skip"`).
    pub missed: Option<u64>,
    /// Events a second that were handled or parked since this reader's last look; nothing at the first.
    pub rate: Option<f64>,
    /// What processes failed on and try again later.
    pub parked: Option<Parked>,
    /// What processes failed on for the last time.
    pub dead_letters: Option<DeadLetterCount>,
    /// What is paused.
    pub pauses: Vec<Pause>,
    /// Whether the tables are as they should be.
    pub coverage: Option<Coverage>,
}

/// How an input is doing, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// A replica holds the lease, and events are being handled.
    Leading,
    /// A replica holds the lease, and nothing waits.
    Idle,
    /// A replica holds the lease, changes wait, and for some seconds none was handled.
    Stalled,
    /// Somebody has paused the input.
    Paused,
    /// No replica holds the lease.
    NoHolder,
    /// Nothing is installed, or an older layout.
    NotInstalled,
    /// The database or the lock store does not answer.
    Unreachable,
}

impl State {
    /// As in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Paused => "paused",
            Self::NoHolder => "no_holder",
            Self::NotInstalled => "not_installed",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether nobody needs to be woken for it.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, Self::Leading | Self::Idle | Self::Paused)
    }
}

/// Who holds the lease.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// Its identity: random, drawn when the replica started.
    pub id: String,
    /// The fencing token that its events carry.
    pub token: u64,
    /// When it took the cursor over, by the database's clock, RFC 3339.
    pub since: Option<String>,
    /// How many seconds ago that was.
    pub for_seconds: Option<f64>,
    /// How long its lease runs unless it is renewed; nothing where the lock store is in its own memory.
    pub lease_remaining_seconds: Option<f64>,
    /// What it said of itself.
    pub replica: Option<ReplicaStatus>,
}

/// A connected replica.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// Its identity: random, drawn when it started.
    pub id: String,
    /// Who runs it, such as `app@web-1`.
    pub run_by: String,
    /// Its process's number on its machine.
    pub process_id: i64,
    /// The address that it connected from; nothing when through a local socket.
    pub address: Option<String>,
    /// Its version.
    pub version: String,
    /// When it connected, by the database's clock, RFC 3339.
    pub since: String,
    /// Why its reading ended before, if it did.
    pub last_error: Option<String>,
    /// How many seconds ago that was.
    pub last_error_seconds: Option<f64>,
}

/// How far the input is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cursor {
    /// The fencing token that it is sealed with.
    pub token: u64,
    /// Events that were handled or parked, ever. Grows; after a crash some are counted twice.
    pub handled: u64,
    /// How many seconds ago an event was last handled or parked; nothing when none ever was.
    pub moved_seconds: Option<f64>,
    /// How often what is under way has been handed out, when a replica ended with it.
    pub attempt: u32,
}

/// What waits: captured and not handled yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Lag {
    /// How many changes.
    pub changes: u64,
    /// Whether these were counted. Else they are reckoned from positions, of which transactions that were rolled back have
    /// some, and from the changes of the first ones: rather too many.
    pub exact: bool,
    /// The age of the oldest in seconds; zero when nothing waits.
    pub seconds: f64,
}

/// A number that is counted up to a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Count {
    /// How many, or at least how many.
    pub count: u64,
    /// Whether there are no more.
    pub exact: bool,
}

/// What processes failed on and try again later.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Parked {
    /// Keys at processes.
    pub keys: Count,
    /// Events, those behind the failing ones included.
    pub events: Count,
    /// By process, the one with most keys first; of the first thousands of keys where there are more.
    pub processes: Vec<ParkedAt>,
}

/// What one process failed on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ParkedAt {
    /// The process's id.
    pub process: String,
    /// Keys.
    pub keys: u64,
    /// How long ago the oldest was parked.
    pub oldest_seconds: f64,
    /// How it fails.
    pub error: Option<String>,
}

/// What processes failed on for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterCount {
    /// How many.
    #[serde(flatten)]
    pub letters: Count,
    /// How many seconds ago the last one died.
    pub newest_seconds: Option<f64>,
}

/// Something that is paused.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pause {
    /// The process's id; nothing when it is the whole input.
    pub process: Option<String>,
    /// Why, as far as that was said.
    pub reason: Option<String>,
    /// By whom.
    pub paused_by: String,
    /// Since when, by the database's clock, RFC 3339.
    pub since: String,
    /// For how many seconds.
    pub for_seconds: f64,
}

/// Whether the tables are as they should be; looked at every ten seconds at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Tables under capture.
    pub covered: usize,
    /// Tables that are not as they should be; `dapper doctor` says which.
    pub problems: usize,
}

/// Looks at one input, again and again, over one connection that it opens when it needs it.
pub struct StatusReader {
    options: Options,
    locks: Arc<LockManager>,
    connected: Option<(Session, Resource)>,
    coverage: Option<(Instant, Coverage)>,
    /// How many events were handled at the last look, and when that was by the database's clock.
    last: Option<(u64, f64)>,
}

impl std::fmt::Debug for StatusReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusReader").field("options", &self.options).finish_non_exhaustive()
    }
}

impl StatusReader {
    /// Of the input with this configuration, whose leases `locks` has. Connects to nothing yet.
    ///
    /// # Errors
    /// Those of the configuration.
    pub fn new(config: &InputConfig, locks: Arc<LockManager>) -> Result<Self, PostgresError> {
        let options = Options::parse(config)?;
        Ok(Self { options, locks, connected: None, coverage: None, last: None })
    }

    /// How the input is doing now. Answers within 5 s: what does not answer by then is [`State::Unreachable`].
    ///
    /// Cancel-safe: when dropped, the next look connects anew.
    pub async fn look(&mut self) -> Status {
        // Kept only when the look came to its end: else a statement may still be running in it.
        let connected = self.connected.take();
        match tokio::time::timeout(LOOK_LIMIT, self.try_look(connected)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => self.without_database(&error),
            Err(_) => self.without_database(&PostgresError::ConnectTimeout {
                server: self.options.connection.to_string(),
                seconds: LOOK_LIMIT.as_secs(),
            }),
        }
    }

    async fn try_look(&mut self, connected: Option<(Session, Resource)>) -> Result<Status, PostgresError> {
        let (session, resource) = match connected {
            Some((session, resource)) if !session.is_closed() => (session, resource),
            _ => {
                let session = Session::open(&self.options.connection, "dapper status").await?;
                let resource = resource(&self.options, &session)?;
                (session, resource)
            }
        };
        let status = self.look_by(&session, &resource).await?;
        self.connected = Some((session, resource));
        Ok(status)
    }

    fn empty(&self, state: State, reason: String) -> Status {
        Status {
            input: self.options.name.clone(),
            server: self.options.connection.to_string(),
            state,
            reason,
            warnings: Vec::new(),
            at: None,
            holder: None,
            standbys: Vec::new(),
            cursor: None,
            lag: None,
            missed: None,
            rate: None,
            parked: None,
            dead_letters: None,
            pauses: Vec::new(),
            coverage: None,
        }
    }

    fn without_database(&mut self, error: &PostgresError) -> Status {
        self.last = None;
        self.coverage = None;
        let state = match error {
            PostgresError::NotInstalled { .. } | PostgresError::NewerLayout { .. } => State::NotInstalled,
            _ => State::Unreachable,
        };
        let text = chain(error);
        let server = self.options.connection.to_string();
        let reason = if text.contains(&server) { text } else { format!("{server}: {text}") };
        self.empty(state, reason)
    }
}
