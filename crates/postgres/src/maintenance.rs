//! What a person does to an input from the outside: see whether it would work, or point its cursor at another cluster.

use std::fmt;
use std::time::Duration;

use dapper_core::InputConfig;
use dapper_lock::{Resource, StoreId};

use crate::PostgresError;
use crate::audit::record;
use crate::input::{application_name, resource};
use crate::layout;
use crate::names::quote_identifier;
use crate::options::Options;
use crate::session::{Session, bounded};
use dapper_connect::ConnectionString;

/// How long connections of replicas that have just ended may still be seen by the server.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// The pause between two looks at them.
const GOODBYE_POLL: Duration = Duration::from_millis(50);

/// A server that was asked and can be used. Its `Display` is for people and shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Hosts, port, database and user.
    pub address: String,
    /// The version, as the server writes it.
    pub version: String,
}

impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {} at {}", self.version, self.address)
    }
}

/// Checks everything about an input's configuration that can be checked without reaching out.
///
/// # Errors
/// [`PostgresError::Option`] and [`PostgresError::ConnectionString`]: what is wrong, and with which key.
pub fn validate(config: &InputConfig) -> Result<(), PostgresError> {
    Options::parse(config).map(drop)
}

/// Checks the configuration, connects as a replica of the input would, and makes sure that the server can be used and
/// that the role may use the input's schema, or create it where it is not there. Changes nothing.
///
/// # Errors
/// Those of [`validate`]; a server that can't be reached, is a standby or too old; [`PostgresError::MissingRights`].
pub async fn probe(config: &InputConfig) -> Result<ServerInfo, PostgresError> {
    let options = Options::parse(config)?;
    probe_schema(&options.connection, &options.names.schema).await
}

/// As [`probe`], for whatever else is to live in a schema of that name, such as a table of leases. Changes nothing.
///
/// # Errors
/// As those of [`probe`], but for the configuration's.
pub async fn probe_schema(connection: &ConnectionString, schema: &str) -> Result<ServerInfo, PostgresError> {
    let session = Session::open(connection, "dapper check").await?;
    let row = bounded(
        "looking at the role's rights",
        session.client().query_one(
            "SELECT pg_catalog.current_setting('server_version'),
                    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
                    (SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                       FROM pg_catalog.pg_namespace n WHERE n.nspname = $1)",
            &[&schema],
        ),
    )
    .await?;
    let lacks = match row.get::<_, Option<bool>>(2) {
        Some(true) => None,
        Some(false) => Some(format!("may not use schema {schema:?} (USAGE on it)")),
        None if row.get::<_, bool>(1) => None,
        None => {
            let database = &session.server.database;
            Some(format!("may not create schema {schema:?} (CREATE on database {database:?})"))
        }
    };
    match lacks {
        None => Ok(ServerInfo { address: connection.to_string(), version: row.get(0) }),
        Some(lacks) => Err(PostgresError::MissingRights { role: session.server.role.clone(), lacks }),
    }
}

/// Accepts the cluster that the connection string leads to as the cursor's own, and lets everything still in
/// `change_sets` be delivered again, marked as a possible repeat. Returns how many change sets these are.
///
/// # Errors
/// When replicas of the input are connected; where nothing is installed, those of installing it.
pub async fn rebase(config: &InputConfig) -> Result<u64, PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, "dapper rebase").await?;
    let client = session.client();
    refuse_while_running(&session, &options).await?;
    layout::install(&session, &options.names).await?;
    let schema = quote_identifier(&options.names.schema);
    let server = &session.server;
    // The transaction ids in the rows are the other cluster's: here they may lie in the future, and then no snapshot
    // would see them for long. Locks the slots against writers for the time of the rewrite.
    let sql = format!(
        "BEGIN;
         LOCK TABLE {schema}.change_sets IN SHARE ROW EXCLUSIVE MODE;
         UPDATE {schema}.change_sets SET xid = pg_catalog.pg_current_xact_id();
         UPDATE {schema}.parked SET attempt = 1 WHERE attempt < 1;
         UPDATE {schema}.cursors SET prev = '1:1:', target = NULL, done = 0,
                claimed = pg_catalog.concat(n.xid, ':', n.xid, ':')::pg_catalog.pg_snapshot,
                claimed_seq = (SELECT last_value FROM {schema}.change_sets_seq), attempt = 1, crashes = 0,
                version = version + 1, system_identifier = {}, timeline = {}
           FROM (SELECT pg_catalog.pg_current_xact_id()::text::int8 + 1 AS xid) n
          WHERE partition = 0",
        server.system_identifier, server.timeline
    );
    let details = format!("to cluster {}, timeline {}", server.system_identifier, server.timeline);
    let rebased = async {
        bounded("rebasing", client.batch_execute(&sql)).await?;
        record(client, &schema, "rebase", &details).await?;
        bounded("rebasing", client.batch_execute("COMMIT")).await
    };
    if let Err(error) = rebased.await {
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

/// The resource whose lease decides which replica of the input reads.
///
/// # Errors
/// Those of [`validate`] and of connecting.
pub async fn lease_resource(config: &InputConfig) -> Result<Resource, PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, "dapper accept-lock-store").await?;
    resource(&options, &session)
}

/// What [`accept_lock_store`] has replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedLockStore {
    /// The identity of the store whose tokens the cursor was sealed by; `None` when no replica has ever led.
    pub before: Option<String>,
    /// The fencing token that the next holder's will be above.
    pub token: u64,
}

/// Accepts `store` as the one whose tokens fence the cursor from now on, instead of whatever store it was before, or the
/// same one when it has gone back in time. Its tokens are counted on from the cursor's: whoever compares the tokens of
/// events never sees one that is lower than before. A holder that still reads by the other store is fenced.
///
/// It is for the caller to know that nobody will go on using the other store.
///
/// # Errors
/// Those of connecting; where nothing is installed, those of installing it.
pub async fn accept_lock_store(
    config: &InputConfig,
    store: StoreId,
) -> Result<AcceptedLockStore, PostgresError> {
    let options = Options::parse(config)?;
    let session = Session::open(&options.connection, "dapper accept-lock-store").await?;
    layout::ensure(&session, &options).await?;
    let sql = format!(
        "UPDATE {0}.cursors c SET lock_store = $1::text::uuid, token_base = c.token, version = c.version + 1
           FROM (SELECT lock_store::text AS before FROM {0}.cursors WHERE partition = 0) was
          WHERE c.partition = 0 RETURNING was.before, c.token",
        quote_identifier(&options.names.schema)
    );
    let (client, store) = (session.client(), store.to_string());
    let doing = "accepting the lock store";
    bounded(doing, client.batch_execute("BEGIN")).await?;
    // An error ends the session, and the transaction with it.
    let row = bounded(doing, client.query_one(&sql, &[&store])).await?;
    let before: Option<&str> = row.get(0);
    let details = format!("{store} instead of {}", before.unwrap_or("none"));
    record(client, &quote_identifier(&options.names.schema), "accept-lock-store", &details).await?;
    bounded(doing, client.batch_execute("COMMIT")).await?;
    Ok(AcceptedLockStore { before: row.get(0), token: row.get::<_, i64>(1).unsigned_abs() })
}

/// Refuses when replicas are connected, and still are after what it takes the server to notice that a process has ended.
pub(crate) async fn refuse_while_running(session: &Session, options: &Options) -> Result<(), PostgresError> {
    let until = tokio::time::Instant::now() + GOODBYE_LIMIT;
    loop {
        let row = bounded(
            "looking for replicas",
            session.client().query_one(
                "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
                  WHERE (application_name = $1 OR pg_catalog.starts_with(application_name, $1 || ' '))
                    AND datname = pg_catalog.current_database()",
                &[&application_name(options)],
            ),
        )
        .await?;
        let count: i64 = row.get(0);
        if count == 0 {
            return Ok(());
        }
        if tokio::time::Instant::now() >= until {
            return Err(PostgresError::Running { connections: count });
        }
        tokio::time::sleep(GOODBYE_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dapper_lock::MemoryStore;
    use dapper_testkit::Database;

    use super::*;
    use crate::PostgresInput;
    use crate::tests::support::{config, locks, wait_until};

    #[test]
    fn what_is_wrong_with_a_configuration_comes_with_its_key() {
        let mut config = config("orders-input", "host=localhost".into());
        assert!(validate(&config).is_ok());
        config.options.insert("wake_up".into(), "push".into());
        let refused = validate(&config);
        assert!(
            matches!(&refused, Err(PostgresError::Option { key, .. }) if key == "wake_up"),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn probing_says_what_is_there_and_creates_nothing() {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        let config = config("orders-input", database.url());
        let shown = probe(&config).await.unwrap().to_string();
        assert!(shown.starts_with("PostgreSQL 1") && shown.contains(database.name()), "{shown}");
        let sql = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'dapper%'";
        assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    }

    #[tokio::test]
    async fn probing_finds_out_which_right_is_missing() {
        let database = Database::create().await.unwrap();
        let client = database.connect().await.unwrap();
        let role = format!("poor_{}", database.name());
        client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'canary'")).await.unwrap();
        let connection = ConnectionString::parse(&database.url_as(&role, "canary").into()).unwrap();
        let lacks = async || match probe_schema(&connection, "dapper_i").await {
            Err(PostgresError::MissingRights { lacks, .. }) => lacks,
            other => panic!("{other:?}"),
        };
        assert!(lacks().await.starts_with("may not create schema \"dapper_i\""));
        client.batch_execute("CREATE SCHEMA dapper_i").await.unwrap();
        assert!(lacks().await.starts_with("may not use schema \"dapper_i\""));
        client.batch_execute(&format!("GRANT USAGE ON SCHEMA dapper_i TO {role}")).await.unwrap();
        probe_schema(&connection, "dapper_i").await.unwrap();
        client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    }

    #[tokio::test]
    async fn a_schema_that_somebody_else_makes_meanwhile_is_used() {
        let database = Database::create().await.unwrap();
        let other = database.connect().await.unwrap();
        let watcher = database.connect().await.unwrap();
        other.batch_execute("BEGIN; CREATE SCHEMA dapper_orders_input").await.unwrap();
        let store = Arc::new(MemoryStore::new());
        let input = tokio::spawn(PostgresInput::new(config("orders-input", database.url()), locks(&store)));
        let blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity
                        WHERE application_name LIKE 'dapper orders_input%' AND wait_event_type = 'Lock')";
        wait_until(&watcher, blocked).await;
        other.batch_execute("COMMIT").await.unwrap();
        input.await.unwrap().unwrap();
        let there = "SELECT to_regclass('dapper_orders_input.cursors') IS NOT NULL";
        assert!(watcher.query_one(there, &[]).await.unwrap().get::<_, bool>(0));
    }
}
