//! Reads what is visible now and was not visible before, in `seq` order, in bounded batches.
//!
//! Two rules hold here, each of which loses changes silently when broken. The snapshot that becomes the target comes out
//! of the very statement that reads the rows: one taken later would see commits whose rows were not read. And that
//! statement runs in a transaction that has no transaction id of its own, on a primary: an own id would be seen as
//! finished as soon as a bystander's higher one is, and a standby's snapshots list no open transactions. The statement
//! itself reports all three, and a read that breaks a rule is an error.

use std::sync::Arc;

use tokio_postgres::{Client, Row, Statement};

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::progress::{Claimed, NextRead};
use crate::session::bounded;
use crate::snapshot::Snapshot;

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
    fresh: Statement,
    rest: Statement,
    limits: Limits,
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
        Ok(Self {
            fresh: bounded("preparing", client.prepare(&fresh_sql(&schema))).await?,
            rest: bounded("preparing", client.prepare(&rest_sql(&schema))).await?,
            limits,
        })
    }

    /// Reads what comes after this moment, and forgets it: the server then has its plan and what it must know of the
    /// tables at hand, and the first read that counts is a quick one.
    pub(crate) async fn warm_up(&self, client: &Client) -> Result<(), PostgresError> {
        let row =
            bounded("warming up", client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]))
                .await?;
        let text: &str = row.get(0);
        let since = text
            .parse::<Snapshot>()
            .map_err(|_| PostgresError::Unexpected { what: "a snapshot", value: text.to_owned() })?;
        self.read(client, &NextRead::Fresh { since }, None).await.map(|_| ())
    }

    /// Reads the next batch; `inherited` bounds what is reported as claimed before.
    pub(crate) async fn read(
        &self,
        client: &Client,
        next: &NextRead,
        inherited: Option<&Claimed>,
    ) -> Result<Batch, PostgresError> {
        let claimed = inherited.map(|claimed| claimed.snapshot.to_string());
        let claimed_seq = inherited.map_or(0, |claimed| claimed.seq);
        let Limits { rows, bytes } = self.limits;
        let doing = "reading change sets";
        if is_broken!(NoXid) {
            bounded(
                doing,
                client.batch_execute(
                    "BEGIN; SELECT pg_catalog.pg_current_xact_id(), pg_catalog.pg_sleep(0.02)",
                ),
            )
            .await?;
        }
        let rows = match next {
            NextRead::Fresh { since } => {
                let xmax = since.xmax.to_string();
                let xip: Vec<String> = since.xip.iter().map(ToString::to_string).collect();
                bounded(
                    doing,
                    client.query(&self.fresh, &[&claimed, &claimed_seq, &rows, &bytes, &xmax, &xip]),
                )
                .await?
            }
            NextRead::Rest { since, target, after } => {
                let (since, target) = (since.to_string(), target.to_string());
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
                    [&claimed, &claimed_seq, &rows, &bytes, &since, &target, after];
                bounded(doing, client.query(&self.rest, &parameters)).await?
            }
        };
        let mut batch = self.batch(&rows)?;
        if is_broken!(NoXid) {
            // What a process that shared the reading transaction would do, now and then.
            let written =
                if fastrand::u8(..4) == 0 { "INSERT INTO public.followups DEFAULT VALUES;" } else { "" };
            bounded(doing, client.batch_execute(&format!("{written} COMMIT"))).await?;
        }
        if is_broken!(SameStatementSnapshot) {
            let later = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]);
            let row = bounded(doing, later).await?;
            batch.snapshot = row.get::<_, &str>(0).parse().unwrap_or(batch.snapshot);
        }
        Ok(batch)
    }

    fn batch(&self, rows: &[Row]) -> Result<Batch, PostgresError> {
        let mut header = None;
        let mut change_sets = Vec::with_capacity(rows.len());
        let mut bytes = 0;
        for row in rows {
            let Some(seq) = row.get::<_, Option<i64>>(0) else {
                header = Some(read_header(row)?);
                continue;
            };
            let payload: String = row.get(3);
            bytes += payload.len();
            change_sets.push(ChangeSet {
                seq,
                id: row.get(1),
                captured_at: row.get::<_, &str>(2).into(),
                payload,
                claimed_before: row.get(4),
            });
        }
        let (snapshot, wake_up) = header
            .ok_or(PostgresError::Unexpected { what: "the header of a read", value: "nothing".into() })?;
        change_sets.sort_by_key(|change_set| change_set.seq);
        let full = change_sets.len() as i64 >= self.limits.rows || bytes as i64 >= self.limits.bytes;
        Ok(Batch { snapshot, wake_up, change_sets, exhausted: !full })
    }
}

fn read_header(row: &Row) -> Result<(Snapshot, i64), PostgresError> {
    let unexpected = |what, value: &str| PostgresError::Unexpected { what, value: value.to_owned() };
    if row.get(4) {
        return Err(PostgresError::Standby { server: "the session's server".into() });
    }
    if let Some(xid) = row.get::<_, Option<&str>>(2).filter(|_| !is_broken!(NoXid)) {
        return Err(unexpected("the transaction id of the reading transaction, which must have none,", xid));
    }
    let wake_up: &str = row.get(1);
    let text: &str = row.get(3);
    Ok((
        text.parse().map_err(|_| unexpected("a snapshot", text))?,
        wake_up.parse().map_err(|_| unexpected("the wake-up flag", wake_up))?,
    ))
}

/// A first row that describes the reading statement, then the change sets. Takes no lock that a writer could meet.
/// `seq + 0` keeps the planner from walking the index on `seq` past everything already read.
fn fresh_sql(schema: &str) -> String {
    let source = format!(
        "SELECT u.* FROM (
            SELECT c.* FROM {schema}.change_sets c WHERE c.xid >= $5::text::xid8
            UNION ALL
            SELECT c.* FROM {schema}.change_sets c WHERE c.xid = ANY ($6::text[]::xid8[])
         ) u ORDER BY u.seq + 0 LIMIT $3"
    );
    batch_sql(schema, &source)
}

/// The rest of a target, by the index on `seq`: the cost of a batch does not grow with what is left.
fn rest_sql(schema: &str) -> String {
    let source = format!(
        "SELECT c.* FROM {schema}.change_sets c
          WHERE c.seq > $7
            AND pg_catalog.pg_visible_in_snapshot(c.xid, $6::text::pg_catalog.pg_snapshot)
            AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, $5::text::pg_catalog.pg_snapshot)
          ORDER BY c.seq LIMIT $3"
    );
    batch_sql(schema, &source)
}

fn batch_sql(schema: &str, source: &str) -> String {
    format!(
        "SELECT NULL::int8, (SELECT w.last_value FROM {schema}.wake_up w)::text,
                pg_catalog.pg_current_xact_id_if_assigned()::text,
                pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_is_in_recovery()
         UNION ALL
         (SELECT b.seq, b.id::text,
                 pg_catalog.to_char(b.captured_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                 b.payload,
                 COALESCE(pg_catalog.pg_visible_in_snapshot(b.xid, $1::text::pg_catalog.pg_snapshot)
                          AND b.seq <= $2, false)
            FROM (SELECT s.*, pg_catalog.sum(pg_catalog.octet_length(s.payload))
                                  OVER (ORDER BY s.seq ROWS UNBOUNDED PRECEDING) AS bytes
                    FROM ({source}) s) b
           WHERE b.bytes - pg_catalog.octet_length(b.payload) < $4
           ORDER BY b.seq)"
    )
}
