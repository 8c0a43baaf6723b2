//! Takes what an input or a process can't get past out of the way: it becomes a dead letter, and so can be retried.

use dapper_core::{Event, InputConfig, Operation};
use serde::Serialize;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::PostgresError;
use crate::audit::record;
use crate::dead_letters::{end, lock, open};
use crate::events::Stamp;
use crate::names::quote_identifier;
use crate::options::Options;
use crate::parking::{lane, reopen_lanes};
use crate::reader::ChangeSet;
use crate::session::bounded;

/// What stands for the process in the dead letter of a change set that can't be understood.
const NO_PROCESS: &str = "(none)";
/// Candidates that are shown.
const SHOWN: i64 = 20;
/// Events of a change set that are shown; all are skipped.
const MOST_SHOWN: usize = 20;

/// What is to be skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// A change set that was not handled yet, by its position.
    ChangeSet {
        /// The position.
        seq: i64,
        /// The processes at which its events would enter, by id: each gets a dead letter of each event.
        processes: Vec<String>,
    },
    /// An event that is parked.
    Event {
        /// The event's id.
        event_id: String,
        /// Only at this process, by id.
        process: Option<String>,
    },
}

/// What is in the way, as far as it shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkipCandidate {
    /// The position of its change set.
    pub seq: i64,
    /// The event's id; nothing for a change set as a whole.
    pub event_id: Option<String>,
    /// The process that fails on it.
    pub process: Option<String>,
    /// The table, or what stands in its place.
    pub location: String,
    /// The event's key, or how many changes there are.
    pub what: String,
    /// How it fails.
    pub error: String,
}

/// What was skipped, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Skipped {
    /// How many dead letters that makes.
    pub dead_letters: u64,
    /// The first events of them, as JSON, each with the process.
    pub events: Vec<(String, String)>,
}

/// The parked events that processes fail on, the oldest first, and the oldest change set that waits.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`].
pub async fn skip_candidates(config: &InputConfig) -> Result<Vec<SkipCandidate>, PostgresError> {
    let (session, options) = open(config, "dapper skip").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    let doing = "looking for what is in the way";
    let unread = format!(
        "SELECT s.seq, s.id::text, s.captured_at::text, s.payload, s.changes FROM {schema}.change_sets s, {schema}.cursors c
          WHERE c.partition = 0 AND {UNREAD} ORDER BY s.seq LIMIT 1"
    );
    let parked = format!(
        "SELECT p.seq, p.event_id, p.process, p.location, p.id, COALESCE(p.error, '') FROM {schema}.parked p
          WHERE p.head ORDER BY p.number LIMIT {SHOWN}"
    );
    let oldest = bounded(doing, client.query_opt(&unread, &[])).await?;
    let parked = bounded(doing, client.query(&parked, &[])).await?;
    let stamp = stamp(&options);
    let oldest = oldest.map(|row| {
        let (change_set, mut events) = (change_set(&row), Vec::new());
        let error = stamp.events(&change_set, 1, &mut events).err().map(|error| crate::doctor::chain(&error));
        let location = events.first().map_or_else(|| "?".to_owned(), |event| event.location.to_string());
        let (seq, what) = (change_set.seq, format!("{} change(s)", events.len()));
        let error = error.unwrap_or_default();
        SkipCandidate { seq, event_id: None, process: None, location, what, error }
    });
    let of_row = |row: &Row| SkipCandidate {
        seq: row.get(0),
        event_id: row.get(1),
        process: row.get(2),
        location: row.get(3),
        what: row.get(4),
        error: row.get(5),
    };
    Ok(oldest.into_iter().chain(parked.iter().map(of_row)).collect())
}

/// Makes dead letters of what is named, so that whatever comes behind it goes on; with `confirmed` false it only says what
/// that would be. What a process has in hand just now may be handled all the same, as with every dead letter that is retried.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`]; [`PostgresError::NothingToSkip`].
pub async fn skip(
    config: &InputConfig,
    what: &Skip,
    reason: Option<&str>,
    confirmed: bool,
) -> Result<Skipped, PostgresError> {
    let (session, options) = open(config, "dapper skip").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    lock(client, &schema).await?;
    let note = reason.map_or_else(|| "skipped".to_owned(), |reason| format!("skipped: {reason}"));
    let skipped = async {
        let (skipped, details) = match what {
            Skip::ChangeSet { seq, processes } => {
                skip_change_set(client, &options, (*seq, processes), &note).await?
            }
            Skip::Event { event_id, process } => {
                skip_event(client, &schema, (event_id, process.as_deref()), &note).await?
            }
        };
        record(client, &schema, "skip", &format!("{details}; {note}")).await?;
        Ok(skipped)
    };
    let skipped = skipped.await;
    if !confirmed && skipped.is_ok() {
        bounded("rolling back", client.batch_execute("ROLLBACK")).await?;
        return skipped;
    }
    end(client, skipped, &options.names.channel).await
}

/// Which change sets `s` the cursor `c` has not passed.
const UNREAD: &str = "NOT pg_catalog.pg_visible_in_snapshot(s.xid, c.prev)
    AND NOT COALESCE(pg_catalog.pg_visible_in_snapshot(s.xid, c.target) AND s.seq <= c.done, false)";

async fn skip_change_set(
    client: &Client,
    options: &Options,
    (seq, processes): (i64, &[String]),
    note: &str,
) -> Result<(Skipped, String), PostgresError> {
    let schema = quote_identifier(&options.names.schema);
    let sql = format!(
        "DELETE FROM {schema}.change_sets s USING {schema}.cursors c WHERE c.partition = 0 AND s.seq = $1 AND {UNREAD}
         RETURNING s.seq, s.id::text,
                   pg_catalog.to_char(s.captured_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), s.payload, s.changes"
    );
    let row = bounded("skipping", client.query_opt(&sql, &[&seq])).await?;
    let row =
        row.ok_or_else(|| PostgresError::NothingToSkip { what: format!("unhandled change set {seq}") })?;
    let (change_set, mut events) = (change_set(&row), Vec::new());
    let mut error = note.to_owned();
    let none = [NO_PROCESS.to_owned()];
    let processes = match stamp(options).events(&change_set, 1, &mut events) {
        Ok(_) => processes,
        Err(unreadable) => {
            error = format!("{note}; {}", crate::doctor::chain(&unreadable));
            events = vec![unread_event(&change_set, options)];
            &none
        }
    };
    let mut letters = Letters::default();
    for (position, event) in events.iter_mut().enumerate() {
        event.token = None;
        for process in processes {
            letters.add(event, process, (seq, i32::try_from(position).unwrap_or(i32::MAX)));
        }
    }
    let details = format!("change set {seq} of {} event(s)", events.len());
    Ok((letters.bury(client, &schema, &error).await?, details))
}

/// Stands for a change set that can't be understood, and carries all of it.
fn unread_event(change_set: &ChangeSet, options: &Options) -> Event {
    let trigger = options.names.id.as_str();
    let mut event = Event::new("unreadable change set", Operation::Read, change_set.seq.to_string(), trigger);
    event.event_id = Some(format!("{}/0", change_set.id));
    event.attempt = Some(1);
    event.captured_at = Some(change_set.captured_at.clone());
    let payload = serde_json::Value::from(change_set.payload.as_str());
    event.new =
        serde_json::value::to_raw_value(&serde_json::json!({ "payload": payload })).ok().map(Into::into);
    event
}

async fn skip_event(
    client: &Client,
    schema: &str,
    (event_id, process): (&str, Option<&str>),
    note: &str,
) -> Result<(Skipped, String), PostgresError> {
    let sql = format!(
        "WITH gone AS (
            DELETE FROM {schema}.parked p WHERE p.event_id = $1 AND ($2::text IS NULL OR p.process = $2) RETURNING p.*)
         INSERT INTO {schema}.dead_letters AS l
                (event_id, process, lane, seq, position, location, id, event, attempt, tries, error)
         SELECT event_id, process, lane, seq, position, location, id, event, attempt, tries,
                pg_catalog.concat_ws('; ', $3::text, 'its last error: ' || error) FROM gone
             ON CONFLICT (event_id, process) DO UPDATE SET
                event = excluded.event, attempt = excluded.attempt, tries = l.tries + excluded.tries,
                error = excluded.error, died_at = pg_catalog.clock_timestamp()
         RETURNING lane, process, event"
    );
    let rows = bounded("skipping", client.query(&sql, &[&event_id, &process, &note])).await?;
    if rows.is_empty() {
        let at = process.map_or_else(String::new, |process| format!(" at process {process:?}"));
        return Err(PostgresError::NothingToSkip { what: format!("parked event {event_id:?}{at}") });
    }
    let lanes: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    reopen_lanes(client, schema, &lanes).await?;
    let processes: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
    let details = format!("event {event_id} at {}", processes.join(", "));
    let events = rows.iter().map(|row| (row.get(1), row.get(2))).collect();
    Ok((Skipped { dead_letters: rows.len() as u64, events }, details))
}

fn stamp(options: &Options) -> Stamp {
    Stamp { trigger: options.names.id.as_str().into(), token: 0, operations: options.operations.clone() }
}

fn change_set(row: &Row) -> ChangeSet {
    ChangeSet {
        seq: row.get(0),
        id: row.get(1),
        captured_at: row.get::<_, &str>(2).into(),
        payload: row.get(3),
        changes: usize::try_from(row.get::<_, i32>(4)).unwrap_or_default(),
        claimed_before: true,
    }
}

/// Dead letters that are being made, column by column.
#[derive(Default)]
struct Letters {
    event_ids: Vec<String>,
    processes: Vec<String>,
    lanes: Vec<i64>,
    seqs: Vec<i64>,
    positions: Vec<i32>,
    locations: Vec<String>,
    ids: Vec<String>,
    events: Vec<String>,
}

impl Letters {
    fn add(&mut self, event: &Event, process: &str, (seq, position): (i64, i32)) {
        self.event_ids.push(event.event_id.clone().unwrap_or_default());
        self.processes.push(process.to_owned());
        self.lanes.push(lane(process, &event.location, &event.id));
        self.seqs.push(seq);
        self.positions.push(position);
        self.locations.push(event.location.to_string());
        self.ids.push(event.id.clone());
        self.events.push(event.to_json());
    }

    async fn bury(self, client: &Client, schema: &str, error: &str) -> Result<Skipped, PostgresError> {
        let sql = format!(
            "INSERT INTO {schema}.dead_letters
                    (event_id, process, lane, seq, position, location, id, event, attempt, tries, error)
             SELECT n.*, 1, 0, $9::text
               FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::int8[]),
                    pg_catalog.unnest($4::int8[]), pg_catalog.unnest($5::int4[]), pg_catalog.unnest($6::text[]),
                    pg_catalog.unnest($7::text[]), pg_catalog.unnest($8::text[])) n
                 ON CONFLICT (event_id, process) DO NOTHING"
        );
        let Self { event_ids, processes, lanes, seqs, positions, locations, ids, events } = self;
        let parameters: [&(dyn ToSql + Sync); 9] =
            [&event_ids, &processes, &lanes, &seqs, &positions, &locations, &ids, &events, &error];
        let dead_letters = bounded("skipping", client.execute(&sql, &parameters)).await?;
        let events = processes.into_iter().zip(events).take(MOST_SHOWN).collect();
        Ok(Skipped { dead_letters, events })
    }
}
