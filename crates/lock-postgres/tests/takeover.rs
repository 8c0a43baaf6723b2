//! How fast, and how carefully, one holder follows another.

use std::sync::Arc;
use std::time::Duration;

use dapper_lock::{HolderId, LeaseConfig, LockManager, LockManagerOptions, LockStore, LossReason};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    SHORT, TTL, acquire, database, granted, kill_holder, manager, resource, row, store, until, waiting,
    without_sessions,
};

const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_release_wakes_the_next_at_once() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let (one, two) = (manager(store(&database), TTL), manager(store(&database), TTL));
    let lease = acquire(&one).await;
    let next = waiting(&two, &watcher, 1).await;
    let start = Instant::now();
    lease.release().await.unwrap();
    let next = next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(next.token().get(), 2);
    assert!(row(&watcher).await.1, "it has not got the session lock");
}

#[tokio::test]
async fn a_dead_holder_is_followed_at_once_and_knows() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let (one, two) = (manager(store(&database), TTL), manager(store(&database), TTL));
    let lease = acquire(&one).await;
    let next = waiting(&two, &watcher, 1).await;
    let start = Instant::now();
    kill_holder(&watcher).await;
    let reason = timeout(AT_ONCE, lease.lost()).await.unwrap();
    assert_eq!(reason, LossReason::SessionLost);
    assert!(!lease.is_valid());
    let next = next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert!(next.token() > lease.token());
    lease.release().await.unwrap();
    sleep(AT_ONCE).await;
    assert!(next.is_valid());
    assert_eq!(row(&watcher).await.0, 2);
}

#[tokio::test]
async fn a_renewal_never_uses_another_session() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let store = store(&database);
    let term = granted(&store, HolderId::random(), TTL).await;
    kill_holder(&watcher).await;
    timeout(AT_ONCE, store.ended(&term)).await.unwrap();
    let error = store.renew(&term, TTL).await.unwrap_err();
    assert_eq!(error.kind, dapper_lock::LockErrorKind::SessionLost);
    assert!(store.renew(&term, TTL).await.is_err());
}

#[test]
fn a_holder_whose_process_ends_is_followed_at_once() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let database = second.block_on(database());
    // Everything on one runtime, which can be taken away as a process can.
    let options = LockManagerOptions { own_thread: false, ..LockManagerOptions::default() };
    let config = LeaseConfig::from_ttl(TTL).unwrap();
    let one = LockManager::with_options(Arc::new(store(&database)), config, options);
    let lease = first.block_on(acquire(&one));
    second.block_on(async {
        let watcher = database.connect().await.unwrap();
        let next = waiting(&manager(store(&database), TTL), &watcher, 1).await;
        let start = Instant::now();
        // As with kill -9: nothing is released, the kernel closes the sockets.
        first.shutdown_background();
        next.await.unwrap();
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    });
    assert!(!lease.is_valid());
}

#[tokio::test]
async fn a_half_open_holder_is_followed_when_its_time_is_up() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let one = store(&database);
    let two = manager(store(&database), SHORT * 2);
    // Its session lives on and keeps the session lock, but it renews no more.
    let start = Instant::now();
    let term = granted(&one, HolderId::random(), SHORT * 2).await;
    let since_grant = Instant::now();
    let lease = waiting(&two, &watcher, 1).await.await.unwrap();
    assert!(start.elapsed() >= SHORT * 2, "{:?}", start.elapsed());
    assert!(since_grant.elapsed() < SHORT * 2 + AT_ONCE, "{:?}", since_grant.elapsed());
    assert!(!row(&watcher).await.1);
    sleep(SHORT * 2).await;
    assert!(lease.is_valid());
    // Once the old session is gone, the new holder gets the session lock.
    one.release(&term).await.unwrap();
    until(&watcher, "SELECT session AND token = $1 FROM dapper_lock.leases WHERE resource <> ''", 2).await;
    assert!(lease.is_valid());
}

#[tokio::test]
async fn a_holder_without_the_session_lock_is_not_robbed() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let old = store(&database);
    let stale = granted(&old, HolderId::random(), Duration::from_millis(300)).await;
    sleep(Duration::from_millis(350)).await;
    let current = store(&database);
    let term = granted(&current, HolderId::random(), TTL).await;
    assert!(!row(&watcher).await.1);
    old.release(&stale).await.unwrap();
    // Nobody has the session lock now; whoever takes it must see that the holder never had it.
    let other = manager(store(&database), TTL);
    assert!(timeout(SHORT, other.acquire(&resource())).await.is_err());
    assert_eq!(row(&watcher).await.0, 2);
    current.renew(&term, TTL).await.unwrap();
    assert!(row(&watcher).await.1);
}

#[tokio::test]
async fn a_lock_from_before_a_restart_proves_nothing() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let store_one = store(&database);
    granted(&store_one, HolderId::random(), SHORT * 2).await;
    let start = Instant::now();
    // As if the server had been restarted since: the holder may not know yet.
    let earlier = "UPDATE dapper_lock.leases SET server_started_at = server_started_at - interval '1 day'";
    watcher.execute(earlier, &[]).await.unwrap();
    kill_holder(&watcher).await;
    acquire(&manager(store(&database), SHORT * 2)).await;
    assert!(start.elapsed() > SHORT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn without_sessions_time_decides() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let (one, two) = (without_sessions(&database), manager(without_sessions(&database), SHORT * 2));
    let start = Instant::now();
    let term = granted(&one, HolderId::random(), SHORT * 2).await;
    let since_grant = Instant::now();
    kill_holder(&watcher).await;
    timeout(AT_ONCE, one.ended(&term)).await.unwrap();
    let lease = acquire(&two).await;
    assert!(start.elapsed() >= SHORT * 2, "{:?}", start.elapsed());
    assert!(since_grant.elapsed() < SHORT * 2 + AT_ONCE, "{:?}", since_grant.elapsed());
    assert_eq!(lease.token().get(), 2);
    let locks = "SELECT count(*) = $1 FROM pg_locks WHERE locktype = 'advisory' AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    until(&watcher, locks, 0).await;
}
