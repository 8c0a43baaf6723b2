//! The obligations of a store, one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dapper_lock::{HolderId, LockStore, Renewal, Resource, Term, TryAcquire};
use dapper_testkit::EtcdOptions;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{AT_ONCE, Bed, LATE, SHORT, TTL, acquire, granted, resource, waiting};

#[tokio::test]
async fn one_holder_at_a_time_and_exact_terms() {
    let bed = Bed::shared();
    let (one, two) = (bed.store(), bed.store());
    let (a, b) = (HolderId::random(), HolderId::random());
    assert_eq!(one.holder(&resource()).await.unwrap(), None);
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
    // Any store of the same place renews: the term lives in etcd, and in no session.
    assert_eq!(two.renew(&first, TTL).await.unwrap(), Renewal::Renewed);
    one.release(&first).await.unwrap();
    assert_eq!(two.holder(&resource()).await.unwrap(), None);
    assert_eq!(one.renew(&first, TTL).await.unwrap(), Renewal::NotHolder);
    let second = granted(&two, b, TTL).await;
    assert!(second.token > first.token);
    one.release(&first).await.unwrap();
    one.release(&Term { holder: a, ..second.clone() }).await.unwrap();
    one.release(&Term { token: first.token, ..second.clone() }).await.unwrap();
    assert_eq!(one.renew(&Term { holder: a, ..second.clone() }, TTL).await.unwrap(), Renewal::NotHolder);
    assert_eq!(one.renew(&first, TTL).await.unwrap(), Renewal::NotHolder);
    assert_eq!(two.renew(&second, TTL).await.unwrap(), Renewal::Renewed);
    two.release(&second).await.unwrap();
    two.release(&second).await.unwrap();
}

#[tokio::test]
async fn a_term_ends_by_the_servers_clock() {
    let bed = Bed::shared();
    let store = bed.store();
    let start = Instant::now();
    let term = granted(&store, HolderId::random(), SHORT).await;
    sleep(SHORT / 2).await;
    assert_eq!(store.renew(&term, SHORT).await.unwrap(), Renewal::Renewed);
    timeout(SHORT * 2 + LATE, store.ended(&term)).await.unwrap();
    assert!(start.elapsed() >= SHORT + SHORT / 2, "{:?}", start.elapsed());
    assert_eq!(store.holder(&resource()).await.unwrap(), None);
    assert_eq!(store.renew(&term, SHORT).await.unwrap(), Renewal::NotHolder);
    let next = granted(&store, HolderId::random(), TTL).await;
    assert!(next.token > term.token);
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
    timeout(AT_ONCE, store.ended(&term)).await.unwrap();
    assert!(timeout(AT_ONCE, store.ended(&next)).await.is_err());
}

#[tokio::test]
async fn a_term_is_never_shorter_than_asked_for() {
    let bed = Bed::shared();
    let store = bed.store();
    let term = granted(&store, HolderId::random(), Duration::from_millis(1_100)).await;
    let mut client = bed.client().await;
    let pair = client.get(bed.key(), None).await.unwrap();
    let lease = pair.kvs()[0].lease();
    assert_eq!(client.lease_time_to_live(lease, None).await.unwrap().granted_ttl(), 2);
    // Not by a renewal that asks for more than the grant did, either; the token stays.
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
    let held_by = store.holder(&resource()).await.unwrap().unwrap();
    assert_eq!((held_by.holder, held_by.token), (term.holder, term.token));
    assert!(held_by.remaining > TTL / 2, "{held_by:?}");
    assert!(timeout(Duration::from_secs(4), store.ended(&term)).await.is_err());
    assert_eq!(client.lease_time_to_live(lease, None).await.unwrap().ttl(), -1);
    assert_eq!(store.renew(&term, SHORT).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn a_token_is_the_revision_at_which_the_key_was_made() {
    let bed = Bed::shared();
    let (store, mut client) = (bed.store(), bed.client().await);
    let mut last = None;
    for _ in 0..3 {
        let term = granted(&store, HolderId::random(), TTL).await;
        let pair = client.get(bed.key(), None).await.unwrap();
        assert_eq!(u64::try_from(pair.kvs()[0].create_revision()).unwrap(), term.token.get());
        assert!(last.is_none_or(|last| last < term.token));
        last = Some(term.token);
        store.release(&term).await.unwrap();
        // What there was is forgotten; the revision is not.
        let revision = client.put(format!("{}other", bed.prefix()), "", None).await.unwrap();
        client.compact(revision.header().unwrap().revision(), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_holders_count_without_losing_one() {
    let bed = Bed::shared();
    let counter = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let (manager, counter) = (bed.manager(TTL), Arc::clone(&counter));
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
    let bed = Bed::shared();
    let lease = acquire(&bed.manager(SHORT * 2)).await;
    let two = bed.manager(SHORT * 2);
    assert!(timeout(SHORT * 5, two.acquire(&resource())).await.is_err());
    assert!(lease.is_valid());
}

#[tokio::test]
async fn waiting_is_bounded() {
    let bed = Bed::shared();
    let store = bed.store();
    let (a, b) = (HolderId::random(), HolderId::random());
    timeout(AT_ONCE, store.wait(&resource(), &b, TTL)).await.unwrap().unwrap();
    let term = granted(&store, a, TTL).await;
    let start = Instant::now();
    store.wait(&resource(), &b, Duration::from_millis(800)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(790), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(1_300), "{:?}", start.elapsed());
    store.release(&term).await.unwrap();
}

#[tokio::test]
async fn resources_are_independent() {
    let bed = Bed::shared();
    let store = bed.store();
    let holder = HolderId::random();
    store.store_id().await.unwrap();
    for name in ["a", "a/b", "ü", "store", "leases/a", "../store"] {
        let resource = Resource::new(name).unwrap();
        let granted = store.try_acquire(&resource, &holder, TTL).await.unwrap();
        assert!(matches!(granted, TryAcquire::Granted(_)), "{name}: {granted:?}");
    }
}

#[tokio::test]
async fn a_store_has_one_identity_for_all() {
    let (bed, other) = (Bed::shared(), Bed::shared());
    let ids =
        (0..5).map(|_| bed.store()).map(|store| tokio::spawn(async move { store.store_id().await.unwrap() }));
    let mut seen = Vec::new();
    for id in ids.collect::<Vec<_>>() {
        seen.push(id.await.unwrap());
    }
    assert!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
    assert_ne!(other.store().store_id().await.unwrap(), seen[0]);
}

#[test]
fn a_store_outlives_the_runtime_in_which_it_was_first_used() {
    let bed = Bed::shared();
    let store = bed.store();
    let (first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let term = first.block_on(granted(&store, HolderId::random(), TTL));
    assert_eq!(second.block_on(store.renew(&term, TTL)).unwrap(), Renewal::Renewed);
    drop(first);
    assert_eq!(second.block_on(store.renew(&term, TTL)).unwrap(), Renewal::Renewed);
    second.block_on(store.release(&term)).unwrap();
}

#[test]
fn a_blocked_runtime_holds_up_no_other() {
    let bed = Bed::shared();
    let store = bed.store();
    let blocked = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // It has a connection, and nobody drives that from now on.
    let term = blocked.block_on(granted(&store, HolderId::random(), TTL));
    let other = Runtime::new().unwrap();
    let renewed = other.block_on(async { timeout(SHORT, store.renew(&term, TTL)).await });
    assert_eq!(renewed.unwrap().unwrap(), Renewal::Renewed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_standbys_ask_less_than_once_a_second_each() {
    const STANDBYS: usize = 50;
    const SECONDS: u64 = 12;
    let bed = Bed::private(&EtcdOptions::default());
    let holder = bed.manager(TTL);
    let lease = acquire(&holder).await;
    let managers: Vec<_> = (0..STANDBYS).map(|_| bed.manager(TTL)).collect();
    let mut standbys = Vec::new();
    for manager in &managers {
        standbys.push(waiting(manager).await);
    }
    let before = bed.server.requests().unwrap();
    sleep(Duration::from_secs(SECONDS)).await;
    let requests = bed.server.requests().unwrap() - before;
    let each = requests / (STANDBYS as f64 * SECONDS as f64);
    println!(
        "{STANDBYS} standbys and their holder: {requests} requests in {SECONDS} s, {each:.2} a second each"
    );
    assert!(each < 1.0);
    assert!(lease.is_valid() && standbys.iter().all(|standby| !standby.is_finished()));
    let start = Instant::now();
    lease.release().await.unwrap();
    while !standbys.iter().any(tokio::task::JoinHandle::is_finished) {
        sleep(Duration::from_millis(1)).await;
    }
    println!("one of them took over after {:?}", start.elapsed());
    for standby in standbys {
        standby.abort();
    }
}
