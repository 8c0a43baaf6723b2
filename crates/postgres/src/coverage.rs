//! Brings tables under capture, and keeps them there: compares what is with what should be, and repairs the difference,
//! one table per transaction, never waiting long for a lock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Row};

use crate::PostgresError;
use crate::capture::{self, CAPTURED, Function, Source};
use crate::layout;
use crate::names::{Names, quote_identifier};
use crate::options::Options;
use crate::session::bounded;

/// `CREATE TRIGGER` that waits for one open writer blocks every later writer, so it gives up after this long.
const LOCK_TIMEOUT_MS: u32 = 300;
/// How often one table is tried in one round.
const TRIES: u32 = 3;
/// After a round in vain a table is left alone for this long, then twice as long, and so on up to [`LONGEST_PAUSE`]: each
/// try makes its writers wait.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What one round of comparing found and did.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// Tables under capture.
    pub(crate) covered: usize,
    /// Of these, tables that had to be changed.
    pub(crate) changed: usize,
    /// Tables that could not be brought under capture.
    pub(crate) failed: Vec<PostgresError>,
}

/// A table as the catalog has it, and what is installed on it.
struct Table {
    oid: u32,
    schema: String,
    name: String,
    root_schema: String,
    root_name: String,
    source: Source,
    /// SHA-256 of the source of the function that is there.
    function: Option<Vec<u8>>,
    function_settings: Vec<String>,
    /// Names of our triggers on it that are enabled and run that function.
    triggers: Vec<String>,
    /// Names of our triggers on it in any state.
    all_triggers: Vec<String>,
}

/// What is to be done to one table.
enum Change<'a> {
    /// What [`plan`] says for the table with this oid.
    Cover(&'a Options, u32),
    /// These statements.
    Release(Vec<String>),
}

/// The tables that could not be changed, by oid: how often in a row, and when the next try is due.
#[derive(Debug, Default)]
pub(crate) struct Pauses(HashMap<u32, (u32, Instant)>);

impl Pauses {
    fn is_over(&self, oid: u32) -> bool {
        self.0.get(&oid).is_none_or(|(_, due)| *due <= Instant::now())
    }

    fn failed(&mut self, oid: u32) {
        let failures = self.0.get(&oid).map_or(0, |(failures, _)| *failures);
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE);
        self.0.insert(oid, (failures + 1, Instant::now() + pause));
    }
}

/// One round: every table that `options` asks for gets its function and triggers, every other loses them. Tables that
/// failed lately are left alone for a while.
pub(crate) async fn reconcile(
    client: &Client,
    options: &Options,
    pauses: &mut Pauses,
) -> Result<Coverage, PostgresError> {
    let mut coverage = Coverage::default();
    let tables = tables(client, &options.names, None).await?;
    pauses.0.retain(|oid, _| tables.iter().any(|table| table.oid == *oid));
    for table in tables {
        let wanted = options.wants(&table).is_some();
        if plan(options, &table).is_empty() {
            pauses.0.remove(&table.oid);
            coverage.covered += usize::from(wanted);
            continue;
        }
        if !pauses.is_over(table.oid) {
            continue;
        }
        match apply(client, &options.names, &Change::Cover(options, table.oid)).await {
            Ok(()) => {
                coverage.changed += 1;
                coverage.covered += usize::from(wanted);
            }
            Err(error @ (PostgresError::ConnectionLost | PostgresError::StatementTimeout { .. })) => {
                return Err(error);
            }
            Err(source) => {
                pauses.failed(table.oid);
                let table = format!("{}.{}", table.schema, table.name);
                coverage.failed.push(PostgresError::Table { table, source: Box::new(source) });
            }
        }
    }
    drop_orphans(client, &options.names).await?;
    Ok(coverage)
}

impl Options {
    /// The location that events of the table carry, when its changes are wanted. A partition goes by its root.
    fn wants<'a>(&self, table: &'a Table) -> Option<(&'a str, &'a str)> {
        let root = (table.root_schema.as_str(), table.root_name.as_str());
        let own = (table.schema.as_str(), table.name.as_str());
        [root, own].into_iter().find(|(schema, name)| self.tables.matches(schema, name))
    }
}

/// The tables that triggers could be on, or the one with that oid.
async fn tables(client: &Client, names: &Names, oid: Option<u32>) -> Result<Vec<Table>, PostgresError> {
    // `char`, text and the like print the same in every session; what is not listed may not (`bytea_output`,
    // `TimeZone`, `extra_float_digits`, …), and then the function pins those settings, at some cost.
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text,
                COALESCE(rn.nspname, n.nspname)::text, COALESCE(r.relname, c.relname)::text,
                k.columns,
                EXISTS (SELECT FROM pg_catalog.pg_attribute a
                          JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                         WHERE a.attrelid = c.oid AND a.attname = ANY (k.columns::name[]) AND t.typtype <> 'e'
                           AND t.oid <> ALL ('{{int2,int4,int8,text,varchar,bpchar,name,uuid,bool,numeric,oid,\"char\"}}'::regtype[])),
                pg_catalog.sha256(pg_catalog.convert_to(p.prosrc, 'UTF8')),
                COALESCE(p.proconfig, '{{}}'),
                ARRAY(SELECT g.tgname::text FROM pg_catalog.pg_trigger g
                       WHERE g.tgrelid = c.oid AND g.tgfoid = p.oid AND g.tgenabled IN ('O', 'A')),
                ARRAY(SELECT g.tgname::text FROM pg_catalog.pg_trigger g
                       WHERE g.tgrelid = c.oid AND g.tgname = ANY ($2::text[]))
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_class r ON c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)
           LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
           CROSS JOIN LATERAL (SELECT {schema}.key_columns(c.oid) AS columns) k
           LEFT JOIN pg_catalog.pg_proc p
                  ON p.pronamespace = pg_catalog.to_regnamespace($1) AND p.proname = 'capture_' || c.oid
          WHERE c.oid = COALESCE($3, c.oid) AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
            AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
            AND n.nspname NOT LIKE 'dapper\\_%'
          ORDER BY c.oid",
        schema = quote_identifier(&names.schema)
    );
    let schema = quote_identifier(&names.schema);
    let triggers: Vec<String> = CAPTURED.iter().map(|&operation| names.trigger(operation)).collect();
    let rows =
        bounded("comparing tables and triggers", client.query(&sql, &[&schema, &triggers, &oid])).await?;
    Ok(rows.iter().map(table).collect())
}

fn table(row: &Row) -> Table {
    Table {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        root_schema: row.get(3),
        root_name: row.get(4),
        source: Source { key: row.get(5), setting_dependent: row.get(6) },
        function: row.get(7),
        function_settings: row.get(8),
        triggers: row.get(9),
        all_triggers: row.get(10),
    }
}

/// The statements that make a table right; none when it is. Replacing a function takes no lock on the table, creating a
/// trigger takes SHARE ROW EXCLUSIVE (writers wait for it), dropping one ACCESS EXCLUSIVE.
fn plan(options: &Options, table: &Table) -> Vec<String> {
    let names = &options.names;
    let relation = format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name));
    let wanted = options.wants(table);
    let mut statements = Vec::new();
    if let Some(location) = wanted {
        let function = Function::new(names, &table.source, location);
        if !function.is(table.function.as_deref(), &table.function_settings) {
            statements.push(function.sql(names, table.oid));
        }
    }
    for operation in CAPTURED {
        let trigger = names.trigger(operation);
        let quoted = quote_identifier(&trigger);
        let is_wanted = wanted.is_some() && options.operations.contains(&operation);
        let is_there = table.all_triggers.contains(&trigger);
        let is_right = table.triggers.contains(&trigger);
        if is_there && (!is_wanted || !is_right) {
            statements.push(format!("DROP TRIGGER IF EXISTS {quoted} ON {relation}"));
        }
        if is_wanted && !is_right {
            statements.push(capture::trigger_sql(names, table.oid, operation, &quoted, &relation));
        }
    }
    statements
}

/// Makes the change in one transaction, giving up on a lock soon and trying again a few times. The plan is made under the
/// lock that keeps installations apart, so that two never do the same thing.
async fn apply(client: &Client, names: &Names, change: &Change<'_>) -> Result<(), PostgresError> {
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; SELECT pg_catalog.pg_advisory_xact_lock({})",
        layout::lock_key(&names.schema)
    );
    let mut tried = 0;
    loop {
        let Err(error) = try_once(client, &begin, change).await else { return Ok(()) };
        if !matches!(error, PostgresError::ConnectionLost) {
            bounded("rolling back", client.batch_execute("ROLLBACK")).await?;
        }
        tried += 1;
        if tried == TRIES || !is_lock_timeout(&error) {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..250))).await;
    }
}

async fn try_once(client: &Client, begin: &str, change: &Change<'_>) -> Result<(), PostgresError> {
    bounded("installing on a table", client.batch_execute(begin)).await?;
    let statements = match change {
        Change::Cover(options, oid) => {
            let now = tables(client, &options.names, Some(*oid)).await?;
            now.iter().flat_map(|table| plan(options, table)).collect()
        }
        Change::Release(statements) => statements.clone(),
    };
    let commit = format!("{}; COMMIT", statements.join("; "));
    bounded("installing on a table", client.batch_execute(&commit)).await
}

fn is_lock_timeout(error: &PostgresError) -> bool {
    use tokio_postgres::error::SqlState;
    let PostgresError::Statement { source, .. } = error else { return false };
    matches!(source.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED))
}

/// Drops the functions of tables that are gone or no longer wanted; nothing calls them.
async fn drop_orphans(client: &Client, names: &Names) -> Result<(), PostgresError> {
    let schema = quote_identifier(&names.schema);
    let rows = bounded(
        "looking for functions without a table",
        client.query(
            "SELECT p.proname::text FROM pg_catalog.pg_proc p
              WHERE p.pronamespace = pg_catalog.to_regnamespace($1) AND p.proname ~ '^capture_[0-9]+$'
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgfoid = p.oid)",
            &[&schema],
        ),
    )
    .await?;
    for row in rows {
        let function = quote_identifier(row.get(0));
        bounded(
            "dropping a function",
            client.batch_execute(&format!("DROP FUNCTION IF EXISTS {schema}.{function}()")),
        )
        .await?;
    }
    Ok(())
}

/// The tables that carry triggers of this input, in any state.
pub(crate) async fn captured_tables(client: &Client, names: &Names) -> Result<Vec<String>, PostgresError> {
    let rows = bounded(
        "looking for triggers",
        client.query(
            "SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname)
               FROM pg_catalog.pg_trigger g
               JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
              WHERE NOT g.tgisinternal AND p.pronamespace = pg_catalog.to_regnamespace($1)
              ORDER BY 1",
            &[&quote_identifier(&names.schema)],
        ),
    )
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Drops the triggers of one table, in a transaction of its own.
pub(crate) async fn release_table(
    client: &Client,
    names: &Names,
    relation: &str,
) -> Result<(), PostgresError> {
    let statements: Vec<String> = CAPTURED
        .iter()
        .map(|&operation| {
            format!("DROP TRIGGER IF EXISTS {} ON {relation}", quote_identifier(&names.trigger(operation)))
        })
        .collect();
    apply(client, names, &Change::Release(statements)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_fails_is_left_alone_for_longer_and_longer() {
        let mut pauses = Pauses::default();
        assert!(pauses.is_over(1));
        let mut last = Duration::ZERO;
        for round in 0..10 {
            pauses.failed(1);
            assert!(!pauses.is_over(1) && pauses.is_over(2));
            let pause = pauses.0[&1].1.duration_since(Instant::now());
            assert!(pause > last || round > 5, "{pause:?}");
            assert!(pause <= LONGEST_PAUSE);
            last = pause;
        }
    }
}
