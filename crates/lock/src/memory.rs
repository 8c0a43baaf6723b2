//! A store in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::{
    BootClock, Clock, FencingToken, HeldBy, HolderId, LockError, LockErrorKind, LockStore, Renewal, Resource,
    StoreId, Term, Timestamp, TryAcquire,
};

/// Keeps leases in memory: for tests, and for pipelines that run in one process. Share it through an `Arc`.
///
/// Tokens start at one again when the process does, so nothing that outlives the process can be fenced by them, and two
/// processes do not exclude each other: its identity is [`StoreId::EPHEMERAL`].
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<Resource, Entry>>,
    freed: Notify,
}

/// The last grant of a resource; stays when it is over, because of the token.
struct Entry {
    holder: HolderId,
    token: FencingToken,
    /// `None` once released.
    expires_at: Option<Timestamp>,
}

impl MemoryStore {
    /// An empty store on the machine's own clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(BootClock))
    }

    /// An empty store on another clock, for tests.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, entries: Mutex::default(), freed: Notify::new() }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Resource, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_by(&self, resource: &Resource) -> Option<HeldBy> {
        self.entries().get(resource).and_then(|entry| entry.held_by(self.clock.now()))
    }
}

impl Entry {
    fn held_by(&self, now: Timestamp) -> Option<HeldBy> {
        let remaining = self.expires_at?.since(now);
        let held_by = HeldBy { holder: self.holder, token: self.token, remaining };
        (!remaining.is_zero()).then_some(held_by)
    }

    fn is(&self, term: &Term) -> bool {
        self.holder == term.holder && self.token == term.token
    }
}

#[async_trait]
impl LockStore for MemoryStore {
    async fn store_id(&self) -> Result<StoreId, LockError> {
        Ok(StoreId::EPHEMERAL)
    }

    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError> {
        let mut entries = self.entries();
        let now = self.clock.now();
        let last = entries.get(resource);
        if let Some(held_by) = last.and_then(|entry| entry.held_by(now)) {
            return Ok(TryAcquire::Held(held_by));
        }
        let token = last.map_or(Some(FencingToken::FIRST), |entry| entry.token.next());
        let Some(token) = token else {
            return Err(LockError::with_source("memory", LockErrorKind::Refused, "the tokens are used up"));
        };
        let entry = Entry { holder: *holder, token, expires_at: Some(now.after(ttl)) };
        entries.insert(resource.clone(), entry);
        Ok(TryAcquire::Granted(token))
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        let mut entries = self.entries();
        let now = self.clock.now();
        match entries.get_mut(&term.resource) {
            Some(entry) if entry.is(term) && entry.held_by(now).is_some() => {
                entry.expires_at = Some(now.after(ttl));
                Ok(Renewal::Renewed)
            }
            _ => Ok(Renewal::NotHolder),
        }
    }

    async fn release(&self, term: &Term) -> Result<(), LockError> {
        if let Some(entry) = self.entries().get_mut(&term.resource).filter(|entry| entry.is(term)) {
            entry.expires_at = None;
        }
        self.freed.notify_waiters();
        Ok(())
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        Ok(self.held_by(resource))
    }

    async fn wait(&self, resource: &Resource, _holder: &HolderId, limit: Duration) -> Result<(), LockError> {
        // Armed before the look, so that a release in between is not missed.
        let freed = self.freed.notified();
        if let Some(held_by) = self.held_by(resource) {
            // Either the resource was freed or the time is up; both mean that a try may be worth it.
            let _ = timeout(limit.min(held_by.remaining), freed).await;
        }
        Ok(())
    }

    async fn ended(&self, _term: &Term) {
        // There are no sessions, and a term that ends otherwise is noticed when it is renewed.
        std::future::pending::<()>().await;
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}
