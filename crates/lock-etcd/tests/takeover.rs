//! How fast one holder follows another, and how a holder learns that it is none.

use std::time::Duration;

use dapper_lock::{HolderId, LockStore, LossReason, Renewal, TryAcquire};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{AT_ONCE, Bed, LATE, SHORT, TTL, acquire, granted, resource, waiting};

#[tokio::test]
async fn a_release_wakes_the_next_at_once() {
    let bed = Bed::shared();
    let (one, two) = (bed.manager(TTL), bed.manager(TTL));
    let lease = acquire(&one).await;
    let next = waiting(&two).await;
    let start = Instant::now();
    let token = lease.token();
    lease.release().await.unwrap();
    let next = next.await.unwrap();
    println!("taken over after {:?}", start.elapsed());
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert!(next.token() > token);
}

/// Revokes the etcd lease of the term, as an operator might.
async fn revoke(bed: &Bed) {
    let mut client = bed.client().await;
    let pair = client.get(bed.key(), None).await.unwrap();
    client.lease_revoke(pair.kvs()[0].lease()).await.unwrap();
}

/// Removes the key of the term, as an operator might.
async fn delete(bed: &Bed) {
    let deleted = bed.client().await.delete(bed.key(), None).await.unwrap();
    assert_eq!(deleted.deleted(), 1);
}

#[tokio::test]
async fn a_holder_whose_etcd_lease_is_revoked_is_followed_at_once_and_knows() {
    let bed = Bed::shared();
    followed_at_once(&bed, revoke(&bed)).await;
}

#[tokio::test]
async fn a_holder_whose_key_is_removed_is_followed_at_once_and_knows() {
    let bed = Bed::shared();
    followed_at_once(&bed, delete(&bed)).await;
}

async fn followed_at_once(bed: &Bed, end: impl Future<Output = ()>) {
    let (one, two) = (bed.manager(TTL), bed.manager(TTL));
    let lease = acquire(&one).await;
    let next = waiting(&two).await;
    let start = Instant::now();
    end.await;
    let reason = timeout(AT_ONCE, lease.lost()).await.unwrap();
    assert_eq!(reason, LossReason::SessionLost);
    assert!(!lease.is_valid());
    let next = next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert!(next.token() > lease.token());
    lease.release().await.unwrap();
    sleep(AT_ONCE).await;
    assert!(next.is_valid());
}

#[tokio::test]
async fn a_term_that_was_ended_by_hand_is_not_renewed() {
    let bed = Bed::shared();
    let store = bed.store();
    let term = granted(&store, HolderId::random(), TTL).await;
    revoke(&bed).await;
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
    let term = granted(&store, HolderId::random(), TTL).await;
    delete(&bed).await;
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
    // Somebody else's now: neither renewed nor released.
    let other = granted(&store, HolderId::random(), TTL).await;
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
    store.release(&term).await.unwrap();
    assert_eq!(store.renew(&other, TTL).await.unwrap(), Renewal::Renewed);
}

#[test]
fn a_holder_whose_process_ends_is_followed_when_its_time_is_up() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let bed = Bed::shared();
    let ttl = SHORT * 2;
    let store = bed.store();
    // As with kill -9: nothing is released, the kernel closes the sockets, and etcd has no session that would tell.
    let before = Instant::now();
    let term = first.block_on(granted(&store, HolderId::random(), ttl));
    second.block_on(async {
        let next = waiting(&bed.manager(ttl)).await;
        let killed = Instant::now();
        first.shutdown_background();
        let next = next.await.unwrap();
        println!("taken over {:?} after the end of the process, time to live {ttl:?}", killed.elapsed());
        assert!(before.elapsed() >= ttl, "{:?}", before.elapsed());
        assert!(killed.elapsed() < ttl + LATE, "{:?}", killed.elapsed());
        assert!(next.token() > term.token);
    });
}

#[tokio::test]
async fn a_watch_survives_a_compaction() {
    let bed = Bed::shared();
    let (one, two) = (bed.manager(TTL), bed.manager(TTL));
    let lease = acquire(&one).await;
    let next = waiting(&two).await;
    let mut client = bed.client().await;
    for _ in 0..3 {
        for number in 0..20 {
            client.put(format!("{}other", bed.prefix()), number.to_string(), None).await.unwrap();
        }
        let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    }
    assert!(timeout(AT_ONCE, lease.lost()).await.is_err());
    let start = Instant::now();
    lease.release().await.unwrap();
    next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_stale_holder_is_told() {
    let bed = Bed::shared();
    let (one, two) = (bed.store(), bed.store());
    let stale = granted(&one, HolderId::random(), SHORT).await;
    let start = Instant::now();
    let other = HolderId::random();
    let term = loop {
        match two.try_acquire(&resource(), &other, TTL).await.unwrap() {
            TryAcquire::Granted(token) => break dapper_lock::Term { holder: other, token, ..stale.clone() },
            TryAcquire::Held(held_by) => two.wait(&resource(), &other, held_by.remaining).await.unwrap(),
        }
        assert!(start.elapsed() < SHORT + LATE, "{:?}", start.elapsed());
    };
    assert!(start.elapsed() > SHORT - Duration::from_millis(50), "{:?}", start.elapsed());
    assert_eq!(one.renew(&stale, TTL).await.unwrap(), Renewal::NotHolder);
    one.release(&stale).await.unwrap();
    assert_eq!(two.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
}
