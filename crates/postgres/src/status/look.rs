//! The look itself: what is asked, and how the answers are put together.

use std::time::{Duration, Instant};

use dapper_lock::{HeldBy, Resource, StoreId};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::state::{self, Seen};
use super::{
    COVERAGE_EVERY, Count, Coverage, Cursor, DeadLetterCount, Holder, Lag, Parked, ParkedAt, Pause,
    ReplicaStatus, State, Status, StatusReader,
};
use crate::PostgresError;
use crate::coverage;
use crate::doctor::chain;
use crate::input::application_name;
use crate::layout;
use crate::names::quote_identifier;
use crate::presence::CONNECTED;
use crate::session::{Session, bounded};

/// Change sets that are counted one by one; more are reckoned.
const COUNTED: i64 = 10_000;
/// Parked events and dead letters that are counted; more are "at least".
const MOST_COUNTED: i64 = 100_000;
/// Parked keys that are told by process.
const MOST_BY_PROCESS: i64 = 10_000;
/// The lock store is not waited for longer.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// A time, as RFC 3339.
const RFC_3339: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'";

/// What was read of the database at one moment.
struct Read {
    cursor: Row,
    parked: Row,
    by_process: Vec<Row>,
    replicas: Vec<Row>,
    connections: i64,
    pauses: Vec<Row>,
}

impl StatusReader {
    pub(super) async fn look_by(
        &mut self,
        session: &Session,
        resource: &Resource,
    ) -> Result<Status, PostgresError> {
        let names = &self.options.names;
        if !layout::is_current(session.client(), names).await.or_else(usable)? {
            let reason = "`dapper status` does not install it".to_owned();
            return Err(PostgresError::NotInstalled { schema: names.schema.clone(), reason });
        }
        let held = tokio::time::timeout(LOCK_LIMIT, self.locks.holder(resource));
        let application = application_name(&self.options);
        let (read, held, coverage) = tokio::join!(
            read(session.client(), &names.schema, &application),
            held,
            self.coverage(session.client())
        );
        let (read, coverage) = (read?, coverage?);
        self.coverage = Some(coverage);
        let held = match held {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(error)) => Err(format!("the lock store can't be asked: {}", chain(&error))),
            Err(_) => Err(format!("the lock store did not answer within {} s", LOCK_LIMIT.as_secs())),
        };
        Ok(self.put_together(session, &read, held, coverage.1))
    }

    fn put_together(
        &mut self,
        session: &Session,
        read: &Read,
        held: Result<Option<HeldBy>, String>,
        coverage: Coverage,
    ) -> Status {
        let row = &read.cursor;
        let cursor = Cursor {
            token: row.get::<_, i64>("token").unsigned_abs(),
            handled: row.get::<_, i64>("handled").unsigned_abs(),
            moved_seconds: row.get("moved"),
            attempt: row.get::<_, i32>("attempt").unsigned_abs(),
        };
        let mut standbys: Vec<ReplicaStatus> = read.replicas.iter().map(replica).collect();
        let is_foreign = row.get::<_, i64>("system_identifier") != session.server.system_identifier;
        let (holder, lock_error) = match held {
            Err(error) => (None, Some(error)),
            Ok(held) => (holder(row, held, &mut standbys), None),
        };
        let pauses: Vec<Pause> = read.pauses.iter().map(pause).collect();
        let lag = lag(row);
        let parked = parked(read);
        let dead_letters =
            DeadLetterCount { letters: count(read.parked.get(2)), newest_seconds: read.parked.get(3) };
        let (state, reason) = state::decide(&Seen {
            lock_error,
            is_foreign,
            holder: holder.as_ref(),
            standbys: &standbys,
            connections: read.connections,
            cursor: &cursor,
            lag: &lag,
            pauses: &pauses,
            held_back: parked.events.count,
        });
        let seconds: f64 = row.get("seconds");
        let rate = self
            .last
            .filter(|(_, at)| seconds > *at)
            .map(|(before, at)| cursor.handled.saturating_sub(before) as f64 / (seconds - at));
        self.last = Some((cursor.handled, seconds));
        let mut status = Status {
            warnings: state::warnings(&parked, &dead_letters, &pauses, coverage, holder.as_ref(), &cursor),
            at: row.get("now"),
            holder,
            standbys,
            cursor: Some(cursor),
            lag: Some(lag),
            missed: Some(row.get::<_, i64>("missed").unsigned_abs()),
            rate,
            parked: Some(parked),
            dead_letters: Some(dead_letters),
            pauses,
            coverage: Some(coverage),
            ..self.empty(state, reason)
        };
        if state != State::NoHolder && status.standbys.is_empty() {
            status.warnings.push("no replica stands by: nobody would take over".to_owned());
        }
        status
    }

    async fn coverage(&self, client: &Client) -> Result<(Instant, Coverage), PostgresError> {
        if let Some(coverage) = self.coverage.filter(|(at, _)| at.elapsed() < COVERAGE_EVERY) {
            return Ok(coverage);
        }
        let mut found = Coverage::default();
        for (table, drifts) in coverage::survey(client, &self.options).await? {
            let is_wanted = self.options.wants(&table).is_some();
            if !drifts.is_empty() || self.options.refuses(&table).is_some() {
                found.problems += 1;
            } else if is_wanted {
                found.covered += 1;
            }
        }
        Ok((Instant::now(), found))
    }
}

/// A newer layout that versions like this one may run on can be looked at, too.
fn usable(error: PostgresError) -> Result<bool, PostgresError> {
    match error {
        PostgresError::NewerLayout { .. } => Ok(true),
        other => Err(other),
    }
}

/// Everything, sent at once.
async fn read(client: &Client, schema: &str, application: &str) -> Result<Read, PostgresError> {
    let schema = quote_identifier(schema);
    let cursor = include_str!("../status.sql").replace("{schema}", &schema);
    let most = MOST_COUNTED + 1;
    let parked = format!(
        "SELECT (SELECT pg_catalog.count(*) FROM (SELECT FROM {schema}.parked p LIMIT {most}) n),
                (SELECT pg_catalog.count(*) FROM (SELECT FROM {schema}.parked p WHERE p.head LIMIT {most}) n),
                (SELECT pg_catalog.count(*) FROM (SELECT FROM {schema}.dead_letters d LIMIT {most}) n),
                (SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() - d.died_at)::float8
                   FROM {schema}.dead_letters d ORDER BY d.number DESC LIMIT 1)"
    );
    let by_process = format!(
        "SELECT n.process, pg_catalog.count(*),
                EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(n.parked_at))::float8,
                pg_catalog.left((pg_catalog.array_agg(n.error ORDER BY n.parked_at) FILTER (WHERE n.error <> ''))[1], 300)
           FROM (SELECT p.process, p.parked_at, p.error FROM {schema}.parked p WHERE p.head LIMIT {MOST_BY_PROCESS}) n
          GROUP BY n.process ORDER BY 2 DESC, 1 LIMIT 100"
    );
    let replicas = format!(
        "SELECT r.replica::text, r.run_by, r.process_id, r.address, r.version,
                pg_catalog.to_char(r.since AT TIME ZONE 'UTC', {RFC_3339}), r.last_error,
                EXTRACT(epoch FROM pg_catalog.clock_timestamp() - r.last_error_at)::float8
           FROM {schema}.replicas r
          WHERE EXISTS ({CONNECTED} AND pg_catalog.starts_with(a.application_name, $1)) ORDER BY r.since, r.pid LIMIT 1000"
    );
    let connections = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = pg_catalog.current_database() AND pg_catalog.starts_with(a.application_name, $1)";
    let pauses = format!(
        "SELECT p.process, p.reason, p.paused_by, pg_catalog.to_char(p.paused_at AT TIME ZONE 'UTC', {RFC_3339}),
                EXTRACT(epoch FROM pg_catalog.clock_timestamp() - p.paused_at)::float8
           FROM {schema}.pauses p ORDER BY p.process LIMIT 1000"
    );
    let doing = "reading the status";
    let counted = COUNTED + 1;
    let counted: [&(dyn ToSql + Sync); 1] = [&counted];
    let application: [&(dyn ToSql + Sync); 1] = [&application];
    let (cursor, parked, by_process, replicas, connections, pauses) = tokio::join!(
        bounded(doing, client.query_opt(&cursor, &counted)),
        bounded(doing, client.query_one(&parked, &[])),
        bounded(doing, client.query(&by_process, &[])),
        bounded(doing, client.query(&replicas, &application)),
        bounded(doing, client.query_one(connections, &application)),
        bounded(doing, client.query(&pauses, &[])),
    );
    let gone = || PostgresError::Unexpected { what: "the cursor row, which is gone,", value: String::new() };
    Ok(Read {
        cursor: cursor?.ok_or_else(gone)?,
        parked: parked?,
        by_process: by_process?,
        replicas: replicas?,
        connections: connections?.get(0),
        pauses: pauses?,
    })
}

/// Who holds; what it said of itself is taken out of `replicas`, and whoever is left stands by.
fn holder(row: &Row, held: Option<HeldBy>, replicas: &mut Vec<ReplicaStatus>) -> Option<Holder> {
    let lock_store: Option<&str> = row.get("lock_store");
    let (id, token, remaining) = match held {
        Some(held) => {
            let base: i64 = row.get("token_base");
            (
                held.holder.to_string(),
                held.token.get() + base.unsigned_abs(),
                Some(held.remaining.as_secs_f64()),
            )
        }
        // A store in a replica's own memory can't be asked from elsewhere: whoever has sealed the cursor and is there, holds.
        None if lock_store == Some(StoreId::EPHEMERAL.to_string().as_str()) => {
            let newest = replicas.last()?.id.clone();
            (newest, row.get::<_, i64>("token").unsigned_abs(), None)
        }
        None => return None,
    };
    let at = replicas.iter().position(|replica| replica.id == id);
    let has_sealed = row.get::<_, i64>("token").unsigned_abs() >= token;
    Some(Holder {
        id,
        token,
        since: row.get::<_, Option<String>>("sealed_at").filter(|_| has_sealed),
        for_seconds: row.get::<_, Option<f64>>("sealed").filter(|_| has_sealed),
        lease_remaining_seconds: remaining,
        replica: at.map(|at| replicas.remove(at)),
    })
}

fn lag(row: &Row) -> Lag {
    let (sets, changes): (i64, i64) = (row.get("change_sets"), row.get("changes"));
    let seconds = row.get::<_, Option<f64>>("oldest").unwrap_or(0.0).max(0.0);
    let exact = sets <= COUNTED;
    if exact {
        return Lag { changes: changes.unsigned_abs(), exact, seconds };
    }
    let (first, last): (Option<i64>, i64) = (row.get("first_seq"), row.get("last_seq"));
    let positions = last.saturating_sub(first.unwrap_or(last)).saturating_add(1).max(sets) as f64;
    let each = changes as f64 / sets as f64;
    Lag { changes: (positions * each).round() as u64, exact, seconds }
}

fn count(number: i64) -> Count {
    Count { count: number.min(MOST_COUNTED).unsigned_abs(), exact: number <= MOST_COUNTED }
}

fn parked(read: &Read) -> Parked {
    let at = |row: &Row| ParkedAt {
        process: row.get(0),
        keys: row.get::<_, i64>(1).unsigned_abs(),
        oldest_seconds: row.get(2),
        error: row.get(3),
    };
    Parked {
        events: count(read.parked.get(0)),
        keys: count(read.parked.get(1)),
        processes: read.by_process.iter().map(at).collect(),
    }
}

fn replica(row: &Row) -> ReplicaStatus {
    ReplicaStatus {
        id: row.get(0),
        run_by: row.get(1),
        process_id: row.get(2),
        address: row.get(3),
        version: row.get(4),
        since: row.get(5),
        last_error: row.get(6),
        last_error_seconds: row.get(7),
    }
}

fn pause(row: &Row) -> Pause {
    let process: String = row.get(0);
    Pause {
        process: (!process.is_empty()).then_some(process),
        reason: row.get(1),
        paused_by: row.get(2),
        since: row.get(3),
        for_seconds: row.get(4),
    }
}
