//! What a person does with dead letters. Works while replicas run, without asking them.

use std::fmt;
use std::time::Duration;

use dapper_core::InputConfig;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::PostgresError;
use crate::audit::record;
use crate::layout;
use crate::names::quote_identifier;
use crate::options::Options;
use crate::parking::reopen_lanes;
use crate::session::{PARKED, Session, bounded};

/// Dead letters that one transaction moves, at most.
const AT_ONCE: i64 = 1_000;
/// How often a program may die of an event that was parked by a command, while it tries nothing else.
pub(crate) const MAX_CRASHES: i32 = 3;

/// Which dead letters are meant: those for which everything holds that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// The letter's number.
    pub number: Option<i64>,
    /// The process's id.
    pub process: Option<String>,
    /// The location: the bare table name in schema `public`, `schema.table` elsewhere.
    pub table: Option<String>,
    /// The key as text, as in the event's `id`.
    pub key: Option<String>,
    /// Dead for longer than this.
    pub older_than: Option<Duration>,
    /// Dead for no longer than this.
    pub newer_than: Option<Duration>,
    /// A part of the error's text, in any case.
    pub error: Option<String>,
}

/// An event that a process was given for the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names it in commands.
    pub number: i64,
    /// The process's id.
    pub process: String,
    /// The event's location.
    pub location: String,
    /// The event's key as text.
    pub id: String,
    /// The event's own id.
    pub event_id: String,
    /// How often the process tried it.
    pub tries: u32,
    /// What the process was told last as its attempt.
    pub attempt: u32,
    /// When it died, RFC 3339 in UTC.
    pub died_at: String,
    /// How it failed.
    pub error: String,
    /// The event as JSON.
    pub event: String,
}

/// Dead letters, and how many there are in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// The oldest, up to the limit.
    pub letters: Vec<DeadLetter>,
    /// How many the filter names, beyond the limit too.
    pub total: u64,
}

/// The dead letters of an input that `filter` names, the oldest first, `limit` at the most.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`].
pub async fn dead_letters(
    config: &InputConfig,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<DeadLetters, PostgresError> {
    let (session, options) = open(config, "dapper dead-letters").await?;
    let schema = quote_identifier(&options.names.schema);
    let doing = "reading dead letters";
    let sql = format!(
        "SELECT d.number, d.process, d.location, d.id, d.event_id, d.tries, d.attempt,
                pg_catalog.to_char(d.died_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                COALESCE(d.error, ''), d.event
           FROM {schema}.dead_letters d WHERE {CONDITION} ORDER BY d.number LIMIT $8"
    );
    let condition = Condition::of(filter);
    let limit = i64::from(limit);
    let mut parameters = condition.parameters();
    parameters.push(&limit);
    let rows = bounded(doing, session.client().query(&sql, &parameters)).await?;
    let sql = format!("SELECT pg_catalog.count(*) FROM {schema}.dead_letters d WHERE {CONDITION}");
    let total = bounded(doing, session.client().query_one(&sql, &condition.parameters())).await?;
    let letters = rows.iter().map(DeadLetter::of).collect();
    Ok(DeadLetters { letters, total: total.get::<_, i64>(0).unsigned_abs() })
}

/// Has the dead letters that `filter` names tried again, from their first attempt on and each before whatever is parked
/// behind it. Returns how many.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`]. What was moved before an error stays moved.
pub async fn retry_dead_letters(
    config: &InputConfig,
    filter: &DeadLetterFilter,
) -> Result<u64, PostgresError> {
    let move_back = format!(
        "WITH named AS (SELECT d.number FROM {{schema}}.dead_letters d WHERE {CONDITION} ORDER BY d.number LIMIT $8),
              gone AS (DELETE FROM {{schema}}.dead_letters d USING named WHERE d.number = named.number RETURNING d.*),
              parked AS (
                INSERT INTO {{schema}}.parked (event_id, process, lane, seq, position, location, id, event, attempt,
                                               tries, crashes_left, suspicion, ready_at)
                SELECT event_id, process, lane, seq, position, location, id, event, attempt, 0, {MAX_CRASHES}, 0,
                       CASE WHEN process IN (SELECT x.process FROM {{schema}}.pauses x)
                            THEN timestamptz '9999-01-01 00:00:00+00' ELSE pg_catalog.clock_timestamp() END
                  FROM gone ON CONFLICT (event_id, process) DO NOTHING)
         SELECT lane FROM gone"
    );
    in_steps(config, filter, &move_back, "dead-letters retry").await
}

/// Forgets the dead letters that `filter` names. Returns how many.
///
/// # Errors
/// As [`retry_dead_letters`].
pub async fn discard_dead_letters(
    config: &InputConfig,
    filter: &DeadLetterFilter,
) -> Result<u64, PostgresError> {
    let discard = format!(
        "WITH named AS (SELECT d.number FROM {{schema}}.dead_letters d WHERE {CONDITION} ORDER BY d.number LIMIT $8)
         DELETE FROM {{schema}}.dead_letters d USING named WHERE d.number = named.number RETURNING d.lane"
    );
    in_steps(config, filter, &discard, "dead-letters discard").await
}

async fn in_steps(
    config: &InputConfig,
    filter: &DeadLetterFilter,
    step: &str,
    action: &str,
) -> Result<u64, PostgresError> {
    let (session, options) = open(config, "dapper dead-letters").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    let step = step.replace("{schema}", &schema);
    let condition = Condition::of(filter);
    let mut parameters = condition.parameters();
    parameters.push(&AT_ONCE);
    let doing = "moving dead letters";
    let mut count = 0;
    loop {
        lock(client, &schema).await?;
        let moved = async {
            let rows = bounded(doing, client.query(&step, &parameters)).await?;
            let lanes: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            reopen_lanes(client, &schema, &lanes).await?;
            if !rows.is_empty() {
                record(client, &schema, action, &format!("{} dead letter(s); {filter}", rows.len())).await?;
            }
            Ok(rows.len())
        };
        let moved = end(client, moved.await, &options.names.channel).await?;
        count += moved as u64;
        if moved < AT_ONCE as usize {
            return Ok(count);
        }
    }
}

/// Connects, and makes sure that the tables are there.
pub(crate) async fn open(
    config: &InputConfig,
    application: &str,
) -> Result<(Session, Options), PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, application).await?;
    layout::is_current(session.client(), &options.names).await?.then_some(()).ok_or_else(|| {
        PostgresError::NotInstalled {
            schema: options.names.schema.clone(),
            reason: "this command does not install it".to_owned(),
        }
    })?;
    Ok((session, options))
}

/// Begins a transaction that writes to what is parked: holders, and other commands, wait.
pub(crate) async fn lock(client: &Client, schema: &str) -> Result<(), PostgresError> {
    let sql = format!("BEGIN; SELECT FROM {schema}.cursors WHERE partition = 0 FOR UPDATE");
    bounded("locking what is parked", client.batch_execute(&sql)).await
}

/// Ends the transaction that [`lock`] began; when it went well, the holder is told to look.
pub(crate) async fn end<T>(
    client: &Client,
    outcome: Result<T, PostgresError>,
    channel: &str,
) -> Result<T, PostgresError> {
    let sql = match outcome {
        Ok(_) => format!("NOTIFY {}, '{PARKED}'; COMMIT", quote_identifier(channel)),
        Err(_) => "ROLLBACK".to_owned(),
    };
    let ended = bounded("parking", client.batch_execute(&sql)).await;
    outcome.and_then(|value| ended.map(|()| value))
}

/// What a filter says of a dead letter `d`.
const CONDITION: &str = "
    ($1::int8 IS NULL OR d.number = $1) AND ($2::text IS NULL OR d.process = $2)
    AND ($3::text IS NULL OR d.location = $3) AND ($4::text IS NULL OR d.id = $4)
    AND ($5::float8 IS NULL OR d.died_at < pg_catalog.now() - $5 * interval '1 second')
    AND ($6::float8 IS NULL OR d.died_at >= pg_catalog.now() - $6 * interval '1 second')
    AND ($7::text IS NULL OR pg_catalog.strpos(pg_catalog.lower(d.error), pg_catalog.lower($7)) > 0)";

impl fmt::Display for DeadLetterFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, process, table, key, older_than, newer_than, error } = self;
        let age = |duration: &Option<Duration>| duration.map(|duration| format!("{duration:?}"));
        let texts = [
            ("number", number.map(|number| number.to_string())),
            ("process", process.clone()),
            ("table", table.clone()),
            ("key", key.clone()),
            ("older than", age(older_than)),
            ("newer than", age(newer_than)),
            ("error", error.clone()),
        ];
        let given: Vec<String> =
            texts.into_iter().filter_map(|(what, text)| Some(format!("{what} {}", text?))).collect();
        f.write_str(if given.is_empty() { "all" } else { "with " })?;
        f.write_str(&given.join(", "))
    }
}

/// A filter as parameters.
struct Condition<'f> {
    filter: &'f DeadLetterFilter,
    older_than: Option<f64>,
    newer_than: Option<f64>,
}

impl<'f> Condition<'f> {
    fn of(filter: &'f DeadLetterFilter) -> Self {
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
        Self { filter, older_than: seconds(filter.older_than), newer_than: seconds(filter.newer_than) }
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let DeadLetterFilter { number, process, table, key, error, .. } = self.filter;
        vec![number, process, table, key, &self.older_than, &self.newer_than, error]
    }
}

impl DeadLetter {
    fn of(row: &Row) -> Self {
        let count = |column| row.get::<_, i32>(column).unsigned_abs();
        Self {
            number: row.get(0),
            process: row.get(1),
            location: row.get(2),
            id: row.get(3),
            event_id: row.get(4),
            tries: count(5),
            attempt: count(6),
            died_at: row.get(7),
            error: row.get(8),
            event: row.get(9),
        }
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, process, location, id, tries, died_at, error, .. } = self;
        write!(f, "{number}  {died_at}  {process}  {location} {id:?}  {tries} tries  {error}")
    }
}
