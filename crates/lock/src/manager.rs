//! Acquires leases and keeps them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::driver::{Driver, Reply};
use crate::worker::Worker;
use crate::{
    BootClock, Clock, FencingToken, HeldBy, HolderId, Lease, LeaseConfig, LockError, LockErrorKind,
    LockStore, Resource, StoreId,
};

/// Acquires leases from one store, under one identity.
///
/// A process makes one per store when it starts. Its identity is random, so a restarted process is a new holder.
///
/// The store is called on a thread of the manager's own, so that a lease is renewed however busy the runtime of its
/// holder is. A holder that hangs must not keep the resource for ever, though: when the runtime on which a lease was
/// acquired has run nothing for one time to live, the lease is not renewed until it does. Nobody trusts the lease of a
/// blocked runtime for more than two times to live, and [`Lease::is_valid`] says so even from inside what blocks it.
#[derive(Clone)]
pub struct LockManager {
    store: Arc<dyn LockStore>,
    clock: Arc<dyn Clock>,
    config: LeaseConfig,
    holder: HolderId,
    worker: Worker,
    seats: Arc<Mutex<HashMap<Resource, Seat>>>,
}

/// What a manager can be told besides its store and the times of its leases.
#[derive(Clone)]
pub struct LockManagerOptions {
    /// What trust is measured on; [`BootClock`] by default.
    pub clock: Arc<dyn Clock>,
    /// Whether the store is called on a thread of the manager's own; true by default. Otherwise everything runs on the
    /// runtime of whoever acquires, as tests with paused time need it: a busy runtime may then lose its lease.
    pub own_thread: bool,
}

/// Held by whoever acquires or holds the resource through this manager, so that two of its callers never mistake each
/// other's term for a forgotten one. Remembers the highest token seen.
type Seat = Arc<AsyncMutex<Option<FencingToken>>>;

impl LockManager {
    /// A manager with a thread of its own, on the machine's clock.
    #[must_use]
    pub fn new(store: Arc<dyn LockStore>, config: LeaseConfig) -> Self {
        Self::with_options(store, config, LockManagerOptions::default())
    }

    /// A manager as `options` say.
    #[must_use]
    pub fn with_options(store: Arc<dyn LockStore>, config: LeaseConfig, options: LockManagerOptions) -> Self {
        let LockManagerOptions { clock, own_thread } = options;
        let worker = if own_thread { Worker::own_thread() } else { Worker::Caller };
        Self { store, clock, config, holder: HolderId::random(), worker, seats: Arc::default() }
    }

    /// The identity under which it acquires.
    #[must_use]
    pub fn holder_id(&self) -> HolderId {
        self.holder
    }

    /// How long its leases live and how often they are renewed.
    #[must_use]
    pub fn config(&self) -> LeaseConfig {
        self.config
    }

    /// Waits until the resource is granted.
    ///
    /// A second call for the same resource waits until the first call's lease was released or dropped. Failures that
    /// may pass are tried again, with growing and jittered pauses from 50 ms to 2 s; after five in a row the last one
    /// is returned. Waiting for another holder has no end.
    ///
    /// Cancel-safe: when the call is dropped, a grant that is on its way is released in the background; should that
    /// fail, it ends with its time to live.
    ///
    /// # Errors
    /// The store's error: at once when it can't pass by itself, after five failures in a row otherwise.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn acquire(&self, resource: &Resource) -> Result<Lease, LockError> {
        let (reply, answer) = oneshot::channel();
        // In a task of its own, so that it outlives a dropped call until it has cleaned up, and so that whoever holds
        // the lease need not poll anything for it to be renewed.
        let task = self.clone().serve(resource.clone(), Handle::current(), reply);
        self.worker.runtime()?.spawn(task);
        answer.await.unwrap_or_else(|_| Err(LockError::new("manager", LockErrorKind::Unavailable)))
    }

    /// Who holds the resource, `None` when nobody does. For display: the answer is old when it arrives.
    ///
    /// # Errors
    /// The store's error.
    ///
    /// # Panics
    /// Outside a tokio runtime, where the manager has no thread of its own.
    pub async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        let (store, resource) = (Arc::clone(&self.store), resource.clone());
        self.run(async move { store.holder(&resource).await }).await
    }

    /// Which store it acquires from.
    ///
    /// # Errors
    /// The store's error.
    ///
    /// # Panics
    /// Outside a tokio runtime, where the manager has no thread of its own.
    pub async fn store_id(&self) -> Result<StoreId, LockError> {
        let store = Arc::clone(&self.store);
        self.run(async move { store.store_id().await }).await
    }

    /// Runs a call of the store where all of them run, so that no connection of it depends on the caller's runtime.
    async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, LockError>> + Send + 'static,
    ) -> Result<T, LockError> {
        let answer = self.worker.runtime()?.spawn(call).await;
        answer
            .unwrap_or_else(|error| Err(LockError::with_source("manager", LockErrorKind::Unavailable, error)))
    }

    async fn serve(self, resource: Resource, owner: Handle, mut reply: Reply) {
        let seat = self.seat(&resource);
        let mut highest = tokio::select! {
            biased;
            () = reply.closed() => return,
            highest = seat.lock() => highest,
        };
        let Self { store, clock, config, holder, .. } = &self;
        let (store, clock) = (Arc::clone(store), Arc::clone(clock));
        let driver = Driver::new(store, clock, *config, resource, *holder, owner, *highest);
        // `self` stays until the end, and with it the thread.
        *highest = driver.run(reply).await;
    }

    fn seat(&self, resource: &Resource) -> Seat {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(seats.entry(resource.clone()).or_default())
    }
}

impl Default for LockManagerOptions {
    fn default() -> Self {
        Self { clock: Arc::new(BootClock), own_thread: true }
    }
}

impl fmt::Debug for LockManagerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManagerOptions").field("own_thread", &self.own_thread).finish_non_exhaustive()
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("holder", &self.holder)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
