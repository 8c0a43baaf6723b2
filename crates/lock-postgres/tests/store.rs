//! The obligations of a store, one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dapper_lock::{HolderId, LockStore, Renewal, Term, TryAcquire};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    SHORT, TTL, acquire, database, granted, manager, resource, row, store, without_sessions,
};

#[tokio::test]
async fn one_holder_at_a_time_and_exact_terms() {
    let database = database().await;
    let (one, two) = (store(&database), store(&database));
    let (a, b) = (HolderId::random(), HolderId::random());
    let first = granted(&one, a, TTL).await;
    for (store, holder) in [(&one, a), (&one, b), (&two, b)] {
        match store.try_acquire(&resource(), &holder, TTL).await.unwrap() {
            TryAcquire::Held(held_by) => {
                assert_eq!((held_by.holder, held_by.token), (a, first.token));
                assert!(held_by.remaining <= TTL && held_by.remaining > TTL / 2);
            }
            TryAcquire::Granted(token) => panic!("granted {token}"),
        }
    }
    assert_eq!(two.holder(&resource()).await.unwrap().unwrap().token, first.token);
    one.release(&first).await.unwrap();
    assert_eq!(two.holder(&resource()).await.unwrap(), None);
    let second = granted(&two, b, TTL).await;
    assert_eq!(second.token.get(), 2);
    one.release(&first).await.unwrap();
    one.release(&Term { holder: a, ..second.clone() }).await.unwrap();
    assert_eq!(two.renew(&second, TTL).await.unwrap(), Renewal::Renewed);
    assert!(one.renew(&first, TTL).await.is_err(), "renewed without its session");
    two.release(&second).await.unwrap();
    two.release(&second).await.unwrap();
}

#[tokio::test]
async fn a_term_ends_by_the_servers_clock() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let store = store(&database);
    let term = granted(&store, HolderId::random(), TTL).await;
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
    let jump = "UPDATE dapper_lock.leases SET expires_at = expires_at - interval '11 s'";
    watcher.execute(jump, &[]).await.unwrap();
    assert_eq!(store.holder(&resource()).await.unwrap(), None);
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
    let next = granted(&store, HolderId::random(), TTL).await;
    assert!(next.token > term.token);
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
}

#[tokio::test]
async fn a_stale_holder_is_told() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let (one, two) = (store(&database), store(&database));
    let stale = granted(&one, HolderId::random(), Duration::from_millis(300)).await;
    sleep(Duration::from_millis(350)).await;
    // The first holder's session still has the lock: by time alone, and without the session lock.
    let term = granted(&two, HolderId::random(), TTL).await;
    assert_eq!(row(&watcher).await.0, 2);
    assert!(!row(&watcher).await.1);
    assert_eq!(one.renew(&stale, TTL).await.unwrap(), Renewal::NotHolder);
    // Told, the first holder gave the session lock back, and the second takes it.
    assert_eq!(two.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
    assert!(row(&watcher).await.1);
    one.release(&stale).await.unwrap();
    assert_eq!(two.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_holders_count_without_losing_one() {
    let database = database().await;
    let counter = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let store = if n % 5 == 0 { without_sessions(&database) } else { store(&database) };
            let (manager, counter) = (manager(store, TTL), Arc::clone(&counter));
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                for _ in 0..5 {
                    let lease = acquire(&manager).await;
                    let seen = counter.load(Ordering::SeqCst);
                    sleep(Duration::from_millis(2)).await;
                    counter.store(seen + 1, Ordering::SeqCst);
                    assert!(lease.is_valid());
                    tokens.push(lease.token().get());
                    lease.release().await.unwrap();
                }
                tokens
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.extend(task.await.unwrap());
    }
    assert_eq!(counter.load(Ordering::SeqCst), 50);
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 50, "a token was issued twice");
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_it_is_wanted() {
    let database = database().await;
    let (one, two) = (manager(store(&database), SHORT), manager(store(&database), SHORT));
    let lease = acquire(&one).await;
    assert!(timeout(SHORT * 3, two.acquire(&resource())).await.is_err());
    assert!(lease.is_valid());
}

#[tokio::test]
async fn waiting_is_bounded_and_leaves_no_error_in_the_log() {
    let database = database().await;
    let store = store(&database);
    let (a, b) = (HolderId::random(), HolderId::random());
    let term = granted(&store, a, TTL).await;
    assert!(matches!(store.try_acquire(&resource(), &b, TTL).await.unwrap(), TryAcquire::Held(_)));
    let start = Instant::now();
    store.wait(&resource(), &b, Duration::from_millis(1_800)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(1_790), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    if let Some(directory) = database.server().directory() {
        for entry in std::fs::read_dir(directory).unwrap().filter_map(Result::ok) {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains("lock timeout"), "{:?}", entry.path());
        }
    }
    store.release(&term).await.unwrap();
}

#[tokio::test]
async fn resources_are_independent() {
    let database = database().await;
    let store = store(&database);
    let holder = HolderId::random();
    for name in ["a", "b", "ü", "; DROP TABLE leases"] {
        let resource = dapper_lock::Resource::new(name).unwrap();
        let granted = store.try_acquire(&resource, &holder, TTL).await.unwrap();
        assert!(matches!(granted, TryAcquire::Granted(token) if token.get() == 1));
    }
}
