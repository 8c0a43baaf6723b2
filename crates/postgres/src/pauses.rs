//! Pausing an input, or a process of it: what a command writes, and what the holder makes of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dapper_core::InputConfig;
use tokio_postgres::{Client, Statement};

use crate::PostgresError;
use crate::audit::record;
use crate::dead_letters::{lock, open};
use crate::names::quote_identifier;
use crate::operator::operator;
use crate::parking::sql::{HOLD_BACK, LET_GO};
use crate::session::{PAUSED, Session, bounded};

/// When so many events are parked and a process is paused, nothing more is read until it is resumed.
pub(crate) const MOST_HELD_BACK: i64 = 100_000;
/// How often the holder looks at what is paused, when it can be told of a change, and when it can't, or when something is paused.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Pauses an input, or one process of it: by its id. Replicas need not run. What is paused already stays so, for the new
/// reason. Returns whether it was not paused before.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`].
pub async fn pause(
    config: &InputConfig,
    process: Option<&str>,
    reason: Option<&str>,
) -> Result<bool, PostgresError> {
    let (session, options) = open(config, "dapper pause").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    lock(client, &schema).await?;
    let name = process.unwrap_or_default();
    let paused = async {
        let sql = format!(
            "INSERT INTO {schema}.pauses (process, reason, paused_by) VALUES ($1, $2, $3)
                 ON CONFLICT (process) DO UPDATE SET reason = excluded.reason, paused_by = excluded.paused_by
             RETURNING xmax = 0"
        );
        let row = bounded("pausing", client.query_one(&sql, &[&name, &reason, &operator()])).await?;
        let hold_back = HOLD_BACK.replace("{schema}", &schema);
        bounded("holding back what is parked", client.execute(&hold_back, &[&name])).await?;
        record(client, &schema, "pause", &described(process, reason)).await?;
        Ok(row.get(0))
    };
    let paused = paused.await;
    end(&session, paused, &options.names.channel).await
}

/// Lets an input, or one process of it, go on where it was. Returns whether it was paused.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`].
pub async fn resume(config: &InputConfig, process: Option<&str>) -> Result<bool, PostgresError> {
    let (session, options) = open(config, "dapper resume").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    lock(client, &schema).await?;
    let name = process.unwrap_or_default();
    let resumed = async {
        let sql = format!("DELETE FROM {schema}.pauses WHERE process = $1");
        let gone = bounded("resuming", client.execute(&sql, &[&name])).await?;
        if gone == 0 {
            return Ok(false);
        }
        let let_go = LET_GO.replace("{schema}", &schema);
        bounded("letting go what is parked", client.execute(&let_go, &[&name])).await?;
        record(client, &schema, "resume", &described(process, None)).await?;
        Ok(true)
    };
    let resumed = resumed.await;
    end(&session, resumed, &options.names.channel).await
}

fn described(process: Option<&str>, reason: Option<&str>) -> String {
    let what = process.map_or_else(|| "the input".to_owned(), |process| format!("process {process:?}"));
    reason.map_or_else(|| what.clone(), |reason| format!("{what}: {reason}"))
}

async fn end<T>(
    session: &Session,
    outcome: Result<T, PostgresError>,
    channel: &str,
) -> Result<T, PostgresError> {
    let sql = match outcome {
        Ok(_) => format!("NOTIFY {}, '{PAUSED}'; COMMIT", quote_identifier(channel)),
        Err(_) => "ROLLBACK".to_owned(),
    };
    let ended = bounded("pausing", session.client().batch_execute(&sql)).await;
    outcome.and_then(|value| ended.map(|()| value))
}

/// What the holder knows of what is paused.
pub(crate) struct Pausing {
    read: Statement,
    told: Arc<AtomicBool>,
    /// Whether a change is told.
    notify: bool,
    looked: Instant,
    input: bool,
    processes: BTreeSet<String>,
    is_full: bool,
    /// Whether it is known that nothing is read.
    rests: bool,
}

/// What is paused, and how much is held back.
pub(crate) struct Found {
    names: Vec<String>,
    held_back: i64,
}

impl Pausing {
    pub(crate) async fn prepare(client: &Client, schema: &str) -> Result<Statement, PostgresError> {
        let schema = quote_identifier(schema);
        let sql = format!(
            "SELECT COALESCE(pg_catalog.array_agg(p.process), '{{}}'),
                    CASE WHEN pg_catalog.bool_or(p.process <> '')
                         THEN (SELECT pg_catalog.count(*) FROM (SELECT FROM {schema}.parked q LIMIT {MOST_HELD_BACK}) n)
                         ELSE 0 END
               FROM {schema}.pauses p"
        );
        bounded("preparing", client.prepare(&sql)).await
    }

    pub(crate) fn new(read: Statement, told: Arc<AtomicBool>, notify: bool) -> Self {
        let looked = Instant::now();
        Self {
            read,
            told,
            notify,
            looked,
            input: false,
            processes: BTreeSet::new(),
            is_full: false,
            rests: false,
        }
    }

    /// Whether it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        self.looked.elapsed() >= self.every() || self.told.load(Ordering::Acquire)
    }

    /// How long it may take until it is.
    pub(crate) fn every(&self) -> Duration {
        if self.notify && self.processes.is_empty() { LOOK_EVERY } else { POLL_EVERY }
    }

    /// Whether the input is paused.
    pub(crate) fn is_input_paused(&self) -> bool {
        self.input
    }

    /// Whether nothing may be read: the input is paused, or so much is held back for a process that more would be too much.
    pub(crate) fn is_held_up(&self) -> bool {
        self.input || self.is_full
    }

    /// Whether this is the first time that nothing may be read since something could.
    pub(crate) fn begins_rest(&mut self) -> bool {
        !std::mem::replace(&mut self.rests, true)
    }

    /// The processes that are paused.
    pub(crate) fn processes(&self) -> &BTreeSet<String> {
        &self.processes
    }

    /// Reads what is paused. Takes no lock.
    pub(crate) async fn look(&self, client: &Client) -> Result<Found, PostgresError> {
        self.told.store(false, Ordering::Release);
        let row = bounded("reading what is paused", client.query_one(&self.read, &[])).await?;
        Ok(Found { names: row.get(0), held_back: row.get(1) })
    }

    /// Takes in what was found; says whether anything else is paused than before.
    pub(crate) fn found(&mut self, found: Found) -> bool {
        self.looked = Instant::now();
        let mut processes: BTreeSet<String> = found.names.into_iter().collect();
        let input = processes.remove("");
        let is_new = (self.input, &self.processes) != (input, &processes);
        (self.input, self.processes) = (input, processes);
        self.is_full = !self.processes.is_empty() && found.held_back >= MOST_HELD_BACK;
        self.rests &= self.is_held_up();
        is_new
    }
}
