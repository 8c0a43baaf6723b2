//! What the tests share: databases, stores, and a bad network between the two.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use dapper_connect::ConnectionString;
use dapper_lock::{HolderId, Lease, LeaseConfig, LockManager, LockStore, Resource, Term, TryAcquire};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_testkit::{Database, Faults, Flow, Proxy};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub(crate) const TTL: Duration = Duration::from_secs(10);
pub(crate) const SHORT: Duration = Duration::from_secs(1);

pub(crate) async fn database() -> Database {
    Database::create().await.unwrap()
}

pub(crate) fn config(database: &Database) -> ConnectionString {
    database.url().parse().unwrap()
}

pub(crate) fn store(database: &Database) -> PostgresLockStore {
    PostgresLockStore::new(config(database), PostgresLockOptions::default())
}

pub(crate) fn without_sessions(database: &Database) -> PostgresLockStore {
    let options = PostgresLockOptions { use_sessions: false, ..Default::default() };
    PostgresLockStore::new(config(database), options)
}

pub(crate) fn manager(store: PostgresLockStore, ttl: Duration) -> LockManager {
    LockManager::new(Arc::new(store), LeaseConfig::from_ttl(ttl).unwrap())
}

pub(crate) fn resource() -> Resource {
    Resource::new("it's \"orders\"").unwrap()
}

pub(crate) async fn acquire(manager: &LockManager) -> Lease {
    manager.acquire(&resource()).await.unwrap()
}

/// Lets `manager` wait for the lease, and returns once `count` sessions of the database are blocked on it.
pub(crate) async fn waiting(manager: &LockManager, watcher: &Client, count: i64) -> JoinHandle<Lease> {
    let manager = manager.clone();
    let task = tokio::spawn(async move { acquire(&manager).await });
    until(
        watcher,
        "SELECT count(*) >= $1 FROM pg_locks JOIN pg_database d ON d.oid = database \
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()",
        count,
    )
    .await;
    assert!(!task.is_finished());
    task
}

/// Waits until a query with one number as its parameter is true.
pub(crate) async fn until(watcher: &Client, query: &str, number: i64) {
    for _ in 0..1_000 {
        if watcher.query_one(query, &[&number]).await.unwrap().get(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not true within 10 s: {query}");
}

pub(crate) async fn granted(store: &PostgresLockStore, holder: HolderId, ttl: Duration) -> Term {
    match store.try_acquire(&resource(), &holder, ttl).await.unwrap() {
        TryAcquire::Granted(token) => Term { resource: resource(), holder, token },
        held @ TryAcquire::Held(_) => panic!("{held:?}"),
    }
}

/// The row's token, whether it says `session`, and the server process of its holder.
pub(crate) async fn row(watcher: &Client) -> (i64, bool, i32) {
    let row = watcher
        .query_one("SELECT token, session, backend FROM dapper_lock.leases WHERE resource <> ''", &[])
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

pub(crate) async fn kill_holder(watcher: &Client) {
    let (_, _, backend) = row(watcher).await;
    let killed = watcher.query_one("SELECT pg_terminate_backend($1)", &[&backend]).await.unwrap();
    assert!(killed.get::<_, bool>(0));
}

/// The error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// A proxy in front of the database's server.
pub(crate) async fn proxy(database: &Database) -> Proxy {
    Proxy::start(database.server().address()).await.unwrap()
}

/// A store whose connections go through the proxy.
pub(crate) fn store_behind(proxy: &Proxy, database: &Database) -> PostgresLockStore {
    let config = database.url_via(proxy.address()).parse().unwrap();
    PostgresLockStore::new(config, PostgresLockOptions::default())
}

/// What keeps everything back that the server says, the end of a connection included.
pub(crate) const DEAF: Faults = Faults::to_client(Flow::SILENT);
