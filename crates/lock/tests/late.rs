//! Answers that come late, and machines that were asleep.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dapper_lock::{
    Clock, LeaseConfig, LockManager, LockManagerOptions, LockStore, LossReason, MemoryStore, Resource,
    Timestamp,
};
use tokio::time::Instant;

use crate::faulty::{Faulty, TokioClock};

const TTL: Duration = Duration::from_secs(10);
const TRUST: Duration = Duration::from_secs(9);

/// A clock that counts the time in which the machine was suspended; tokio's timers do not.
struct Suspendable {
    awake: Arc<dyn Clock>,
    asleep: Mutex<Duration>,
}

impl Clock for Suspendable {
    fn now(&self) -> Timestamp {
        self.awake.now().after(*self.asleep.lock().unwrap())
    }
}

fn manager(store: &Arc<Faulty>, clock: Arc<dyn Clock>) -> LockManager {
    let config = LeaseConfig::from_ttl(TTL).unwrap();
    let options = LockManagerOptions { clock, own_thread: false };
    LockManager::with_options(Arc::clone(store) as Arc<dyn LockStore>, config, options)
}

fn resource() -> Resource {
    Resource::new("orders").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_answered_late_is_trusted_from_when_it_was_sent() {
    let clock = TokioClock::shared();
    let store = Arc::new(MemoryStore::with_clock(Arc::clone(&clock)));
    let net = Faulty::over(Arc::clone(&store));
    let lease = manager(&net, clock).acquire(&resource()).await.unwrap();
    let start = Instant::now();
    // The first renewal goes out after a third, and its answer still comes in time; that of the next does not. If trust
    // counted from the answer, the lease would last 5 s longer.
    net.set(|faults| faults.reply_delay = TTL / 2);
    assert_eq!(lease.lost().await, LossReason::Expired);
    let (least, most) = (TTL / 3 + TRUST - TTL / 100, TTL / 3 + TRUST + TTL / 100);
    assert!((least..most).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(store.holder(&resource()).await.unwrap().is_some(), "the store has renewed it");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_asleep_wakes_up_without_its_lease() {
    let awake = TokioClock::shared();
    let net = Faulty::over(Arc::new(MemoryStore::with_clock(Arc::clone(&awake))));
    let clock = Arc::new(Suspendable { awake, asleep: Mutex::default() });
    let lease = manager(&net, Arc::clone(&clock) as Arc<dyn Clock>).acquire(&resource()).await.unwrap();
    let start = Instant::now();
    *clock.asleep.lock().unwrap() += TTL;
    // Before anything else had a chance to run: no timer has fired, and none is due.
    assert!(!lease.is_valid());
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert_eq!(start.elapsed(), Duration::ZERO);
}
