//! An etcd that is killed, restarted, frozen, emptied.

use std::time::Duration;

use dapper_lock::{HolderId, LockStore, LossReason, Renewal};
use dapper_testkit::EtcdOptions;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{AT_ONCE, Bed, LATE, SHORT, TTL, acquire, granted, resource, until, waiting};

#[tokio::test]
async fn tokens_and_identity_outlive_a_kill() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    let id = store.store_id().await.unwrap();
    let mut last = None;
    for _ in 0..3 {
        let term = granted(&store, HolderId::random(), TTL).await;
        assert!(last.is_none_or(|last| last < term.token), "{last:?}, then {}", term.token);
        last = Some(term.token);
        store.release(&term).await.unwrap();
        bed.server.kill_9().unwrap();
        assert!(store.holder(&resource()).await.is_err());
        bed.server.restart().unwrap();
        assert_eq!(store.store_id().await.unwrap(), id);
        assert_eq!(bed.store().store_id().await.unwrap(), id);
    }
}

#[tokio::test]
async fn a_term_outlives_a_restart() {
    let bed = Bed::private(&EtcdOptions::default());
    let (one, two) = (bed.manager(SHORT * 6), bed.manager(SHORT * 6));
    let lease = acquire(&one).await;
    let next = waiting(&two).await;
    bed.server.kill_9().unwrap();
    sleep(SHORT).await;
    bed.server.restart().unwrap();
    // Longer than the term would have lived without its renewals.
    assert!(timeout(SHORT * 8, lease.lost()).await.is_err());
    assert!(lease.is_valid() && !next.is_finished());
    let start = Instant::now();
    lease.release().await.unwrap();
    next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_restart_extends_a_term_and_never_shortens_it() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    let ttl = SHORT * 3;
    let term = granted(&store, HolderId::random(), ttl).await;
    sleep(SHORT * 2).await;
    bed.server.kill_9().unwrap();
    bed.server.restart().unwrap();
    let restarted = Instant::now();
    until("its end is seen", async || store.holder(&resource()).await.unwrap().is_none()).await;
    assert!(restarted.elapsed() > ttl - Duration::from_millis(200), "{:?}", restarted.elapsed());
    assert!(restarted.elapsed() < ttl + LATE, "{:?}", restarted.elapsed());
    assert_eq!(store.renew(&term, ttl).await.unwrap(), Renewal::NotHolder);
}

#[tokio::test]
async fn the_end_of_a_term_is_told_after_a_restart() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    let term = granted(&store, HolderId::random(), TTL * 6).await;
    let ended = tokio::spawn({
        let (store, term) = (store.clone(), term.clone());
        async move { store.ended(&term).await }
    });
    sleep(AT_ONCE).await;
    bed.server.kill_9().unwrap();
    sleep(AT_ONCE).await;
    assert!(!ended.is_finished(), "not knowing is not the end");
    bed.server.restart().unwrap();
    bed.store().release(&term).await.unwrap();
    timeout(SHORT * 3, ended).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_ends_trust_and_is_used_again() {
    let bed = Bed::private(&EtcdOptions::default());
    let manager = bed.manager(SHORT * 2);
    let lease = acquire(&manager).await;
    let token = lease.token();
    let start = Instant::now();
    bed.server.freeze().unwrap();
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(start.elapsed() <= SHORT * 2, "{:?}", start.elapsed());
    drop(lease);
    sleep(SHORT).await;
    bed.server.thaw().unwrap();
    assert!(acquire(&manager).await.token() > token);
}

#[tokio::test]
async fn every_call_ends_when_etcd_says_nothing() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    let (holder, ttl) = (HolderId::random(), SHORT * 3);
    let term = granted(&store, holder, ttl).await;
    bed.server.freeze().unwrap();
    let start = Instant::now();
    assert!(store.renew(&term, ttl).await.is_err());
    assert!(store.try_acquire(&resource(), &holder, ttl).await.is_err());
    assert!(start.elapsed() <= ttl, "{:?}", start.elapsed());
    let start = Instant::now();
    store.wait(&resource(), &holder, SHORT).await.unwrap();
    assert!(start.elapsed() <= SHORT + AT_ONCE, "{:?}", start.elapsed());
    let start = Instant::now();
    assert!(store.holder(&resource()).await.is_err());
    assert!(start.elapsed() <= SHORT * 6, "{:?}", start.elapsed());
    bed.server.thaw().unwrap();
}

#[tokio::test]
async fn an_emptied_etcd_is_another_store() {
    let bed = Bed::private(&EtcdOptions::default());
    let store = bed.store();
    let id = store.store_id().await.unwrap();
    bed.server.stop().unwrap();
    std::fs::remove_dir_all(bed.server.directory().join("data")).unwrap();
    bed.server.restart().unwrap();
    assert_ne!(store.store_id().await.unwrap(), id);
}
