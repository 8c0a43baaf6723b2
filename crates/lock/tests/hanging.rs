//! A holder whose runtime is busy, and one whose runtime hangs: in real time, on threads as they are.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dapper_lock::{
    Lease, LeaseConfig, LockManager, LockManagerOptions, LockStore, LossReason, MemoryStore, Resource,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn manager(store: &Arc<MemoryStore>, own_thread: bool) -> LockManager {
    let options = LockManagerOptions { own_thread, ..LockManagerOptions::default() };
    let config = LeaseConfig::from_ttl(TTL).unwrap();
    LockManager::with_options(Arc::clone(store) as Arc<dyn LockStore>, config, options)
}

fn resource() -> Resource {
    Resource::new("orders").unwrap()
}

async fn acquire(manager: &LockManager) -> Lease {
    manager.acquire(&resource()).await.unwrap()
}

#[test]
fn a_lease_is_renewed_while_the_runtime_of_its_holder_is_busy() {
    let store = Arc::new(MemoryStore::new());
    let manager = manager(&store, true);
    runtime().block_on(async {
        let lease = acquire(&manager).await;
        for _ in 0..3 {
            // Longer than trust lasts without a renewal.
            thread::sleep(TTL * 3 / 2);
            assert!(lease.is_valid());
            tokio::time::sleep(TTL / 100).await;
        }
        lease.release().await.unwrap();
    });
}

/// What the test above would show without the thread.
#[test]
fn on_a_busy_runtime_alone_it_is_lost() {
    let store = Arc::new(MemoryStore::new());
    let manager = manager(&store, false);
    runtime().block_on(async {
        let lease = acquire(&manager).await;
        thread::sleep(TTL * 3 / 2);
        assert!(!lease.is_valid());
    });
}

#[test]
fn a_holder_that_hangs_is_followed_and_knows() {
    let store = Arc::new(MemoryStore::new());
    let (hanging, other) = (manager(&store, true), manager(&store, true));
    let (sender, begun) = mpsc::channel();
    let hung = thread::spawn(move || {
        runtime().block_on(async {
            let lease = acquire(&hanging).await;
            let begun = Instant::now();
            sender.send((begun, lease.validity())).unwrap();
            // Nothing else runs on this runtime.
            while lease.is_valid() && begun.elapsed() < TTL * 5 {
                thread::sleep(TTL / 100);
            }
            let ended = Instant::now();
            (ended, lease.lost().await)
        })
    });
    let (begun, validity) = begun.recv().unwrap();
    let followed = runtime().block_on(async {
        let lease = timeout(TTL * 4, acquire(&other)).await.expect("a holder that hangs is never followed");
        assert!(!validity.is_valid(), "two holders");
        assert!(lease.token() > validity.token());
        Instant::now()
    });
    let (ended, reason) = hung.join().unwrap();
    assert_eq!(reason, LossReason::Expired);
    assert!(ended <= followed);
    assert!(ended.duration_since(begun) >= TTL, "given up too soon");
    assert!(followed.duration_since(begun) <= TTL * 5 / 2, "{:?}", followed.duration_since(begun));
}
