//! What a person does to an input from the outside: remove it, or point its cursor at another cluster.

use dapper_core::InputConfig;

use crate::PostgresError;
use crate::coverage;
use crate::input::application_name;
use crate::layout;
use crate::names::quote_identifier;
use crate::options::Options;
use crate::session::{Session, bounded};

/// What [`uninstall`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UninstallReport {
    /// The schema that is gone, if it was there.
    pub schema: Option<String>,
    /// The tables that lost our triggers.
    pub tables: Vec<String>,
}

/// Removes everything that the input called `config.name` installed: the triggers, one table at a time and without
/// waiting long for any lock, then the schema with all unread changes.
///
/// # Errors
/// When replicas of the input are connected, since they would install it again; and when a table's lock could not be had
/// after several tries: then the rest stays, and calling again goes on where it stopped.
pub async fn uninstall(config: &InputConfig) -> Result<UninstallReport, PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, "dapper uninstall").await?;
    let client = session.client();
    refuse_while_running(&session, &options).await?;
    let mut report = UninstallReport::default();
    for table in coverage::captured_tables(client, &options.names).await? {
        coverage::release_table(client, &options.names, &table)
            .await
            .map_err(|source| PostgresError::Table { table: table.clone(), source: Box::new(source) })?;
        report.tables.push(table);
    }
    let schema = quote_identifier(&options.names.schema);
    let there = bounded(
        "looking for the schema",
        client.query_one("SELECT pg_catalog.to_regnamespace($1) IS NOT NULL", &[&schema]),
    )
    .await?;
    if there.get(0) {
        bounded("dropping the schema", client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")))
            .await?;
        report.schema = Some(options.names.schema.clone());
    }
    Ok(report)
}

/// Accepts the cluster that the connection string leads to as the cursor's own, and lets everything still in
/// `change_sets` be delivered again, marked as a possible repeat. Returns how many change sets these are.
///
/// # Errors
/// When replicas of the input are connected, or nothing is installed.
pub async fn rebase(config: &InputConfig) -> Result<u64, PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, "dapper rebase").await?;
    let client = session.client();
    refuse_while_running(&session, &options).await?;
    layout::ensure(&session, &options.names).await?;
    let schema = quote_identifier(&options.names.schema);
    let server = &session.server;
    // The transaction ids in the rows are the other cluster's: here they may lie in the future, and then no snapshot
    // would see them for long. Locks the slots against writers for the time of the rewrite.
    let sql = format!(
        "BEGIN;
         LOCK TABLE {schema}.change_sets_0, {schema}.change_sets_1 IN SHARE ROW EXCLUSIVE MODE;
         UPDATE {schema}.change_sets SET xid = pg_catalog.pg_current_xact_id();
         UPDATE {schema}.cursors SET prev = '1:1:', target = NULL, done = 0,
                claimed = pg_catalog.concat(n.xid, ':', n.xid, ':')::pg_catalog.pg_snapshot,
                claimed_seq = (SELECT last_value FROM {schema}.change_sets_seq), attempt = 1,
                version = version + 1, system_identifier = {}, timeline = {}
           FROM (SELECT pg_catalog.pg_current_xact_id()::text::int8 + 1 AS xid) n
          WHERE partition = 0;
         COMMIT",
        server.system_identifier, server.timeline
    );
    if let Err(error) = bounded("rebasing", client.batch_execute(&sql)).await {
        let _ = client.batch_execute("ROLLBACK").await;
        return Err(error);
    }
    let count = bounded(
        "counting",
        client.query_one(&format!("SELECT pg_catalog.count(*) FROM {schema}.change_sets"), &[]),
    )
    .await?;
    Ok(count.get::<_, i64>(0).unsigned_abs())
}

async fn refuse_while_running(session: &Session, options: &Options) -> Result<(), PostgresError> {
    let row = bounded(
        "looking for replicas",
        session.client().query_one(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
              WHERE application_name = $1 AND datname = pg_catalog.current_database()",
            &[&application_name(options)],
        ),
    )
    .await?;
    let count: i64 = row.get(0);
    if count > 0 {
        return Err(PostgresError::Running { connections: count });
    }
    Ok(())
}
