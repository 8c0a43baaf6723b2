//! How managers acquire, keep, lose and give back leases.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dapper_lock::{
    Clock, Lease, LeaseConfig, LockErrorKind, LockManager, LockManagerOptions, LockStore, LossReason,
    MemoryStore, Resource,
};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::faulty::{Faulty, TokioClock};

const TTL: Duration = Duration::from_secs(10);
const TRUST: Duration = Duration::from_secs(9);

/// A store, and two managers that reach it over networks of their own.
struct Setup {
    store: Arc<MemoryStore>,
    one: LockManager,
    net_one: Arc<Faulty>,
    two: LockManager,
    net_two: Arc<Faulty>,
}

fn setup() -> Setup {
    let clock = TokioClock::shared();
    let store = Arc::new(MemoryStore::with_clock(Arc::clone(&clock)));
    let (net_one, net_two) = (Faulty::over(Arc::clone(&store)), Faulty::over(Arc::clone(&store)));
    let (one, two) = (manager(&net_one, &clock), manager(&net_two, &clock));
    Setup { store, one, net_one, two, net_two }
}

fn manager(store: &Arc<Faulty>, clock: &Arc<dyn Clock>) -> LockManager {
    let config = LeaseConfig::from_ttl(TTL).unwrap();
    let options = LockManagerOptions { clock: Arc::clone(clock), own_thread: false };
    LockManager::with_options(Arc::clone(store) as Arc<dyn LockStore>, config, options)
}

fn resource() -> Resource {
    Resource::new("orders").unwrap()
}

async fn acquire(manager: &LockManager) -> Lease {
    manager.acquire(&resource()).await.unwrap()
}

/// Lets `manager` wait for the lease and returns once it does.
async fn waiting(manager: &LockManager) -> tokio::task::JoinHandle<Lease> {
    let manager = manager.clone();
    let task = tokio::spawn(async move { acquire(&manager).await });
    sleep(Duration::from_millis(100)).await;
    assert!(!task.is_finished());
    task
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_it_is_wanted() {
    let Setup { one, two, .. } = setup();
    let lease = acquire(&one).await;
    let other = waiting(&two).await;
    for _ in 0..1_000 {
        sleep(TTL / 10).await;
        assert!(lease.is_valid());
    }
    assert!(!other.is_finished());
    assert_eq!(one.holder(&resource()).await.unwrap().unwrap().holder, one.holder_id());
}

#[tokio::test(start_paused = true)]
async fn a_release_hands_over_at_once() {
    let Setup { one, two, .. } = setup();
    let lease = acquire(&one).await;
    let other = waiting(&two).await;
    let validity = lease.validity();
    let start = Instant::now();
    lease.release().await.unwrap();
    let next = other.await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(5), "{:?}", start.elapsed());
    assert!(!validity.is_valid() && next.is_valid());
    assert_eq!(validity.lost().await, LossReason::Released);
    assert!(next.token() > validity.token());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lease_is_released() {
    let Setup { one, two, .. } = setup();
    let lease = acquire(&one).await;
    let other = waiting(&two).await;
    let validity = lease.validity();
    let start = Instant::now();
    drop(lease);
    assert!(!validity.is_valid());
    other.await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_stops_before_another_starts() {
    let Setup { one, net_one, two, .. } = setup();
    let lease = acquire(&one).await;
    let other = waiting(&two).await;
    let start = Instant::now();
    net_one.set(|faults| faults.unreachable = true);
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(!lease.is_valid());
    assert!(start.elapsed() <= TRUST, "{:?}", start.elapsed());
    assert!(!other.is_finished());
    let next = other.await.unwrap();
    assert!(start.elapsed() <= TTL + Duration::from_millis(20), "{:?}", start.elapsed());
    assert!(next.token() > lease.token());
    assert!(lease.release().await.is_err());
    assert!(next.is_valid());
}

#[tokio::test(start_paused = true)]
async fn lost_replies_of_renewals_end_trust_although_the_store_renews() {
    let Setup { one, net_one, .. } = setup();
    let lease = acquire(&one).await;
    net_one.set(|faults| faults.lose_renew_replies = true);
    let start = Instant::now();
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert!(start.elapsed() <= TRUST);
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_of_renewals_is_survived() {
    let Setup { one, net_one, .. } = setup();
    let lease = acquire(&one).await;
    net_one.set(|faults| faults.unreachable = true);
    sleep(TRUST - Duration::from_secs(2)).await;
    net_one.set(|faults| faults.unreachable = false);
    sleep(TTL * 3).await;
    assert!(lease.is_valid());
}

#[tokio::test(start_paused = true)]
async fn slow_answers_shorten_trust() {
    let Setup { one, net_one, .. } = setup();
    net_one.set(|faults| faults.reply_delay = Duration::from_secs(7));
    let start = Instant::now();
    let lease = acquire(&one).await;
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    assert_eq!(lease.lost().await, LossReason::Expired);
    assert_eq!(start.elapsed(), TRUST);
}

#[tokio::test(start_paused = true)]
async fn answers_slower_than_trust_are_never_a_lease() {
    let Setup { store, one, net_one, .. } = setup();
    net_one.set(|faults| faults.reply_delay = TRUST + Duration::from_millis(500));
    let error = one.acquire(&resource()).await.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Timeout);
    assert_eq!(store.holder(&resource()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_was_taken_away_is_lost() {
    let Setup { store, one, .. } = setup();
    let lease = acquire(&one).await;
    store.release(lease.term()).await.unwrap();
    assert_eq!(timeout(TTL, lease.lost()).await, Ok(LossReason::NotHolder));
    assert!(!lease.is_valid());
    lease.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_session_ends_the_lease_at_once() {
    let Setup { one, net_one, .. } = setup();
    let lease = acquire(&one).await;
    let start = Instant::now();
    net_one.set(|faults| faults.session_lost = true);
    assert_eq!(timeout(TTL, lease.lost()).await, Ok(LossReason::SessionLost));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_tried_again_while_the_store_is_away() {
    let Setup { store, one, net_one, .. } = setup();
    let lease = acquire(&one).await;
    net_one.set(|faults| faults.unreachable = true);
    let start = Instant::now();
    let back = async {
        sleep(Duration::from_secs(1)).await;
        net_one.set(|faults| faults.unreachable = false);
    };
    let (released, ()) = tokio::join!(lease.release(), back);
    released.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(store.holder(&resource()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_is_kept_from_others_until_it_is_dropped() {
    let Setup { one, two, .. } = setup();
    let lease = acquire(&one).await;
    let other = waiting(&two).await;
    lease.revoke();
    assert!(!lease.is_valid());
    assert_eq!(lease.lost().await, LossReason::Revoked);
    sleep(Duration::from_millis(500)).await;
    assert!(!other.is_finished());
    drop(lease);
    other.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_strands_nothing() {
    let Setup { store, one, two, .. } = setup();
    let lease = acquire(&one).await;
    assert!(timeout(TTL * 3, two.acquire(&resource())).await.is_err());
    lease.release().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(store.holder(&resource()).await.unwrap(), None);
    acquire(&two).await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrives_after_the_call_was_dropped_is_given_back() {
    let Setup { store, one, net_one, two, .. } = setup();
    net_one.set(|faults| faults.reply_delay = Duration::from_secs(2));
    assert!(timeout(Duration::from_secs(1), one.acquire(&resource())).await.is_err());
    assert!(store.holder(&resource()).await.unwrap().is_some());
    let start = Instant::now();
    let lease = acquire(&two).await;
    assert!(start.elapsed() <= Duration::from_millis(1_010), "{:?}", start.elapsed());
    assert_eq!(lease.token().get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_try_is_made_good_without_waiting_for_the_lease_to_end() {
    let Setup { one, net_one, .. } = setup();
    net_one.set(|faults| faults.lose_try_replies = true);
    let start = Instant::now();
    let manager = one.clone();
    let task = tokio::spawn(async move { acquire(&manager).await });
    sleep(Duration::from_millis(1)).await;
    net_one.set(|faults| faults.lose_try_replies = false);
    let lease = task.await.unwrap();
    assert_eq!(lease.token().get(), 2);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failures_are_bounded_and_then_reported() {
    let Setup { one, net_one, .. } = setup();
    net_one.set(|faults| faults.unreachable = true);
    let error = one.acquire(&resource()).await.unwrap_err();
    assert_eq!(error.kind, LockErrorKind::Unavailable);
    assert_eq!(net_one.tries.load(Ordering::SeqCst), 5);
    net_one.set(|faults| *faults = crate::faulty::Faults { refuse: true, ..Default::default() });
    assert_eq!(one.acquire(&resource()).await.unwrap_err().kind, LockErrorKind::Refused);
    assert_eq!(net_one.tries.load(Ordering::SeqCst), 6);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_returns_at_once_does_not_spin() {
    let Setup { one, two, net_two, .. } = setup();
    let _lease = acquire(&one).await;
    net_two.set(|faults| faults.eager = true);
    assert!(timeout(Duration::from_secs(1), two.acquire(&resource())).await.is_err());
    assert!(net_two.tries.load(Ordering::SeqCst) <= 101);
}

#[tokio::test(start_paused = true)]
async fn callers_of_one_manager_take_turns() {
    let Setup { one, .. } = setup();
    let lease = acquire(&one).await;
    let next = waiting(&one).await;
    sleep(TTL * 2).await;
    assert!(lease.is_valid() && !next.is_finished());
    lease.release().await.unwrap();
    assert_eq!(next.await.unwrap().token().get(), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_managers_count_without_losing_one() {
    let clock = TokioClock::shared();
    let store = Arc::new(MemoryStore::with_clock(Arc::clone(&clock)));
    let counter = Arc::new(std::sync::Mutex::new(0_u32));
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let manager = manager(&Faulty::over(Arc::clone(&store)), &clock);
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                for _ in 0..10 {
                    let lease = acquire(&manager).await;
                    let seen = *counter.lock().unwrap();
                    sleep(Duration::from_millis(3)).await;
                    *counter.lock().unwrap() = seen + 1;
                    assert!(lease.is_valid());
                    lease.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*counter.lock().unwrap(), 100);
}

#[test]
fn a_lease_does_not_outlive_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let manager = LockManager::new(Arc::new(MemoryStore::new()), LeaseConfig::from_ttl(TTL).unwrap());
    let lease = runtime.block_on(async {
        let lease = acquire(&manager).await;
        yield_now().await;
        lease
    });
    assert!(lease.is_valid());
    drop(runtime);
    assert!(!lease.is_valid());
    assert_eq!(futures::executor::block_on(lease.lost()), LossReason::Abandoned);
}
