//! Has changes delivered again that were delivered before, as long as they are kept. Works while replicas run.

use dapper_core::{Event, InputConfig};
use jiff::Timestamp;
use tokio_postgres::Row;

use crate::PostgresError;
use crate::audit::record;
use crate::dead_letters::{MAX_CRASHES, end, lock, open};
use crate::events::Stamp;
use crate::names::quote_identifier;
use crate::parking::{Counts, Reason, Rows, lane, park_by_command};
use crate::reader::ChangeSet;
use crate::session::bounded;

/// Change sets that one transaction takes, at most: of up to 1,000 events each.
const AT_ONCE: i64 = 20;

/// What is to be delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Changes captured from then on.
    pub since: Timestamp,
    /// Only of this location: the bare table name in schema `public`, `schema.table` elsewhere.
    pub table: Option<String>,
    /// Only of this key as text, as in the event's `id`.
    pub key: Option<String>,
    /// To these processes, and what comes after them.
    pub processes: Vec<String>,
    /// Count, and change nothing.
    pub dry_run: bool,
}

/// What was found, and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Events that are meant.
    pub events: u64,
    /// How many of them, once for each process, will be delivered again; the others are parked anyway.
    pub parked: u64,
}

/// Parks changes that were delivered before, as due at once: the holder delivers them again, in the order of their key,
/// with `replay` set, an `attempt` above 1 and the `event_id` that they had. What was not delivered yet is left alone.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`]; [`PostgresError::NotRetained`]. What was parked before an error
/// stays parked, and asking again parks nothing twice while it is.
pub async fn replay(config: &InputConfig, replay: &Replay) -> Result<Replayed, PostgresError> {
    let (session, options) = open(config, "dapper replay").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    let since = replay.since.to_string();
    let doing = "reading what is kept";
    let kept = format!(
        "SELECT NULLIF(c.emptied_until, '-infinity') >= $1::text::timestamptz,
                pg_catalog.to_char(NULLIF(c.emptied_until, '-infinity') AT TIME ZONE 'UTC',
                                   'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
           FROM {schema}.cursors c WHERE c.partition = 0"
    );
    let row = bounded(doing, client.query_one(&kept, &[&since])).await?;
    if row.get::<_, Option<bool>>(0).unwrap_or(false) {
        return Err(PostgresError::NotRetained { since, emptied_until: row.get(1) });
    }
    let stamp =
        Stamp { trigger: options.names.id.as_str().into(), token: 0, operations: options.operations.clone() };
    // What the cursor has passed.
    let page = format!(
        "SELECT s.seq, s.id::text,
                pg_catalog.to_char(s.captured_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), s.payload
           FROM {schema}.change_sets s, {schema}.cursors c
          WHERE s.seq > $1 AND s.captured_at >= $2::text::timestamptz AND c.partition = 0
            AND (pg_catalog.pg_visible_in_snapshot(s.xid, c.prev)
                 OR pg_catalog.pg_visible_in_snapshot(s.xid, c.target) AND s.seq <= c.done)
          ORDER BY s.seq LIMIT $3"
    );
    let (mut after, mut replayed) = (0_i64, Replayed::default());
    loop {
        let rows = bounded(doing, client.query(&page, &[&after, &since, &AT_ONCE])).await?;
        let Some(last) = rows.last() else { return Ok(replayed) };
        after = last.get(0);
        let rows = select(&rows, &stamp, replay, &mut replayed.events)?;
        if replay.dry_run || rows.is_empty() {
            continue;
        }
        lock(client, &schema).await?;
        let parked = async {
            if replayed.parked == 0 {
                record(client, &schema, "replay", &described(replay)).await?;
            }
            park_by_command(client, &schema, &rows).await
        };
        let parked = parked.await;
        replayed.parked += end(client, parked, &options.names.channel).await?;
    }
}

/// The rows to park for these change sets.
fn select(
    change_sets: &[Row],
    stamp: &Stamp,
    replay: &Replay,
    count: &mut u64,
) -> Result<Rows, PostgresError> {
    let mut rows = Rows::default();
    let mut events = Vec::new();
    for row in change_sets {
        let change_set = ChangeSet {
            seq: row.get(0),
            id: row.get(1),
            captured_at: row.get::<_, &str>(2).into(),
            payload: row.get(3),
            changes: 0,
            claimed_before: true,
        };
        events.clear();
        stamp.events(&change_set, 1, &mut events)?;
        for (position, event) in events.iter_mut().enumerate().filter(|(_, event)| is_meant(event, replay)) {
            *count += 1;
            event.replay = true;
            event.token = None;
            for process in &replay.processes {
                let place = (
                    lane(process, &event.location, &event.id),
                    change_set.seq,
                    i32::try_from(position).unwrap_or(i32::MAX),
                );
                // The next attempt is the second.
                let counts = Counts { attempt: 1, tries: 0, crashes_left: MAX_CRASHES };
                rows.add(event, process, place, counts, Reason::default());
            }
        }
    }
    Ok(rows)
}

fn described(replay: &Replay) -> String {
    let Replay { since, table, key, processes, .. } = replay;
    let named = |what: &str, text: &Option<String>| {
        text.as_ref().map_or_else(String::new, |text| format!(" of {what} {text:?}"))
    };
    format!("since {since}{}{} to {}", named("table", table), named("key", key), processes.join(", "))
}

fn is_meant(event: &Event, replay: &Replay) -> bool {
    replay.table.as_ref().is_none_or(|table| **table == *event.location)
        && replay.key.as_ref().is_none_or(|key| *key == event.id)
}
