//! Reads what is visible now and was not visible before, in `seq` order, in bounded batches.
//!
//! Two rules hold here, each of which loses changes silently when broken. The snapshot that becomes the target comes out
//! of the very statement that reads the rows: one taken later would see commits whose rows were not read. And that
//! statement runs in a transaction that has no transaction id of its own, on a primary: an own id would be seen as
//! finished as soon as a bystander's higher one is, and a standby's snapshots list no open transactions. The statement
//! itself reports all three, and a read that breaks a rule is an error.

use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::progress::{Claimed, NextRead};
use crate::session::bounded;
use crate::snapshot::Snapshot;
use crate::wire::{RawTime, RawUuid, TimeWriter};

/// A payload of more bytes is read by the statement that adds them up. One with so many is left out by the other, which
/// takes the server half the time for each row, and ends a batch there: so neither brings more than a batch can have.
const SMALL_PAYLOAD: i64 = 512;

/// Bounds of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Change sets at most.
    pub(crate) rows: i64,
    /// Once the payloads read reach this many bytes no further change set is added.
    pub(crate) bytes: i64,
}

/// The statements that read, prepared on one session.
pub(crate) struct Reader {
    fresh: Statements,
    rest: Statements,
    limits: Limits,
    /// Whether the payloads are small, as far as was seen.
    small: bool,
    /// Changes in a change set, on average, as far as was seen.
    changes: f64,
    times: TimeWriter,
}

/// Two statements for the same rows.
struct Statements {
    /// With payloads up to [`SMALL_PAYLOAD`].
    small: Statement,
    /// With any payloads, up to a sum.
    any: Statement,
}

/// A statement's answer, as it came.
pub(crate) struct Fetched {
    rows: Vec<Row>,
    /// How many rows it was to bring at most, and how many changes.
    asked: i64,
    events: usize,
    /// The snapshot of a later statement, where a test wants that mistake made.
    later: Option<Snapshot>,
}

/// What one statement read.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The snapshot of the statement.
    pub(crate) snapshot: Snapshot,
    /// The wake-up flag as the statement saw it.
    pub(crate) wake_up: i64,
    /// In `seq` order.
    pub(crate) change_sets: Vec<ChangeSet>,
    /// Whether nothing of the target is left behind it.
    pub(crate) exhausted: bool,
}

/// One row of `change_sets`.
#[derive(Debug)]
pub(crate) struct ChangeSet {
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) captured_at: Arc<str>,
    pub(crate) payload: String,
    /// How many changes it holds.
    pub(crate) changes: usize,
    /// Whether a predecessor may have delivered it.
    pub(crate) claimed_before: bool,
}

impl Reader {
    pub(crate) async fn prepare(
        client: &Client,
        schema: &str,
        limits: Limits,
    ) -> Result<Self, PostgresError> {
        // The plans must not depend on statistics: `change_sets` goes from empty to millions of rows and back.
        bounded(
            "setting up the session",
            client.batch_execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off"),
        )
        .await?;
        let schema = quote_identifier(schema);
        let statements = async |source: &str| -> Result<Statements, PostgresError> {
            let (small, any) = (small_sql(&schema, source), any_sql(&schema, source));
            // Sent at once.
            let (small, any) = tokio::join!(client.prepare(&small), client.prepare(&any));
            let prepared = async |statement| bounded("preparing", async { statement }).await;
            Ok(Statements { small: prepared(small).await?, any: prepared(any).await? })
        };
        Ok(Self {
            fresh: statements(&fresh_source(&schema)).await?,
            rest: statements(&rest_source(&schema)).await?,
            limits,
            small: true,
            changes: 1.0,
            times: TimeWriter::default(),
        })
    }

    /// Reads what comes after this moment, and forgets it: the server then has its plan and what it must know of the
    /// tables at hand, and the first read that counts is a quick one.
    pub(crate) async fn warm_up(&mut self, client: &Client) -> Result<(), PostgresError> {
        let row =
            bounded("warming up", client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]))
                .await?;
        let text: &str = row.get(0);
        let since = text
            .parse::<Snapshot>()
            .map_err(|_| PostgresError::Unexpected { what: "a snapshot", value: text.to_owned() })?;
        self.read(client, &NextRead::Fresh { since }, None, usize::MAX).await.map(|_| ())
    }

    /// Reads the next batch, of about so many changes; `inherited` bounds what is reported as claimed before.
    pub(crate) async fn read(
        &mut self,
        client: &Client,
        next: &NextRead,
        inherited: Option<&Claimed>,
        events: usize,
    ) -> Result<Batch, PostgresError> {
        loop {
            let fetched = self.fetch(client, next, inherited, events).await?;
            // The second time it reads by the statement that takes any payload.
            if let Some(batch) = self.take(fetched)? {
                return Ok(batch);
            }
        }
    }

    /// Sends the statement when it is first polled, so that it can be sent behind another one.
    pub(crate) fn fetch<'c>(
        &self,
        client: &'c Client,
        next: &NextRead,
        inherited: Option<&Claimed>,
        events: usize,
    ) -> impl Future<Output = Result<Fetched, PostgresError>> + use<'c> {
        let asked = ((events as f64 / self.changes.max(1.0)).ceil() as i64).clamp(1, self.limits.rows);
        let statements = match next {
            NextRead::Fresh { .. } => &self.fresh,
            NextRead::Rest { .. } => &self.rest,
        };
        let statement = if self.small { statements.small.clone() } else { statements.any.clone() };
        let bytes = if self.small { SMALL_PAYLOAD } else { self.limits.bytes };
        let (next, claimed) = (next.clone(), inherited.cloned());
        async move {
            let doing = "reading change sets";
            if is_broken!(NoXid) {
                let begin = "BEGIN; SELECT pg_catalog.pg_current_xact_id(), pg_catalog.pg_sleep(0.02)";
                bounded(doing, client.batch_execute(begin)).await?;
            }
            let claimed_seq = claimed.as_ref().map_or(0, |claimed| claimed.seq);
            let claimed = claimed.map(|claimed| claimed.snapshot);
            let rows = match &next {
                NextRead::Fresh { since } => {
                    let xmax = since.xmax.to_string();
                    let xip: Vec<String> = since.xip.iter().map(ToString::to_string).collect();
                    let parameters: [&(dyn ToSql + Sync); 6] =
                        [&claimed, &claimed_seq, &asked, &bytes, &xmax, &xip];
                    bounded(doing, client.query(&statement, &parameters)).await?
                }
                NextRead::Rest { since, target, after } => {
                    let parameters: [&(dyn ToSql + Sync); 7] =
                        [&claimed, &claimed_seq, &asked, &bytes, since, target, after];
                    bounded(doing, client.query(&statement, &parameters)).await?
                }
            };
            if is_broken!(NoXid) {
                // What a process that shared the reading transaction would do, now and then.
                let written =
                    if fastrand::u8(..4) == 0 { "INSERT INTO public.followups DEFAULT VALUES;" } else { "" };
                bounded(doing, client.batch_execute(&format!("{written} COMMIT"))).await?;
            }
            let mut later = None;
            if is_broken!(SameStatementSnapshot) {
                let row = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]);
                later = bounded(doing, row).await?.get::<_, &str>(0).parse().ok();
            }
            Ok(Fetched { rows, asked, events, later })
        }
    }

    /// The batch that a statement brought, cut where it would have more changes or bytes than it may have; `None` when the
    /// very first payload is not a small one, and has to be read again by the other statement.
    pub(crate) fn take(&mut self, fetched: Fetched) -> Result<Option<Batch>, PostgresError> {
        let Fetched { rows, asked, events, later } = fetched;
        let mut header = None;
        let mut ordered = Vec::with_capacity(rows.len());
        for row in &rows {
            match row.get::<_, Option<i64>>(0) {
                Some(seq) => ordered.push((seq, row)),
                None => header = Some(read_header(row)?),
            }
        }
        ordered.sort_by_key(|&(seq, _)| seq);
        let mut change_sets = Vec::with_capacity(ordered.len());
        let (mut bytes, mut changes, mut cut) = (0, 0, false);
        for (seq, row) in ordered {
            let Some(payload) = row.get::<_, Option<String>>(3) else {
                cut = true;
                break;
            };
            if changes >= events || bytes as i64 >= self.limits.bytes {
                cut = true;
                break;
            }
            bytes += payload.len();
            let count = usize::try_from(row.get::<_, i32>(5)).unwrap_or(0);
            changes += count;
            change_sets.push(ChangeSet {
                seq,
                id: row.get::<_, RawUuid>(1).text(),
                captured_at: self.times.text(row.get::<_, RawTime>(2)).into(),
                payload,
                changes: count,
                claimed_before: row.get(4),
            });
        }
        let (snapshot, wake_up) = header
            .ok_or(PostgresError::Unexpected { what: "the header of a read", value: "nothing".into() })?;
        if cut && change_sets.is_empty() {
            self.small = false;
            return Ok(None);
        }
        let read = change_sets.len() as i64;
        let full = cut || read >= asked || bytes as i64 >= self.limits.bytes;
        if read > 0 {
            self.small = bytes as i64 / read < SMALL_PAYLOAD / 2;
            self.changes = changes as f64 / read as f64;
        }
        Ok(Some(Batch { snapshot: later.unwrap_or(snapshot), wake_up, change_sets, exhausted: !full }))
    }
}

fn read_header(row: &Row) -> Result<(Snapshot, i64), PostgresError> {
    let unexpected = |what, value: &str| PostgresError::Unexpected { what, value: value.to_owned() };
    if row.get(4) {
        return Err(PostgresError::Standby { server: "the session's server".into() });
    }
    let text: &str = row.get(3);
    let mut words = text.split(' ');
    let (snapshot, wake_up) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if let Some(xid) = words.next().filter(|_| !is_broken!(NoXid)) {
        return Err(unexpected("the transaction id of the reading transaction, which must have none,", xid));
    }
    Ok((
        snapshot.parse().map_err(|_| unexpected("a snapshot", snapshot))?,
        wake_up.parse().map_err(|_| unexpected("the wake-up flag", wake_up))?,
    ))
}

/// What is visible and was not. `seq + 0` keeps the planner from walking the index on `seq` past everything already read.
fn fresh_source(schema: &str) -> String {
    format!(
        "SELECT u.* FROM (
            SELECT c.* FROM {schema}.change_sets c WHERE c.xid >= $5::text::xid8
            UNION ALL
            SELECT c.* FROM {schema}.change_sets c WHERE c.xid = ANY ($6::text[]::xid8[])
         ) u ORDER BY u.seq + 0 LIMIT $3"
    )
}

/// The rest of a target, by the index on `seq`: the cost of a batch does not grow with what is left.
fn rest_source(schema: &str) -> String {
    format!(
        "SELECT c.* FROM {schema}.change_sets c
          WHERE c.seq > $7
            AND pg_catalog.pg_visible_in_snapshot(c.xid, $6::pg_catalog.pg_snapshot)
            AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, $5::pg_catalog.pg_snapshot)
          ORDER BY c.seq LIMIT $3"
    )
}

/// Leaves out payloads of more than `$4` bytes.
fn small_sql(schema: &str, source: &str) -> String {
    let payload = "CASE WHEN pg_catalog.octet_length(b.payload) <= $4::int8 THEN b.payload END";
    batch_sql(schema, payload, &format!("FROM ({source}) b"))
}

/// Ends when the payloads have reached `$4` bytes.
fn any_sql(schema: &str, source: &str) -> String {
    let bounded = format!(
        "FROM (SELECT s.*, pg_catalog.sum(pg_catalog.octet_length(s.payload))
                               OVER (ORDER BY s.seq ROWS UNBOUNDED PRECEDING) AS bytes
                 FROM ({source}) s) b
        WHERE b.bytes - pg_catalog.octet_length(b.payload) < $4::int8
        ORDER BY b.seq"
    );
    batch_sql(schema, "b.payload", &bounded)
}

/// A first row that describes the reading statement, then the change sets. Takes no lock that a writer could meet.
fn batch_sql(schema: &str, payload: &str, source: &str) -> String {
    format!(
        "SELECT NULL::int8, NULL::uuid, NULL::timestamptz,
                pg_catalog.concat_ws(' ', pg_catalog.pg_current_snapshot()::text,
                    (SELECT w.last_value FROM {schema}.wake_up w)::text,
                    pg_catalog.pg_current_xact_id_if_assigned()::text),
                pg_catalog.pg_is_in_recovery(), NULL::int4
         UNION ALL
         (SELECT b.seq, b.id, b.captured_at, {payload},
                 COALESCE(pg_catalog.pg_visible_in_snapshot(b.xid, $1::pg_catalog.pg_snapshot) AND b.seq <= $2, false),
                 b.changes
            {source})"
    )
}
