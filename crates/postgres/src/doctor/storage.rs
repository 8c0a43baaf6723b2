//! What is stored, how far it is read, and who holds it back.

use tokio_postgres::{Client, Row};

use super::{Finding, Thresholds, duration, size};
use crate::PostgresError;
use crate::input::application_name;
use crate::names::quote_identifier;
use crate::options::{OnCaptureError, Options};
use crate::session::{Session, bounded};

/// Unread change sets that are counted; more are "more than".
const COUNTED: i64 = 100_000;

/// Transactions that have been open for long. They keep every table from being vacuumed, the change sets they have
/// written from being read, and the slots they have written to from being emptied.
const OPEN_TRANSACTIONS: &str = "
SELECT pg_catalog.format('process %s (%s, %s, %s)', a.pid, a.usename, a.datname, a.state) AS who,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age,
       pg_catalog.left(a.query, 120) AS query,
       pg_catalog.format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
  FROM pg_catalog.pg_stat_activity a
 WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.xact_start IS NOT NULL AND a.backend_type = 'client backend'
   AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL)
UNION ALL
SELECT pg_catalog.format('prepared transaction %L (%s, %s)', p.gid, p.owner, p.database),
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8, NULL,
       pg_catalog.format('COMMIT PREPARED %L or ROLLBACK PREPARED %1$L', p.gid)
  FROM pg_catalog.pg_prepared_xacts p
 ORDER BY age DESC LIMIT 10";

/// Replication slots that nobody uses and that keep old rows.
const SLOTS: &str = "
SELECT s.slot_name::text FROM pg_catalog.pg_replication_slots s
 WHERE NOT s.active AND (s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL)";

pub(super) async fn holding_back(
    client: &Client,
    thresholds: Thresholds,
) -> Result<Vec<Finding>, PostgresError> {
    let rows = bounded("looking for open transactions", client.query(OPEN_TRANSACTIONS, &[])).await?;
    let old = |row: &&Row| row.get::<_, f64>(1) >= thresholds.open.as_secs_f64();
    let mut findings: Vec<Finding> = rows
        .iter()
        .filter(old)
        .map(|row| {
            let (who, age, query): (String, f64, Option<String>) = (row.get(0), row.get(1), row.get(2));
            let query = query.filter(|query| !query.is_empty()).map_or_else(String::new, |query| {
                format!("; its last query: {}", query.split_whitespace().collect::<Vec<_>>().join(" "))
            });
            Finding::problem(
                "transactions",
                format!("{who} has had a transaction open for {}{query}", duration(age)),
                format!("let it end, or run {}", row.get::<_, String>(3)),
            )
        })
        .collect();
    for row in bounded("looking for replication slots", client.query(SLOTS, &[])).await? {
        let slot: String = row.get(0);
        findings.push(Finding::problem(
            "slots",
            format!("replication slot {slot:?} is not in use and keeps old rows from being vacuumed"),
            format!(
                "start its reader, or run SELECT pg_drop_replication_slot('{}')",
                slot.replace('\'', "''")
            ),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("transactions", "none has been open for long"));
    }
    Ok(findings)
}

/// Whose the cursor is, and who holds it.
pub(super) async fn cursor(session: &Session, options: &Options) -> Result<Vec<Finding>, PostgresError> {
    let schema = quote_identifier(&options.names.schema);
    let sql = format!(
        "SELECT c.system_identifier, c.token, c.attempt,
                (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
                  WHERE (a.application_name = $1 OR pg_catalog.starts_with(a.application_name, $1 || ' '))
                    AND a.datname = pg_catalog.current_database())
           FROM {schema}.cursors c WHERE c.partition = 0"
    );
    let name = application_name(options);
    let row = bounded("reading the cursor", session.client().query_opt(&sql, &[&name])).await?;
    let Some(row) = row else {
        let remedy = "run `dapper uninstall` and `dapper install`; what was not delivered is lost";
        return Ok(vec![Finding::problem("cursor", "the cursor row is gone", remedy)]);
    };
    let (system, token, attempt): (i64, i64, i32) = (row.get(0), row.get(1), row.get(2));
    let mut findings = Vec::new();
    if system != session.server.system_identifier {
        findings.push(Finding::problem(
            "cursor",
            format!(
                "the cursor was written by cluster {system}, this is {}",
                session.server.system_identifier
            ),
            "if this is a restored copy that should be read, run `dapper rebase`",
        ));
    } else if attempt > 3 {
        findings.push(Finding::problem(
            "cursor",
            format!("the oldest unfinished changes are being delivered for the {attempt}th time"),
            "see the replicas' logs for the process that fails or dies of them",
        ));
    } else {
        findings.push(Finding::ok("cursor", format!("fencing token {token}")));
    }
    let connections: i64 = row.get(3);
    findings.push(if connections == 0 {
        Finding::problem("replicas", "none is connected: changes pile up", "start `dapper run`")
    } else {
        Finding::ok("replicas", format!("{connections} connection(s)"))
    });
    Ok(findings)
}

/// Statements that passed unrecorded.
pub(super) async fn missed(client: &Client, options: &Options) -> Result<Vec<Finding>, PostgresError> {
    let schema = quote_identifier(&options.names.schema);
    let sql = format!("SELECT CASE WHEN m.is_called THEN m.last_value ELSE 0 END FROM {schema}.missed m");
    let missed: i64 = bounded("counting what was missed", client.query_one(&sql, &[])).await?.get(0);
    if missed == 0 {
        return Ok(match options.on_capture_error {
            OnCaptureError::Fail => Vec::new(),
            OnCaptureError::Skip => vec![Finding::ok("missed", "no statement passed unrecorded")],
        });
    }
    Ok(vec![Finding::problem(
        "missed",
        format!("the changes of about {missed} statement(s) could not be recorded and are lost"),
        format!(
            "see the server's log for the tables and the errors, put right what they name, do for these tables what was \
             missed, then run ALTER SEQUENCE {schema}.missed RESTART"
        ),
    )])
}

/// What is parked, and what is dead.
pub(super) async fn parked(client: &Client, options: &Options) -> Result<Vec<Finding>, PostgresError> {
    let schema = quote_identifier(&options.names.schema);
    let sql = format!(
        "SELECT (SELECT pg_catalog.count(*) FROM {schema}.parked),
                (SELECT pg_catalog.count(*) FROM {schema}.parked p WHERE p.head),
                (SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(p.parked_at))::float8
                   FROM {schema}.parked p WHERE p.head),
                (SELECT pg_catalog.count(*) FROM {schema}.dead_letters)"
    );
    let row = bounded("counting parked events", client.query_one(&sql, &[])).await?;
    let (parked, keys, dead): (i64, i64, i64) = (row.get(0), row.get(1), row.get(3));
    let oldest: Option<f64> = row.get(2);
    let parked = match oldest {
        None => Finding::ok("parked", "no event is"),
        Some(seconds) => Finding::ok(
            "parked",
            format!(
                "{parked} event(s) of {keys} key(s) that a process failed on, the oldest for {seconds:.0} s"
            ),
        ),
    };
    let dead = if dead == 0 {
        Finding::ok("dead letters", "there are none")
    } else {
        Finding::problem(
            "dead letters",
            format!("{dead}: events that a process failed on for the last time"),
            "see `dapper dead-letters list`, then retry or discard them",
        )
    };
    Ok(vec![parked, dead])
}

/// Size and age of what is stored.
pub(super) async fn change_sets(
    client: &Client,
    options: &Options,
    thresholds: Thresholds,
) -> Result<Vec<Finding>, PostgresError> {
    let schema = quote_identifier(&options.names.schema);
    let literal = schema.replace('\'', "''");
    let sql = format!(
        "WITH unread AS MATERIALIZED (
            SELECT s.captured_at
              FROM {schema}.cursors c
              JOIN {schema}.change_sets s ON s.xid >= pg_catalog.pg_snapshot_xmin(c.prev)
             WHERE c.partition = 0 AND NOT pg_catalog.pg_visible_in_snapshot(s.xid, c.prev)
               AND NOT COALESCE(pg_catalog.pg_visible_in_snapshot(s.xid, c.target) AND s.seq <= c.done, false)
             LIMIT {COUNTED})
         SELECT (SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(i.inhrelid))::int8
                   FROM pg_catalog.pg_inherits i WHERE i.inhparent = '{literal}.change_sets'::pg_catalog.regclass),
                (SELECT pg_catalog.count(*) FROM unread),
                (SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(u.captured_at))::float8
                   FROM unread u),
                (SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() - s.captured_at)::float8
                   FROM {schema}.change_sets s ORDER BY s.seq LIMIT 1)"
    );
    let row = bounded("measuring the change sets", client.query_one(&sql, &[])).await?;
    let (bytes, unread): (i64, i64) = (row.get(0), row.get(1));
    let (unread_age, oldest): (Option<f64>, Option<f64>) = (row.get(2), row.get(3));
    let more = if unread == COUNTED { "at least " } else { "" };
    let kept = oldest.map_or_else(String::new, |age| format!(", the oldest {} old", duration(age)));
    let what = format!("{}{kept}; {more}{unread} unread", size(bytes));
    let mut findings = Vec::new();
    if let Some(age) = unread_age.filter(|age| *age >= thresholds.unread.as_secs_f64()) {
        findings.push(Finding::problem(
            "unread",
            format!("{more}{unread} change sets are unread, the oldest since {}", duration(age)),
            "see that a replica runs and that its processes keep up; its log says what they fail of",
        ));
    }
    if let Some(max) = options.max_size.filter(|max| bytes >= *max) {
        findings.push(Finding::problem(
            "storage",
            format!("{what}; max_size ({}) is reached: changes can't be recorded", size(max)),
            "let the replicas catch up, or raise `max_size`",
        ));
        return Ok(findings);
    }
    findings.push(if bytes >= options.warn_size {
        let remedy = if unread_age.is_some() {
            "let the replicas catch up"
        } else {
            "shorten `retention`, end the transactions listed above, or raise `warn_size`"
        };
        Finding::problem("storage", format!("{what}; more than warn_size"), remedy)
    } else {
        Finding::ok("storage", what)
    });
    Ok(findings)
}
