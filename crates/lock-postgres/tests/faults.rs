//! Lost answers, dropped calls, wrong passwords.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use dapper_lock::{HolderId, LockErrorKind, LockStore, LossReason, TryAcquire};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_testkit::{Database, Faults, Flow, Proxy, Server, ServerOptions};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::support::{
    DEAF, SHORT, TTL, acquire, chain, database, granted, kill_holder, manager, proxy, resource, row, store,
    store_behind, until, waiting,
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

/// Slows answers down until the server has granted a second token, and then lets no more pass.
async fn lose_the_answer_to_a_grant(proxy: &Proxy, watcher: &Client) {
    proxy.set(Faults::to_client(Flow::delayed(SHORT / 5)));
    until(watcher, "SELECT token = $1 FROM dapper_lock.leases WHERE resource <> ''", 2).await;
    proxy.set(DEAF);
}

#[tokio::test]
async fn a_grant_whose_answer_is_lost_hinders_nobody() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let proxy = proxy(&database).await;
    let store_one = store_behind(&proxy, &database);
    let holder = HolderId::random();
    // A first round, so that the session is there and only the try's own answer is lost.
    let other = store(&database);
    let term = granted(&other, HolderId::random(), TTL).await;
    assert!(matches!(store_one.try_acquire(&resource(), &holder, SHORT).await, Ok(TryAcquire::Held(_))));
    watcher.execute("UPDATE dapper_lock.leases SET expires_at = now()", &[]).await.unwrap();
    let (tried, ()) = tokio::join!(
        async { store_one.try_acquire(&resource(), &holder, SHORT).await },
        lose_the_answer_to_a_grant(&proxy, &watcher),
    );
    let error = tried.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Timeout, "{}", chain(&error));
    proxy.heal();
    let start = Instant::now();
    let lease = acquire(&manager(store_one, TTL)).await;
    assert!(start.elapsed() < SHORT, "{:?}", start.elapsed());
    assert!(lease.token() > term.token);
    assert_eq!(row(&watcher).await.0, i64::try_from(lease.token().get()).unwrap());
}

#[tokio::test]
async fn a_grant_whose_answer_never_comes_ends_with_its_time_to_live() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let proxy = proxy(&database).await;
    let (behind, other) = (store_behind(&proxy, &database), store(&database));
    let holder = HolderId::random();
    // A first round, so that the session is there and only the try's own answer is lost.
    let term = granted(&other, HolderId::random(), SHORT).await;
    assert!(matches!(behind.try_acquire(&resource(), &holder, SHORT).await, Ok(TryAcquire::Held(_))));
    watcher.execute("UPDATE dapper_lock.leases SET expires_at = now()", &[]).await.unwrap();
    let start = Instant::now();
    let tried = tokio::spawn(async move { behind.try_acquire(&resource(), &holder, SHORT).await });
    lose_the_answer_to_a_grant(&proxy, &watcher).await;
    let orphan = other.holder(&resource()).await.unwrap().unwrap();
    assert_eq!(orphan.holder, holder);
    let next = acquire(&manager(store(&database), SHORT)).await;
    assert!(next.token() > orphan.token && orphan.token > term.token);
    assert!(start.elapsed() < SHORT * 2, "{:?}", start.elapsed());
    assert!(tried.await.unwrap().is_err(), "an answer that never came is no grant");
}

#[tokio::test]
async fn a_renewal_that_is_answered_late_is_trusted_from_when_it_was_sent() {
    let database = database().await;
    let proxy = proxy(&database).await;
    let one = manager(store_behind(&proxy, &database), SHORT * 3);
    let lease = acquire(&one).await;
    let start = Instant::now();
    proxy.set(Faults::to_client(Flow::delayed(SHORT * 5 / 2)));
    assert_eq!(lease.lost().await, LossReason::Expired);
    // The answer to the renewal of the first second would come after three and a half; trust in the grant ends before.
    assert!(start.elapsed() <= SHORT * 3, "{:?}", start.elapsed());
    let renewed = store(&database).holder(&resource()).await.unwrap().unwrap();
    assert_eq!(renewed.token, lease.token());
}

#[tokio::test]
async fn on_a_full_server_a_holder_keeps_its_lease_and_concedes_it_when_its_session_ends() {
    let settings = vec![("max_connections".to_owned(), "12".to_owned())];
    let options = ServerOptions { settings, ..ServerOptions::default() };
    let server = tokio::task::spawn_blocking(move || Server::start(&options).unwrap()).await.unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let watcher = database.connect().await.unwrap();
    let one = manager(store(&database), SHORT);
    let lease = acquire(&one).await;
    let mut others = Vec::new();
    while let Ok(client) = database.connect().await {
        others.push(client);
    }
    sleep(SHORT * 3).await;
    assert!(lease.is_valid(), "its own session needs no other");
    // Whoever comes takes its place on the server before it could come back.
    kill_holder(&watcher).await;
    let reason = timeout(SHORT, lease.lost()).await.unwrap();
    assert_eq!(reason, LossReason::SessionLost);
    assert!(!lease.is_valid());
    drop(others);
    let next = acquire(&manager(store(&database), SHORT)).await;
    assert!(next.token() > lease.token());
    drop((lease, next, watcher));
    tokio::task::spawn_blocking(move || drop((database, server))).await.unwrap();
}

/// Polls a future so many times, waiting for its wake-ups in between; what it answered, if it did, else it is dropped.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // A future that is dropped after its last poll is not waited for.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_call_dropped_at_any_poll_leaves_nothing_that_does_not_end_by_itself() {
    let ttl = SHORT;
    let database = database().await;
    let other = manager(store(&database), TTL);
    acquire(&other).await.release().await.unwrap();
    for call in ["try", "renew", "release", "wait"] {
        for times in 1.. {
            let store = store(&database);
            let holder = HolderId::random();
            let done = if call == "try" {
                polled(times, store.try_acquire(&resource(), &holder, ttl)).await.is_some()
            } else {
                let term = granted(&store, holder, ttl).await;
                match call {
                    "renew" => polled(times, store.renew(&term, ttl)).await.is_some(),
                    "release" => polled(times, store.release(&term)).await.is_some(),
                    _ => polled(times, store.wait(&resource(), &HolderId::random(), ttl)).await.is_some(),
                }
            };
            let start = Instant::now();
            let lease = other.acquire(&resource()).await;
            let lease = lease.unwrap_or_else(|error| panic!("{call} dropped at poll {times}: {error:?}"));
            assert!(start.elapsed() < ttl * 4, "{call} dropped at poll {times}: {:?}", start.elapsed());
            assert!(lease.is_valid());
            lease.release().await.unwrap();
            if done {
                assert!(times > 1 || call == "wait", "{call} was never dropped midway");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_holder_that_hears_nothing_stops_before_another_starts() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let proxy = proxy(&database).await;
    let (one, two) =
        (manager(store_behind(&proxy, &database), SHORT * 2), manager(store(&database), SHORT * 2));
    let lease = acquire(&one).await;
    let next = waiting(&two, &watcher, 1).await;
    let start = Instant::now();
    proxy.set(DEAF);
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(start.elapsed() <= SHORT * 2, "{:?}", start.elapsed());
    assert!(!next.is_finished(), "two holders");
    let validity = lease.validity();
    drop(lease);
    let next = next.await.unwrap();
    assert!(!validity.is_valid() && next.is_valid());
    proxy.heal();
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
