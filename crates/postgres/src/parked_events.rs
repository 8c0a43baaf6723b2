//! What a person sees of parked events, and may do with them. Works while replicas run, without asking them.

use dapper_core::InputConfig;
use tokio_postgres::Row;

use crate::PostgresError;
use crate::audit::record;
use crate::dead_letters::{end, lock, open};
use crate::names::quote_identifier;
use crate::session::bounded;

/// An event that waits at a process for its next try, the first of its key there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedEvent {
    /// Names it in commands.
    pub number: i64,
    /// The process's id.
    pub process: String,
    /// The event's location.
    pub location: String,
    /// The event's key as text.
    pub id: String,
    /// How often the process tried it.
    pub tries: u32,
    /// Since when it is parked, RFC 3339 in UTC.
    pub parked_at: String,
    /// When it may be tried next, RFC 3339 in UTC.
    pub ready_at: String,
    /// Later events of its key that wait behind it, up to a thousand.
    pub behind: u64,
    /// How it failed last; empty when it was not tried.
    pub error: String,
}

/// The parked events of an input that are the first of their key, the longest parked first, `limit` at the most.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`].
pub async fn parked_events(config: &InputConfig, limit: u32) -> Result<Vec<ParkedEvent>, PostgresError> {
    let (session, options) = open(config, "dapper parked").await?;
    let schema = quote_identifier(&options.names.schema);
    let time =
        |column| format!("pg_catalog.to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    let sql = format!(
        "SELECT p.number, p.process, p.location, p.id, p.tries, {parked_at}, {ready_at}, COALESCE(p.error, ''),
                (SELECT pg_catalog.count(*) FROM (SELECT FROM {schema}.parked o
                  WHERE o.lane = p.lane AND NOT o.head LIMIT 1000) behind)
           FROM {schema}.parked p WHERE p.head ORDER BY p.number LIMIT $1",
        parked_at = time("p.parked_at"),
        ready_at = time("p.ready_at"),
    );
    let rows = bounded("reading parked events", session.client().query(&sql, &[&i64::from(limit)])).await?;
    Ok(rows.iter().map(ParkedEvent::of).collect())
}

/// Has a parked event tried as soon as a replica can, whatever its backoff says. Returns how many that were: 0 when there
/// is none of that number that waits, or its process is paused.
///
/// # Errors
/// As [`parked_events`].
pub async fn retry_parked_event(config: &InputConfig, number: i64) -> Result<u64, PostgresError> {
    let (session, options) = open(config, "dapper parked").await?;
    let (client, schema) = (session.client(), quote_identifier(&options.names.schema));
    let sql = format!(
        "UPDATE {schema}.parked SET ready_at = pg_catalog.clock_timestamp()
          WHERE number = $1 AND head AND claimed IS NULL AND process NOT IN (SELECT x.process FROM {schema}.pauses x)"
    );
    lock(client, &schema).await?;
    let moved = async {
        let moved = bounded("making a parked event due", client.execute(&sql, &[&number])).await?;
        if moved > 0 {
            record(client, &schema, "parked retry", &format!("parked event {number}")).await?;
        }
        Ok(moved)
    };
    let moved = moved.await;
    end(client, moved, &options.names.channel).await
}

impl ParkedEvent {
    fn of(row: &Row) -> Self {
        Self {
            number: row.get(0),
            process: row.get(1),
            location: row.get(2),
            id: row.get(3),
            tries: row.get::<_, i32>(4).unsigned_abs(),
            parked_at: row.get(5),
            ready_at: row.get(6),
            error: row.get(7),
            behind: row.get::<_, i64>(8).unsigned_abs(),
        }
    }
}
