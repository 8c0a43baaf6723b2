//! Lost answers, dropped calls, wrong passwords.

use std::time::Duration;

use dapper_lock::{HolderId, LockErrorKind, LockStore, LossReason, TryAcquire};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Proxy, SHORT, TTL, acquire, chain, database, granted, manager, resource, row, store, until, waiting,
};

#[tokio::test]
async fn a_dropped_wait_strands_nothing() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let (one, two, three) =
        (manager(store(&database), TTL), manager(store(&database), TTL), manager(store(&database), TTL));
    let lease = acquire(&one).await;
    let dropped = waiting(&two, &watcher, 1).await;
    let next = waiting(&three, &watcher, 2).await;
    dropped.abort();
    let start = Instant::now();
    lease.release().await.unwrap();
    // The server notices a client that went away when the slice of its wait ends, at the latest.
    assert_eq!(next.await.unwrap().token().get(), 2);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    until(
        &watcher,
        "SELECT count(*) <= $1 FROM pg_stat_activity \
        WHERE application_name LIKE 'dapper-lock %' AND datname = current_database()",
        1,
    )
    .await;
}

#[tokio::test]
async fn a_dropped_acquire_gives_back_what_it_got() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    store(&database).install().await.unwrap();
    let manager = manager(store(&database), TTL);
    // Dropped at many moments, before, during and after the grant.
    for micros in (0..20_000).step_by(1_000) {
        let _ = timeout(Duration::from_micros(micros), manager.acquire(&resource())).await;
    }
    let start = Instant::now();
    let _lease = acquire(&manager).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(row(&watcher).await.1);
}

#[tokio::test]
async fn a_grant_whose_answer_is_lost_hinders_nobody() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let proxy = Proxy::before(&database).await;
    let store_one = proxy.store(&database);
    let holder = HolderId::random();
    // A first round, so that the session is there and only the try's own answer is lost.
    let other = store(&database);
    let term = granted(&other, HolderId::random(), TTL).await;
    assert!(matches!(store_one.try_acquire(&resource(), &holder, SHORT).await, Ok(TryAcquire::Held(_))));
    watcher.execute("UPDATE dapper_lock.leases SET expires_at = now()", &[]).await.unwrap();
    proxy.silence();
    let tried = store_one.try_acquire(&resource(), &holder, SHORT).await;
    let error = tried.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Timeout, "{}", chain(&error));
    proxy.resume();
    let start = Instant::now();
    let lease = acquire(&manager(store_one, TTL)).await;
    assert!(start.elapsed() < SHORT, "{:?}", start.elapsed());
    assert!(lease.token() > term.token);
    assert_eq!(row(&watcher).await.0, i64::try_from(lease.token().get()).unwrap());
}

#[tokio::test]
async fn a_holder_that_hears_nothing_stops_before_another_starts() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let proxy = Proxy::before(&database).await;
    let (one, two) = (manager(proxy.store(&database), SHORT * 2), manager(store(&database), SHORT * 2));
    let lease = acquire(&one).await;
    let next = waiting(&two, &watcher, 1).await;
    let start = Instant::now();
    proxy.silence();
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(start.elapsed() <= SHORT * 2, "{:?}", start.elapsed());
    assert!(!next.is_finished(), "two holders");
    let validity = lease.validity();
    drop(lease);
    let next = next.await.unwrap();
    assert!(!validity.is_valid() && next.is_valid());
    proxy.resume();
    sleep(SHORT).await;
    assert!(next.is_valid());
    assert!(next.token() > validity.token());
}

#[tokio::test]
async fn a_password_never_shows() {
    let database = database().await;
    let wrong = database.url_as("nobody_at_all", "secret-canary");
    let nowhere = "postgres://someone:secret-canary@127.0.0.1:1/db".to_owned();
    for url in [wrong, nowhere] {
        let store = PostgresLockStore::new(url.parse().unwrap(), PostgresLockOptions::default());
        let error = store.try_acquire(&resource(), &HolderId::random(), TTL).await.unwrap_err();
        let text = format!("{} {error:?} {store:?}", chain(&error));
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("connecting to PostgreSQL failed"), "{text}");
    }
}

#[tokio::test]
async fn garbage_in_the_table_is_an_error() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let store = store(&database);
    granted(&store, HolderId::random(), TTL).await;
    watcher
        .execute("UPDATE dapper_lock.leases SET holder = 'me', backend = 0 WHERE resource <> ''", &[])
        .await
        .unwrap();
    let error = store.holder(&resource()).await.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Inconsistent);
    assert!(chain(&error).contains("\"me\""), "{}", chain(&error));
}

#[tokio::test]
async fn an_idle_standby_keeps_no_session() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let store = store(&database);
    let term = granted(&store, HolderId::random(), TTL).await;
    let other = HolderId::random();
    assert!(matches!(store.try_acquire(&resource(), &other, TTL).await, Ok(TryAcquire::Held(_))));
    let sessions = "SELECT count(*) = $1 FROM pg_stat_activity \
        WHERE application_name LIKE 'dapper-lock %' AND datname = current_database()";
    until(&watcher, sessions, 2).await;
    until(&watcher, sessions, 1).await;
    store.renew(&term, TTL).await.unwrap();
}
