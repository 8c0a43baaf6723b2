//! Brings tables under capture, and keeps them there: compares what is with what should be, and repairs the difference,
//! one table per transaction, never waiting long for a lock.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Row};

use crate::PostgresError;
use crate::capture::{self, CAPTURED, Function, Source};
use crate::layout;
use crate::names::{Names, quote_identifier};
use crate::new_tables;
use crate::options::Options;
use crate::session::bounded;

/// How often one table is tried in one round of a replica; see [`TRIES_OF_A_COMMAND`].
const TRIES_OF_A_ROUND: u32 = 3;
/// How often one table is tried by a command, which has no next round. Each try makes writers wait, so not for ever.
const TRIES_OF_A_COMMAND: u32 = 20;
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
    /// Tables that were changed, and what was wrong with each.
    pub(crate) changed: Vec<(String, Vec<Drift>)>,
    /// Tables that are not as they should be and could not be changed.
    pub(crate) failed: Vec<PostgresError>,
}

/// A difference between what is on a table and what should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    /// Nothing of ours is on it.
    New,
    /// A trigger is gone.
    Missing(String),
    /// A trigger is there and does not fire.
    Disabled(String),
    /// A trigger of our name runs something else.
    Foreign(String),
    /// A trigger is there that the configuration no longer asks for.
    Unwanted(String),
    /// The trigger function was made for another key, name or configuration of the table, or by another version.
    Outdated,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("it has no triggers"),
            Self::Missing(trigger) => write!(f, "trigger {trigger} is missing"),
            Self::Disabled(trigger) => write!(f, "trigger {trigger} is disabled"),
            Self::Foreign(trigger) => write!(f, "trigger {trigger} runs a function that is not ours"),
            Self::Unwanted(trigger) => write!(f, "trigger {trigger} is no longer asked for"),
            Self::Outdated => f.write_str("its trigger function is outdated"),
        }
    }
}

/// Several differences, for people.
pub(crate) fn describe(drifts: &[Drift]) -> String {
    drifts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How a round goes about what it finds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode<'a> {
    /// As a replica does: a table in use is left for one of the next rounds.
    Repair,
    /// As a command does: with more patience, since there is no next round.
    Install,
    /// Changes nothing, and says why.
    Report(&'a str),
}

/// A table as the catalog has it, and what is installed on it.
pub(crate) struct Table {
    oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    root_schema: String,
    root_name: String,
    source: Source,
    /// A foreign table among its partitions or children, at any depth. PostgreSQL can't tell what changes there, and
    /// lets every statement fail that would have to, so such a table gets no triggers.
    pub(crate) foreign_part: Option<String>,
    /// SHA-256 of the source of the function that is there.
    function: Option<Vec<u8>>,
    function_settings: Vec<String>,
    /// Names of our triggers on it that are enabled and run that function.
    triggers: Vec<String>,
    /// Names of triggers on it that run that function, in any state.
    own_triggers: Vec<String>,
    /// Names of triggers on it that have our names, whatever they run.
    all_triggers: Vec<String>,
}

/// What is to be done in one transaction.
enum Change<'a> {
    /// What [`plan`] says for the table with this oid.
    Cover(&'a Options, u32),
    /// What [`new_tables::plan`] says.
    NewTables(&'a Options),
    /// This statement.
    Run(String),
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
    mode: Mode<'_>,
    pauses: &mut Pauses,
) -> Result<Coverage, PostgresError> {
    let mut coverage = Coverage::default();
    if !matches!(mode, Mode::Report(_)) {
        cover_new_tables(client, options, &mut coverage).await?;
    }
    let tables = survey(client, options).await?;
    pauses.0.retain(|oid, _| tables.iter().any(|(table, _)| table.oid == *oid));
    for (table, drifts) in tables {
        let wanted = options.wants(&table).is_some();
        if drifts.is_empty() {
            match options.refuses(&table) {
                Some(refused) if pauses.is_over(table.oid) => {
                    pauses.failed(table.oid);
                    let table = table.to_string();
                    coverage.failed.push(PostgresError::Table { table, source: Box::new(refused) });
                }
                Some(_) => {}
                None => _ = pauses.0.remove(&table.oid),
            }
            coverage.covered += usize::from(wanted);
            continue;
        }
        if !pauses.is_over(table.oid) {
            continue;
        }
        let change = Change::Cover(options, table.oid);
        let outcome = match mode {
            Mode::Repair => apply(client, &options.names, &change, TRIES_OF_A_ROUND).await,
            Mode::Install => apply(client, &options.names, &change, TRIES_OF_A_COMMAND).await,
            Mode::Report(reason) => {
                Err(PostgresError::Drift { found: describe(&drifts), reason: reason.to_owned() })
            }
        };
        match outcome {
            Ok(()) => {
                coverage.changed.push((table.to_string(), drifts));
                coverage.covered += usize::from(wanted);
            }
            Err(error @ (PostgresError::ConnectionLost | PostgresError::StatementTimeout { .. })) => {
                return Err(error);
            }
            Err(source) => {
                pauses.failed(table.oid);
                let table = table.to_string();
                coverage.failed.push(PostgresError::Table { table, source: Box::new(source) });
            }
        }
    }
    if !matches!(mode, Mode::Report(_)) {
        drop_orphans(client, &options.names).await?;
    }
    Ok(coverage)
}

async fn cover_new_tables(
    client: &Client,
    options: &Options,
    coverage: &mut Coverage,
) -> Result<(), PostgresError> {
    if new_tables::plan(client, options).await?.is_empty() {
        return Ok(());
    }
    match apply(client, &options.names, &Change::NewTables(options), TRIES_OF_A_ROUND).await {
        Err(error @ (PostgresError::ConnectionLost | PostgresError::StatementTimeout { .. })) => Err(error),
        Err(error) => {
            coverage.failed.push(error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Every table, with what is not as it should be. Changes nothing.
pub(crate) async fn survey(
    client: &Client,
    options: &Options,
) -> Result<Vec<(Table, Vec<Drift>)>, PostgresError> {
    let tables = tables(client, options, None).await?;
    let compare = |table| {
        let drifts = drifts(options, &table);
        (table, drifts)
    };
    Ok(tables.into_iter().map(compare).collect())
}

/// The statements that a round would run, table by table. Changes nothing.
pub(crate) async fn statements(
    client: &Client,
    options: &Options,
) -> Result<Vec<(String, Vec<String>)>, PostgresError> {
    let tables = survey(client, options).await?;
    let differing = tables.iter().filter(|(_, drifts)| !drifts.is_empty());
    Ok(differing.map(|(table, _)| (table.to_string(), plan(options, table))).collect())
}

impl Table {
    /// The columns that name a row, if any do.
    pub(crate) fn key(&self) -> &[String] {
        &self.source.key
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl Options {
    /// The location that events of the table carry, when its changes are wanted and can be captured.
    pub(crate) fn wants<'a>(&self, table: &'a Table) -> Option<(&'a str, &'a str)> {
        self.asks_for(table).filter(|_| table.foreign_part.is_none())
    }

    /// Why a table that is asked for is not covered.
    pub(crate) fn refuses(&self, table: &Table) -> Option<PostgresError> {
        let part = table.foreign_part.clone().filter(|_| self.asks_for(table).is_some())?;
        Some(PostgresError::ForeignPart { part })
    }

    /// A partition goes by its root.
    fn asks_for<'a>(&self, table: &'a Table) -> Option<(&'a str, &'a str)> {
        let root = (table.root_schema.as_str(), table.root_name.as_str());
        let own = (table.schema.as_str(), table.name.as_str());
        [root, own].into_iter().find(|(schema, name)| self.tables.matches(schema, name))
    }
}

/// The tables that triggers could be on, or the one with that oid.
async fn tables(client: &Client, options: &Options, oid: Option<u32>) -> Result<Vec<Table>, PostgresError> {
    let names = &options.names;
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
                       WHERE g.tgrelid = c.oid AND g.tgfoid = p.oid),
                ARRAY(SELECT g.tgname::text FROM pg_catalog.pg_trigger g
                       WHERE g.tgrelid = c.oid AND g.tgname = ANY ($2::text[])),
                CASE WHEN $4 THEN ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
                     ELSE '{{}}' END,
                CASE WHEN $4 THEN ARRAY(WITH RECURSIVE up(oid) AS (
                           SELECT c.oid UNION
                           SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
                       SELECT pg_catalog.unnest(ARRAY[an.nspname::text, a.relname::text]) FROM up
                         JOIN pg_catalog.pg_class a ON a.oid = up.oid
                         JOIN pg_catalog.pg_namespace an ON an.oid = a.relnamespace ORDER BY a.oid)
                     ELSE '{{}}' END,
                CASE WHEN c.relhassubclass THEN (
                    WITH RECURSIVE parts (oid) AS (
                        SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid
                        UNION
                        SELECT i.inhrelid FROM parts JOIN pg_catalog.pg_inherits i ON i.inhparent = parts.oid)
                    SELECT pg_catalog.format('%I.%I', fn.nspname, f.relname)
                      FROM parts JOIN pg_catalog.pg_class f ON f.oid = parts.oid
                      JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
                     WHERE f.relkind = 'f' LIMIT 1) END
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
    let rows = bounded(
        "comparing tables and triggers",
        client.query(&sql, &[&schema, &triggers, &oid, &options.images.any()]),
    )
    .await?;
    Ok(rows.iter().map(table).collect())
}

fn pairs(flat: &[String]) -> Vec<(String, String)> {
    flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn table(row: &Row) -> Table {
    Table {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        root_schema: row.get(3),
        root_name: row.get(4),
        source: Source {
            key: row.get(5),
            setting_dependent: row.get(6),
            columns: row.get(12),
            ancestors: pairs(&row.get::<_, Vec<String>>(13)),
        },
        function: row.get(7),
        function_settings: row.get(8),
        triggers: row.get(9),
        own_triggers: row.get(10),
        all_triggers: row.get(11),
        foreign_part: row.get(14),
    }
}

/// What is wrong with a table; nothing when it is as it should be.
fn drifts(options: &Options, table: &Table) -> Vec<Drift> {
    let wanted = options.wants(table);
    if wanted.is_some() && table.function.is_none() && table.all_triggers.is_empty() {
        return vec![Drift::New];
    }
    let mut drifts = Vec::new();
    for operation in CAPTURED {
        let trigger = options.names.trigger(operation);
        let is_wanted = wanted.is_some() && options.operations.contains(&operation);
        let found = (
            table.all_triggers.contains(&trigger),
            table.own_triggers.contains(&trigger),
            table.triggers.contains(&trigger),
        );
        match found {
            (false, ..) if is_wanted => drifts.push(Drift::Missing(trigger)),
            (true, false, _) => drifts.push(Drift::Foreign(trigger)),
            (true, true, _) if !is_wanted => drifts.push(Drift::Unwanted(trigger)),
            (true, true, false) => drifts.push(Drift::Disabled(trigger)),
            _ => {}
        }
    }
    // One that was given another name would capture every change a second time.
    let ours = CAPTURED.map(|operation| options.names.trigger(operation));
    drifts.extend(table.own_triggers.iter().filter(|own| !ours.contains(own)).cloned().map(Drift::Unwanted));
    if let Some(location) = wanted
        && !is_current(table, &Function::new(options, &table.source, location))
    {
        drifts.push(Drift::Outdated);
    }
    drifts
}

fn is_current(table: &Table, function: &Function) -> bool {
    function.is(table.function.as_deref(), &table.function_settings)
}

/// The statements that make a table right. Replacing a function takes no lock on the table, creating a trigger takes
/// SHARE ROW EXCLUSIVE (writers wait for it), dropping one ACCESS EXCLUSIVE.
fn plan(options: &Options, table: &Table) -> Vec<String> {
    let names = &options.names;
    let relation = format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name));
    let wanted = options.wants(table);
    let drifts = drifts(options, table);
    let mut statements = Vec::new();
    for drift in &drifts {
        if let Drift::Foreign(trigger) = drift {
            statements.push(format!("DROP TRIGGER {} ON {relation}", quote_identifier(trigger)));
        }
    }
    // A trigger that must go takes its function and all the others along: that needs no right on the table, where
    // DROP TRIGGER needs its owner's.
    let anew = drifts.iter().any(|drift| matches!(drift, Drift::Disabled(_) | Drift::Unwanted(_)));
    if anew {
        statements.push(drop_function_sql(names, table.oid));
    }
    let Some(location) = wanted else { return statements };
    let function = Function::new(options, &table.source, location);
    if anew || !is_current(table, &function) {
        statements.push(function.sql(names, table.oid));
    }
    for operation in CAPTURED.into_iter().filter(|operation| options.operations.contains(operation)) {
        let trigger = names.trigger(operation);
        if anew || !table.own_triggers.contains(&trigger) {
            let quoted = quote_identifier(&trigger);
            statements.push(capture::trigger_sql(names, table.oid, operation, &quoted, &relation));
        }
    }
    statements
}

/// Drops the triggers of a table with their function; needs no right on the table. Takes ACCESS EXCLUSIVE on it.
fn drop_function_sql(names: &Names, oid: u32) -> String {
    format!("DROP FUNCTION IF EXISTS {}.capture_{oid}() CASCADE", quote_identifier(&names.schema))
}

/// Makes the change in one transaction, giving up on a lock soon and trying again a few times. The plan is made under the
/// lock that keeps installations apart, so that two never do the same thing; who waits for that one makes nobody wait.
async fn apply(client: &Client, names: &Names, change: &Change<'_>, tries: u32) -> Result<(), PostgresError> {
    let begin = layout::begin_sql(names);
    let mut tried = 0;
    loop {
        let Err(error) = try_once(client, &begin, change).await else { return Ok(()) };
        if !matches!(error, PostgresError::ConnectionLost) {
            bounded("rolling back", client.batch_execute("ROLLBACK")).await?;
        }
        tried += 1;
        if tried == tries || !is_lock_timeout(&error) {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..250))).await;
    }
}

async fn try_once(client: &Client, begin: &str, change: &Change<'_>) -> Result<(), PostgresError> {
    bounded("installing on a table", client.batch_execute(begin)).await?;
    let statements = match change {
        Change::Cover(options, oid) => {
            let now = tables(client, options, Some(*oid)).await?;
            now.iter().flat_map(|table| plan(options, table)).collect()
        }
        Change::NewTables(options) => new_tables::plan(client, options).await?,
        Change::Run(statement) => vec![statement.clone()],
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

/// The tables that carry triggers of this input, in any state, by oid.
pub(crate) async fn captured_tables(
    client: &Client,
    names: &Names,
) -> Result<Vec<(u32, String)>, PostgresError> {
    let rows = bounded(
        "looking for triggers",
        client.query(
            "SELECT DISTINCT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)
               FROM pg_catalog.pg_trigger g
               JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
              WHERE NOT g.tgisinternal AND p.pronamespace = pg_catalog.to_regnamespace($1)
              ORDER BY 2",
            &[&quote_identifier(&names.schema)],
        ),
    )
    .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Drops the triggers of one table, in a transaction of its own.
pub(crate) async fn release_table(client: &Client, names: &Names, oid: u32) -> Result<(), PostgresError> {
    apply(client, names, &Change::Run(drop_function_sql(names, oid)), TRIES_OF_A_COMMAND).await
}

/// Lets new tables be made without us.
pub(crate) async fn release_new_tables(client: &Client, names: &Names) -> Result<(), PostgresError> {
    apply(client, names, &Change::Run(new_tables::drop_sql(names)), TRIES_OF_A_COMMAND).await
}

/// Drops the schema and all that is left in it.
pub(crate) async fn drop_schema(client: &Client, names: &Names) -> Result<(), PostgresError> {
    let drop = format!("DROP SCHEMA {} CASCADE", quote_identifier(&names.schema));
    apply(client, names, &Change::Run(drop), TRIES_OF_A_COMMAND).await
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
