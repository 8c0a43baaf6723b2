//! Behind a pooler that hands the server's sessions out by transaction.

use std::time::Duration;

use dapper_connect::ConnectionString;
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_testkit::pooler;

use crate::support::{acquire, database, manager, row, until};

#[tokio::test]
async fn leases_do_without_sessions() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let pooled: ConnectionString = pooler(&database).await.unwrap().parse().unwrap();
    let store = || PostgresLockStore::new(pooled.clone(), PostgresLockOptions::default());
    let ttl = Duration::from_secs(3);
    let (one, two) = (manager(store(), ttl), manager(store(), ttl));
    let lease = acquire(&one).await;
    assert!(!row(&watcher).await.1);
    let other = tokio::spawn(async move { acquire(&two).await });
    tokio::time::sleep(ttl * 2).await;
    assert!(lease.is_valid() && !other.is_finished());
    let locks = "SELECT count(*) = $1 FROM pg_locks WHERE locktype = 'advisory' AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    until(&watcher, locks, 0).await;
    let token = lease.token();
    lease.release().await.unwrap();
    assert!(other.await.unwrap().token() > token);
}
