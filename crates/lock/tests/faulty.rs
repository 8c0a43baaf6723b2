//! A store that can be told to misbehave, and a clock that follows tokio's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dapper_lock::{
    Clock, HeldBy, HolderId, LockError, LockErrorKind, LockStore, MemoryStore, Renewal, Resource, StoreId,
    Term, Timestamp, TryAcquire,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Follows tokio's clock, which tests pause and advance.
pub(crate) struct TokioClock(Instant);

impl TokioClock {
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        // One second after the origin, so that zero stays apart.
        Timestamp::from_origin(self.0.elapsed() + Duration::from_secs(1))
    }
}

/// How a [`Faulty`] store misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Requests never reach the store and fail.
    pub(crate) unreachable: bool,
    /// Tries are handled, but their answers get lost.
    pub(crate) lose_try_replies: bool,
    /// Renewals are handled, but their answers get lost.
    pub(crate) lose_renew_replies: bool,
    /// Answers to tries and renewals come so much later.
    pub(crate) reply_delay: Duration,
    /// The session of every term is gone.
    pub(crate) session_lost: bool,
    /// Every try is refused for good.
    pub(crate) refuse: bool,
    /// `wait` returns at once.
    pub(crate) eager: bool,
}

/// A store in memory behind a bad network.
pub(crate) struct Faulty {
    store: Arc<MemoryStore>,
    pub(crate) faults: watch::Sender<Faults>,
    pub(crate) tries: AtomicU32,
}

impl Faulty {
    pub(crate) fn over(store: Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self { store, faults: watch::Sender::default(), tries: AtomicU32::new(0) })
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    fn now(&self) -> Faults {
        *self.faults.borrow()
    }

    fn reach(&self) -> Result<(), LockError> {
        if self.now().unreachable { Err(error(LockErrorKind::Unavailable)) } else { Ok(()) }
    }
}

fn error(kind: LockErrorKind) -> LockError {
    LockError::with_source("faulty", kind, "as the test wants it")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockStore for Faulty {
    async fn store_id(&self) -> Result<StoreId, LockError> {
        self.reach()?;
        self.store.store_id().await
    }

    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        self.reach()?;
        if self.now().refuse {
            return Err(error(LockErrorKind::Refused));
        }
        let answer = self.store.try_acquire(resource, holder, ttl).await;
        sleep(self.now().reply_delay).await;
        if self.now().lose_try_replies { Err(error(LockErrorKind::Timeout)) } else { answer }
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        self.reach()?;
        let answer = self.store.renew(term, ttl).await;
        sleep(self.now().reply_delay).await;
        if self.now().lose_renew_replies { Err(error(LockErrorKind::Timeout)) } else { answer }
    }

    async fn release(&self, term: &Term) -> Result<(), LockError> {
        self.reach()?;
        self.store.release(term).await
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        self.reach()?;
        self.store.holder(resource).await
    }

    async fn wait(&self, resource: &Resource, holder: &HolderId, limit: Duration) -> Result<(), LockError> {
        self.reach()?;
        if self.now().eager {
            return Ok(());
        }
        self.store.wait(resource, holder, limit).await
    }

    async fn ended(&self, _term: &Term) {
        let _ = self.faults.subscribe().wait_for(|faults| faults.session_lost).await;
    }
}
