//! What a person does to install an input ahead of its replicas, or to remove it.

use std::fmt;

use dapper_core::InputConfig;

use crate::PostgresError;
use crate::audit::record;
use crate::coverage::{self, Mode, Pauses};
use crate::layout;
use crate::maintenance::refuse_while_running;
use crate::names::quote_identifier;
use crate::new_tables;
use crate::options::Options;
use crate::session::{Session, bounded};

/// What [`install`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct InstallReport {
    /// The input's schema.
    pub schema: String,
    /// Whether the schema was made or brought up to date.
    pub schema_changed: bool,
    /// The tables whose triggers were made or repaired.
    pub changed: Vec<String>,
    /// How many tables are under capture now.
    pub covered: usize,
    /// The tables that are not, although the configuration asks for them.
    pub failed: Vec<PostgresError>,
}

/// What [`install`] would do now. Its `Display` is a script for `psql`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstallPlan {
    /// In order; nothing when everything is in place.
    pub steps: Vec<InstallStep>,
}

/// Statements that belong into one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallStep {
    /// What they are for, such as `table public.orders`.
    pub what: String,
    /// How the transaction begins: it waits for other installations, and then not long for any lock.
    pub begin: String,
    /// The statements, `BEGIN` and `COMMIT` aside.
    pub statements: Vec<String>,
}

impl fmt::Display for InstallPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for InstallStep { what, begin, statements } in &self.steps {
            writeln!(f, "-- {what}\n{begin};")?;
            for statement in statements {
                writeln!(f, "{};", statement.trim_end().trim_end_matches(';'))?;
            }
            writeln!(f, "COMMIT;\n")?;
        }
        Ok(())
    }
}

/// What [`uninstall`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UninstallReport {
    /// The schema that is gone, if it was there.
    pub schema: Option<String>,
    /// The tables that lost our triggers.
    pub tables: Vec<String>,
}

/// Installs everything that the input needs, whatever its configuration says of `install`: the schema first, then one
/// table per transaction, without waiting long for any lock. Does nothing where nothing differs, and may run at the same
/// time as replicas and other installations.
///
/// # Errors
/// Those of connecting; [`PostgresError::MissingRights`]; [`PostgresError::NewerLayout`]. A table that could not be
/// changed is no error of the whole: it is in the report.
pub async fn install(config: &InputConfig) -> Result<InstallReport, PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, "dapper install").await?;
    let schema_changed = layout::install(&session, &options.names).await?;
    layout::refuse_without_rights(&session, &options.names).await?;
    let round =
        coverage::reconcile(session.client(), &options, Mode::Install, &mut Pauses::default()).await?;
    let changed: Vec<String> = round.changed.into_iter().map(|(table, _)| table).collect();
    if !changed.is_empty() {
        let schema = quote_identifier(&options.names.schema);
        record(session.client(), &schema, "install", &format!("triggers on {}", changed.join(", "))).await?;
    }
    Ok(InstallReport {
        schema: options.names.schema,
        schema_changed,
        changed,
        covered: round.covered,
        failed: round.failed,
    })
}

/// What [`install`] would do now. Finds out by making the schema in a transaction that it rolls back, so it needs the
/// same rights; takes no lock on any table.
///
/// # Errors
/// As [`install`].
pub async fn plan_install(config: &InputConfig) -> Result<InstallPlan, PostgresError> {
    let options = Options::parse(config)?;
    let names = &options.names;
    let session = Session::open(&options.connection, "dapper install").await?;
    let client = session.client();
    let is_current = layout::is_current(client, names).await?;
    layout::refuse_without_rights(&session, names).await?;
    let begin = layout::begin_sql(names);
    let step = |what: String, statements| InstallStep { what, begin: begin.clone(), statements };
    let mut plan = InstallPlan::default();
    bounded("trying the installation", client.batch_execute(&begin)).await?;
    if !is_current {
        let objects = layout::sql(names, &session.server);
        bounded("trying the installation", client.batch_execute(&objects)).await?;
        plan.steps.push(step(format!("schema {}", names.schema), vec![objects]));
    }
    let event_trigger = new_tables::plan(client, &options).await?;
    let tables = coverage::statements(client, &options).await?;
    bounded("rolling back", client.batch_execute("ROLLBACK")).await?;
    if !event_trigger.is_empty() {
        plan.steps.push(step("event trigger for new tables".to_owned(), event_trigger));
    }
    plan.steps
        .extend(tables.into_iter().map(|(table, statements)| step(format!("table {table}"), statements)));
    Ok(plan)
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
    let schema = quote_identifier(&options.names.schema);
    let there = bounded(
        "looking for the schema",
        client.query_one("SELECT pg_catalog.to_regnamespace($1) IS NOT NULL", &[&schema]),
    )
    .await?;
    if !there.get::<_, bool>(0) {
        return Ok(report);
    }
    coverage::release_new_tables(client, &options.names).await?;
    for (oid, table) in coverage::captured_tables(client, &options.names).await? {
        coverage::release_table(client, &options.names, oid)
            .await
            .map_err(|source| PostgresError::Table { table: table.clone(), source: Box::new(source) })?;
        report.tables.push(table);
    }
    coverage::drop_schema(client, &options.names).await?;
    report.schema = Some(options.names.schema);
    Ok(report)
}
