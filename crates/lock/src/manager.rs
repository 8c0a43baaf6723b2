//! Acquires leases and keeps them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::driver::{Driver, Reply};
use crate::{
    BootClock, Clock, FencingToken, HeldBy, HolderId, Lease, LeaseConfig, LockError, LockErrorKind,
    LockStore, Resource, StoreId,
};

/// Acquires leases from one store, under one identity.
///
/// A process makes one per store when it starts. Its identity is random, so a restarted process is a new holder.
#[derive(Clone)]
pub struct LockManager {
    store: Arc<dyn LockStore>,
    clock: Arc<dyn Clock>,
    config: LeaseConfig,
    holder: HolderId,
    seats: Arc<Mutex<HashMap<Resource, Seat>>>,
}

/// Held by whoever acquires or holds the resource through this manager, so that two of its callers never mistake each
/// other's term for a forgotten one. Remembers the highest token seen.
type Seat = Arc<AsyncMutex<Option<FencingToken>>>;

impl LockManager {
    /// A manager on the machine's own clock, [`BootClock`].
    #[must_use]
    pub fn new(store: Arc<dyn LockStore>, config: LeaseConfig) -> Self {
        Self::with_clock(store, config, Arc::new(BootClock))
    }

    /// A manager on another clock, for tests.
    #[must_use]
    pub fn with_clock(store: Arc<dyn LockStore>, config: LeaseConfig, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, config, holder: HolderId::random(), seats: Arc::default() }
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
        tokio::spawn(self.clone().serve(resource.clone(), reply));
        answer.await.unwrap_or_else(|_| Err(LockError::new("manager", LockErrorKind::Unavailable)))
    }

    /// Who holds the resource, `None` when nobody does. For display: the answer is old when it arrives.
    ///
    /// # Errors
    /// The store's error.
    pub async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        self.store.holder(resource).await
    }

    /// Which store it acquires from.
    ///
    /// # Errors
    /// The store's error.
    pub async fn store_id(&self) -> Result<StoreId, LockError> {
        self.store.store_id().await
    }

    async fn serve(self, resource: Resource, mut reply: Reply) {
        let seat = self.seat(&resource);
        let mut highest = tokio::select! {
            biased;
            () = reply.closed() => return,
            highest = seat.lock() => highest,
        };
        let driver = Driver::new(self.store, self.clock, self.config, resource, self.holder, *highest);
        *highest = driver.run(reply).await;
    }

    fn seat(&self, resource: &Resource) -> Seat {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(seats.entry(resource.clone()).or_default())
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
