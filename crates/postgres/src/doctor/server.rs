//! The server, how it is set, and what the role may do there.

use tokio_postgres::Client;

use super::Finding;
use crate::PostgresError;
use crate::layout;
use crate::options::{Install, Options, WakeUp};
use crate::session::{Session, bounded};
use dapper_connect::ConnectionString;

pub(super) async fn server(
    client: &Client,
    connection: &ConnectionString,
) -> Result<Vec<Finding>, PostgresError> {
    let sql = "SELECT pg_catalog.current_setting('server_version')";
    let row = bounded("asking for the version", client.query_one(sql, &[])).await?;
    let version: String = row.get(0);
    // Older servers and standbys are refused before anything can be asked.
    let mut findings = vec![
        Finding::ok("version", format!("PostgreSQL {version} at {connection}")),
        Finding::ok("standby", "it is a primary"),
    ];
    if refuses_to_attach(client).await? {
        findings.push(Finding::problem(
            "version",
            format!(
                "PostgreSQL {version} refuses to attach a covered table as a partition, or to let it inherit: it takes \
                 every trigger with transition tables for a row trigger, as newer minor releases don't"
            ),
            "update to the newest minor release; until then, drop our triggers on the table before it is attached",
        ));
    }
    Ok(findings)
}

/// Tries what some minor releases refuse: see [`refuses_to_attach`]. All of it is temporary, and undone by its last line.
const ATTACH: &str = "DO $try$ BEGIN
    CREATE TEMP TABLE dapper_whole (id int) PARTITION BY RANGE (id);
    CREATE TEMP TABLE dapper_part (id int);
    CREATE FUNCTION pg_temp.dapper_nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER dapper_part AFTER INSERT ON pg_temp.dapper_part REFERENCING NEW TABLE AS n
        FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.dapper_nothing();
    BEGIN
        ALTER TABLE pg_temp.dapper_whole ATTACH PARTITION pg_temp.dapper_part FOR VALUES FROM (0) TO (1);
    EXCEPTION WHEN feature_not_supported THEN
        RAISE EXCEPTION USING ERRCODE = 'DP002', MESSAGE = 'refused';
    END;
    RAISE EXCEPTION USING ERRCODE = 'DP001', MESSAGE = 'undone';
END $try$";

/// Whether the server lets `ALTER TABLE … ATTACH PARTITION` and `INHERIT` fail on a table with triggers like ours. Tried,
/// since it differs between minor releases. A role that may not even try is not told.
pub(crate) async fn refuses_to_attach(client: &Client) -> Result<bool, PostgresError> {
    match bounded("trying to attach a partition", client.batch_execute(ATTACH)).await {
        Err(PostgresError::Statement { source, .. }) => {
            Ok(source.code().is_some_and(|code| code.code() == "DP002"))
        }
        other => other.map(|()| false),
    }
}

/// The settings that matter to us, for this role in this database.
pub(super) async fn settings(client: &Client, options: &Options) -> Result<Vec<Finding>, PostgresError> {
    let row = bounded(
        "asking for settings",
        client.query_one(
            "SELECT pg_catalog.current_setting('fsync')::bool,
                    pg_catalog.current_setting('default_transaction_read_only')::bool,
                    pg_catalog.current_setting('max_prepared_transactions')::int4,
                    ARRAY(SELECT COALESCE(r.rolname::text, 'every role')
                            FROM pg_catalog.pg_db_role_setting s
                            LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
                           WHERE 'session_replication_role=replica' = ANY (s.setconfig)
                             AND s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d
                                                        WHERE d.datname = pg_catalog.current_database())))",
            &[],
        ),
    )
    .await?;
    let (fsync, read_only, prepared): (bool, bool, i32) = (row.get(0), row.get(1), row.get(2));
    let replica_roles: Vec<String> = row.get(3);
    let mut findings = Vec::new();
    if !fsync {
        findings.push(Finding::problem(
            "settings",
            "fsync is off: a crash of the server may undo what was already delivered",
            "set fsync = on",
        ));
    }
    if read_only {
        findings.push(Finding::problem(
            "settings",
            "default_transaction_read_only is on: the input can't write its cursor",
            "set it off for this role, or use another role",
        ));
    }
    if prepared > 0 && options.wake_up == WakeUp::Notify {
        findings.push(Finding::problem(
            "settings",
            format!(
                "max_prepared_transactions is {prepared} and wake_up is \"notify\": PREPARE TRANSACTION fails after a \
                 statement that notifies"
            ),
            "use wake_up = \"auto\" or \"poll\"",
        ));
    } else if prepared > 0 && options.wake_up == WakeUp::Auto {
        let what = format!("max_prepared_transactions is {prepared}, so the reader polls");
        findings.push(Finding::note("settings", what));
    }
    if !replica_roles.is_empty() {
        findings.push(Finding::problem(
            "settings",
            format!(
                "session_replication_role is \"replica\" for {}: no trigger fires for what they write",
                replica_roles.join(", ")
            ),
            "reset it for roles whose changes are wanted",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "nothing is set that would be in the way"));
    }
    Ok(findings)
}

/// What the role may not do that running needs; see `docs/permissions.md`.
const MISSING_RIGHTS: &str = "
SELECT pg_catalog.format('%s on %s.%s', r.privilege, $1::text, r.name)
  FROM (VALUES ('change_sets', 'SELECT'), ('change_sets_0', 'TRUNCATE'), ('change_sets_1', 'TRUNCATE'),
               ('change_sets_2', 'TRUNCATE'), ('change_sets_3', 'TRUNCATE'), ('cursors', 'SELECT'),
               ('cursors', 'INSERT'), ('cursors', 'UPDATE'), ('cursors', 'TRUNCATE'), ('change_sets_seq', 'SELECT'),
               ('wake_up', 'SELECT'), ('wake_up', 'UPDATE'), ('missed', 'SELECT')) r (name, privilege)
  JOIN pg_catalog.pg_namespace n ON n.nspname = $1
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = r.name
 WHERE NOT pg_catalog.has_table_privilege(c.oid, r.privilege)
UNION ALL
SELECT pg_catalog.format('USAGE on schema %s', n.nspname)
  FROM pg_catalog.pg_namespace n WHERE n.nspname = $1 AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')";

pub(super) async fn rights(session: &Session, options: &Options) -> Result<Vec<Finding>, PostgresError> {
    let schema = &options.names.schema;
    let role = &session.server.role;
    let missing =
        bounded("looking at the role's rights", session.client().query(MISSING_RIGHTS, &[schema])).await?;
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(|row| row.get(0)).collect();
        let what = format!("role {role:?} lacks {}", missing.join(", "));
        return Ok(vec![Finding::problem(
            "rights",
            what,
            "grant them; docs/permissions.md has the statements",
        )]);
    }
    Ok(vec![match (layout::lacks(session, schema).await?, options.install) {
        (None, Install::Auto) => Finding::ok("rights", format!("role {role:?} may install and run")),
        (None, Install::Never) => {
            Finding::ok("rights", format!("role {role:?} may run, and leaves installing to `dapper install`"))
        }
        (Some(lacks), _) => {
            let what = format!("role {role:?} may run; it does not install, since it {lacks}");
            Finding::note("rights", what)
        }
    }])
}
