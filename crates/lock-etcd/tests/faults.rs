//! Lost answers, dropped calls, silence.

use std::time::Duration;

use dapper_lock::{HolderId, LockErrorKind, LockStore, LossReason, Renewal, Term, TryAcquire};
use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore};
use dapper_testkit::EtcdOptions;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    ANSWER_DELAY, AT_ONCE, Bed, LATE, Proxy, SHORT, TTL, acquire, chain, granted, manager, resource, until,
    waiting,
};

#[tokio::test]
async fn a_dropped_wait_strands_nothing() {
    let bed = Bed::shared();
    let (one, two, three) = (bed.manager(TTL), bed.manager(TTL), bed.manager(TTL));
    let lease = acquire(&one).await;
    let dropped = waiting(&two).await;
    let next = waiting(&three).await;
    dropped.abort();
    let start = Instant::now();
    lease.release().await.unwrap();
    next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_dropped_acquire_gives_back_what_it_got() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    store.store_id().await.unwrap();
    // Dropped at many moments, before, during and after the grant.
    let mut grants = 0;
    for micros in (0..15_000).step_by(250) {
        let (resource, holder) = (resource(), HolderId::random());
        let tried = store.try_acquire(&resource, &holder, TTL);
        match timeout(Duration::from_micros(micros), tried).await {
            Ok(Ok(TryAcquire::Granted(token))) => {
                grants += 1;
                store.release(&Term { resource, holder, token }).await.unwrap();
            }
            Ok(Ok(TryAcquire::Held(_))) | Err(_) => {}
            Ok(Err(error)) => panic!("{}", chain(&error)),
        }
    }
    let start = Instant::now();
    until("free", async || store.holder(&resource()).await.unwrap().is_none()).await;
    // Long before any of them would have ended by itself.
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    until("no etcd lease left", async || bed.leases().await == 0).await;
    assert!(start.elapsed() < AT_ONCE * 2, "{:?}", start.elapsed());
    println!("{grants} of 60 tries were in time");
}

#[tokio::test]
async fn a_dropped_renewal_never_ends_the_term() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    store.store_id().await.unwrap();
    // One that asks for a longer time to live, which takes another etcd lease; dropped at many moments.
    for micros in (0..15_000).step_by(500) {
        let term = granted(&store, HolderId::random(), TTL).await;
        let _ = timeout(Duration::from_micros(micros), store.renew(&term, TTL * 2)).await;
        assert!(timeout(Duration::from_millis(30), store.ended(&term)).await.is_err(), "after {micros} µs");
        assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
        store.release(&term).await.unwrap();
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_never_ends_the_term() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let (store, direct) = (bed.store_at(&proxy.url()), bed.store());
    let term = granted(&direct, HolderId::random(), TTL).await;
    store.store_id().await.unwrap();
    let put = bed.granted().await;
    let renewing = tokio::spawn({
        let (store, term) = (store.clone(), term.clone());
        async move { store.renew(&term, TTL * 2).await }
    });
    // Bound to another etcd lease, the answer still on the way.
    put.await.unwrap();
    proxy.cut();
    assert!(renewing.await.unwrap().is_err());
    assert!(timeout(SHORT, direct.ended(&term)).await.is_err());
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn a_grant_whose_answer_is_lost_is_held_by_the_caller_and_never_granted_twice() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let (store, direct) = (bed.store_at(&proxy.url()), bed.store());
    let holder = HolderId::random();
    // A time to live that ends long after the test.
    let ttl = Duration::from_secs(6);
    store.store_id().await.unwrap();
    let put = bed.granted().await;
    let tried = tokio::spawn({
        let store = store.clone();
        async move { store.try_acquire(&resource(), &holder, ttl).await }
    });
    // The key is there, its answer still on the way.
    put.await.unwrap();
    proxy.silence();
    let error = tried.await.unwrap().unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Timeout, "{}", chain(&error));
    let held_by = match direct.try_acquire(&resource(), &holder, ttl).await.unwrap() {
        TryAcquire::Held(held_by) => held_by,
        TryAcquire::Granted(token) => panic!("granted {token} while the lost grant runs"),
    };
    assert_eq!(held_by.holder, holder);
    direct.release(&Term { resource: resource(), holder, token: held_by.token }).await.unwrap();
    let term = granted(&direct, holder, ttl).await;
    assert!(term.token > held_by.token);
    // What still comes of the lost call doesn't touch the new term.
    proxy.resume();
    sleep(SHORT).await;
    assert_eq!(direct.renew(&term, ttl).await.unwrap(), Renewal::Renewed);
    assert_eq!(store.renew(&term, ttl).await.unwrap(), Renewal::Renewed);
}

#[tokio::test]
async fn a_grant_whose_connection_is_cut_is_given_back() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let store = bed.store_at(&proxy.url());
    let holder = HolderId::random();
    store.store_id().await.unwrap();
    let put = bed.granted().await;
    let tried = tokio::spawn({
        let store = store.clone();
        async move { store.try_acquire(&resource(), &holder, TTL).await }
    });
    put.await.unwrap();
    proxy.cut();
    let error = tried.await.unwrap().unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Unavailable, "{}", chain(&error));
    let direct = bed.store();
    let start = Instant::now();
    until("given back", async || direct.holder(&resource()).await.unwrap().is_none()).await;
    assert!(start.elapsed() < SHORT * 2, "{:?}", start.elapsed());
    granted(&store, holder, TTL).await;
}

#[tokio::test]
async fn a_renewal_counts_only_if_the_term_is_there_after_it() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let (store, mut client) = (bed.store_at(&proxy.url()), bed.client().await);
    let term = granted(&store, HolderId::random(), TTL).await;
    let renewing = tokio::spawn(async move { store.renew(&term, TTL).await });
    // It has read the key, or soon will; several answers, each as late, are to come before it looks again.
    sleep(ANSWER_DELAY * 3 / 2).await;
    client.delete(bed.key(), None).await.unwrap();
    assert_eq!(renewing.await.unwrap().unwrap(), Renewal::NotHolder);
}

#[tokio::test]
async fn a_manager_gets_over_a_lost_grant() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let manager = manager(bed.store_at(&proxy.url()), TTL);
    manager.store_id().await.unwrap();
    let put = bed.granted().await;
    let acquiring = tokio::spawn(async move { acquire(&manager).await });
    put.await.unwrap();
    proxy.cut();
    let start = Instant::now();
    let lease = acquiring.await.unwrap();
    assert!(start.elapsed() < SHORT * 3, "{:?}", start.elapsed());
    assert!(lease.is_valid());
}

#[tokio::test]
async fn a_holder_that_hears_nothing_stops_before_another_starts() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let ttl = SHORT * 3;
    let (one, two) = (manager(bed.store_at(&proxy.url()), ttl), bed.manager(ttl));
    let lease = acquire(&one).await;
    let next = waiting(&two).await;
    let start = Instant::now();
    proxy.silence();
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(start.elapsed() <= ttl, "{:?}", start.elapsed());
    assert!(!next.is_finished(), "two holders");
    let validity = lease.validity();
    drop(lease);
    let next = next.await.unwrap();
    assert!(start.elapsed() <= ttl * 2 + LATE, "{:?}", start.elapsed());
    assert!(!validity.is_valid() && next.is_valid());
    proxy.resume();
    sleep(SHORT).await;
    assert!(next.is_valid());
    assert!(next.token() > validity.token());
}

#[tokio::test]
async fn another_member_is_asked_when_one_falls_silent() {
    let bed = Bed::shared();
    let proxy = Proxy::before(&bed).await;
    let dead = "http://127.0.0.1:1";
    let endpoints = [dead, &proxy.url(), &bed.server.url()].map(|url| url.parse().unwrap()).to_vec();
    let store = EtcdLockStore::new(EtcdLockOptions { endpoints, ..bed.options() });
    let lease = acquire(&manager(store.clone(), SHORT * 6)).await;
    proxy.silence();
    // Renewals go to the other address in time.
    assert!(timeout(SHORT * 9, lease.lost()).await.is_err());
    assert!(lease.is_valid());
    lease.release().await.unwrap();
}

#[tokio::test]
async fn garbage_under_a_key_is_an_error() {
    let bed = Bed::shared();
    let (store, mut client) = (bed.store(), bed.client().await);
    let holder = HolderId::random();
    for (value, wanted) in [
        (b"me".to_vec(), "something else than a holder"),
        (vec![0xff], "something that is not UTF-8"),
        (holder.to_string().into_bytes(), "a holder without a lease"),
    ] {
        client.put(bed.key(), value, None).await.unwrap();
        let errors = [
            store.holder(&resource()).await.unwrap_err(),
            store.try_acquire(&resource(), &holder, TTL).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, LockErrorKind::Inconsistent);
            assert!(chain(&error).contains(wanted), "{}", chain(&error));
        }
        client.delete(bed.key(), None).await.unwrap();
    }
    client.put(format!("{}store", bed.prefix()), "me", None).await.unwrap();
    assert_eq!(bed.store().store_id().await.unwrap_err().kind, LockErrorKind::Inconsistent);
}
