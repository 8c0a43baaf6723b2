//! The store in memory keeps the obligations of a store.

use std::time::Duration;

use dapper_lock::{FencingToken, HolderId, LockStore, MemoryStore, Renewal, Resource, Term, TryAcquire};
use tokio::time::{Instant, advance, timeout};

use crate::faulty::TokioClock;

const TTL: Duration = Duration::from_secs(10);

fn resource() -> Resource {
    Resource::new("r").unwrap()
}

async fn granted(store: &MemoryStore, holder: HolderId) -> Term {
    match store.try_acquire(&resource(), &holder, TTL).await.unwrap() {
        TryAcquire::Granted(token) => Term { resource: resource(), holder, token },
        held @ TryAcquire::Held(_) => panic!("{held:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_holder_whose_term_ends_by_the_stores_clock() {
    let store = MemoryStore::with_clock(TokioClock::shared());
    let (one, two) = (HolderId::random(), HolderId::random());
    let term = granted(&store, one).await;
    assert_eq!(term.token, FencingToken::FIRST);
    advance(TTL / 2).await;
    for holder in [one, two] {
        match store.try_acquire(&resource(), &holder, TTL).await.unwrap() {
            TryAcquire::Held(held_by) => {
                assert_eq!((held_by.holder, held_by.token, held_by.remaining), (one, term.token, TTL / 2));
            }
            TryAcquire::Granted(token) => panic!("granted {token}"),
        }
    }
    advance(TTL / 2).await;
    assert_eq!(store.holder(&resource()).await.unwrap(), None);
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::NotHolder);
    assert_eq!(granted(&store, two).await.token.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn only_the_exact_term_is_renewed_and_released() {
    let store = MemoryStore::with_clock(TokioClock::shared());
    let old = granted(&store, HolderId::random()).await;
    store.release(&old).await.unwrap();
    let term = granted(&store, old.holder).await;
    assert!(old.token < term.token);
    let stranger = Term { holder: HolderId::random(), ..term.clone() };
    for other in [&old, &stranger] {
        assert_eq!(store.renew(other, TTL).await.unwrap(), Renewal::NotHolder);
        store.release(other).await.unwrap();
    }
    assert_eq!(store.renew(&term, TTL).await.unwrap(), Renewal::Renewed);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_limit_the_term_or_its_release() {
    let store = MemoryStore::with_clock(TokioClock::shared());
    let term = granted(&store, HolderId::random()).await;
    let other = HolderId::random();
    let start = Instant::now();
    store.wait(&resource(), &other, TTL / 4).await.unwrap();
    assert_eq!(start.elapsed(), TTL / 4);
    store.wait(&resource(), &other, TTL * 4).await.unwrap();
    assert_eq!(start.elapsed(), TTL);
    let term = Term { token: granted(&store, term.holder).await.token, ..term };
    let resource = resource();
    let waiting = store.wait(&resource, &other, TTL);
    tokio::pin!(waiting);
    assert!(timeout(TTL / 10, &mut waiting).await.is_err());
    store.release(&term).await.unwrap();
    assert!(timeout(Duration::ZERO, waiting).await.is_ok());
}
