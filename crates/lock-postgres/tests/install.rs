//! The table is made once, and only by those who need to.

use dapper_lock::{HolderId, LockErrorKind, LockStore};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore, SchemaName};

use dapper_testkit::{Server, ServerOptions};

use crate::support::{
    SHORT, TTL, acquire, chain, config, database, granted, manager, resource, store, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_replicas_install_at_once() {
    let database = database().await;
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let store = store(&database);
            tokio::spawn(async move { store.install().await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    granted(&store(&database), HolderId::random(), TTL).await;
}

#[tokio::test]
async fn no_right_to_create_is_needed_when_the_table_is_there() {
    let database = database().await;
    let owner = database.connect().await.unwrap();
    let role = format!("locker_{}", database.name());
    owner.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret-canary'")).await.unwrap();
    let config = database.url_as(&role, "secret-canary").parse().unwrap();
    let unprivileged = PostgresLockStore::new(config, PostgresLockOptions::default());
    let error = unprivileged.install().await.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Refused, "{}", chain(&error));
    assert!(chain(&error).contains("permission denied"), "{}", chain(&error));

    store(&database).install().await.unwrap();
    let grant = format!(
        "GRANT USAGE ON SCHEMA dapper_lock TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON dapper_lock.leases TO {role}"
    );
    owner.batch_execute(&grant).await.unwrap();
    let lease = acquire(&manager(unprivileged, TTL)).await;
    lease.release().await.unwrap();
    owner.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn any_schema_name_will_do_and_separates() {
    let database = database().await;
    for name in ["Weird \"name\"; --", "ünï"] {
        let options = PostgresLockOptions { schema: SchemaName::new(name).unwrap(), ..Default::default() };
        let store = PostgresLockStore::new(config(&database), options);
        assert_eq!(store.holder(&resource()).await.unwrap(), None);
        assert_eq!(granted(&store, HolderId::random(), TTL).await.token.get(), 1);
    }
}

#[tokio::test]
async fn a_schema_that_somebody_else_makes_meanwhile_is_used() {
    let database = database().await;
    let (other, watcher) = (database.connect().await.unwrap(), database.connect().await.unwrap());
    other.batch_execute("BEGIN; CREATE SCHEMA dapper_lock").await.unwrap();
    let store = store(&database);
    let installing = tokio::spawn({
        let store = store.clone();
        async move { store.install().await }
    });
    let blocked = "SELECT count(*) >= $1 FROM pg_stat_activity \
                   WHERE application_name = 'dapper-lock' AND wait_event_type = 'Lock'";
    until(&watcher, blocked, 1).await;
    other.batch_execute("COMMIT").await.unwrap();
    installing.await.unwrap().unwrap();
    granted(&store, HolderId::random(), TTL).await;
}

#[tokio::test]
async fn a_table_that_was_dropped_is_made_again() {
    let database = database().await;
    let store = store(&database);
    let lease = acquire(&manager(store.clone(), SHORT)).await;
    let owner = database.connect().await.unwrap();
    owner.batch_execute("DROP SCHEMA dapper_lock CASCADE").await.unwrap();
    lease.lost().await;
    lease.release().await.unwrap();
    acquire(&manager(store, SHORT)).await;
}

#[tokio::test]
async fn a_server_that_only_reads_is_refused() {
    let database = database().await;
    let owner = database.connect().await.unwrap();
    let setting = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name());
    owner.batch_execute(&setting).await.unwrap();
    let error = store(&database).install().await.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Refused, "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_and_a_primary_found_among_several_hosts() {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Server::start(&ServerOptions::default()).unwrap();
        let standby = Server::standby_of(&primary).unwrap();
        (primary, standby)
    })
    .await
    .unwrap();
    let on = |server: &Server| server.url("postgres").parse::<dapper_connect::ConnectionString>().unwrap();
    let store = |config| PostgresLockStore::new(config, PostgresLockOptions::default());
    let error = store(on(&standby)).try_acquire(&resource(), &HolderId::random(), TTL).await.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Refused);
    assert!(chain(&error).contains("standby"), "{}", chain(&error));

    let (host, port) = primary.address();
    let several =
        format!("{} host={host},{host} port={},{port}", standby.dsn("postgres"), standby.address().1);
    granted(&store(several.parse().unwrap()), HolderId::random(), TTL).await;
    tokio::task::spawn_blocking(move || drop((standby, primary))).await.unwrap();
}
