//! The store: which requests make up each call, on which connection.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dapper_lock::{HeldBy, HolderId, LockError, LockStore, Renewal, Resource, StoreId, Term, TryAcquire};
use etcd_client::{EventType, GetResponse};
use tokio::runtime::{self, Handle};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{sleep, timeout, timeout_at};
use uuid::Uuid;

use crate::connection::{Connection, Deadline};
use crate::error::EtcdLockError;
use crate::keys::{self, Entry, Keys};
use crate::options::{Endpoint, EtcdLockOptions};
use crate::requests::{self, Claim};
use crate::watch::Watch;

type Result<T, E = EtcdLockError> = std::result::Result<T, E>;

/// How long a call without a time to live of its own may take.
const ORDINARY: Duration = Duration::from_secs(5);
/// The least that a call may take, however short the time to live.
const SHORTEST: Duration = Duration::from_millis(500);
/// The pause after a watch for the end of a term has failed.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two tries to revoke an etcd lease in the background.
const REVOKE_PAUSE: Duration = Duration::from_millis(200);

/// Keeps leases in etcd. See the [crate](crate) for how, and for what it assumes.
///
/// It has one connection, to one member, made when it is first needed, and one to the next member when that fails; where
/// it is used in several runtimes, one in each.
/// Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct EtcdLockStore {
    inner: Arc<Inner>,
}

struct Inner {
    options: EtcdLockOptions,
    keys: Keys,
    /// For each runtime its own: a connection is served by the runtime that made it, which may be blocked, or end.
    places: Mutex<HashMap<runtime::Id, Arc<AsyncMutex<Place>>>>,
}

/// Where the store is connected, and to which endpoint it connects next.
#[derive(Default)]
struct Place {
    connection: Option<Arc<Connection>>,
    next: usize,
}

/// What answered to a [probe](EtcdLockStore::probe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The endpoint.
    pub endpoint: String,
    /// The version of etcd there.
    pub version: String,
}

impl EtcdLockStore {
    /// A store in the cluster that the options name. Connects when it is first used.
    #[must_use]
    pub fn new(options: EtcdLockOptions) -> Self {
        let keys = Keys::new(&options.prefix);
        Self { inner: Arc::new(Inner { options, keys, places: Mutex::default() }) }
    }

    /// Finds out whether the cluster can be reached and the user may do what a store does. Writes nothing.
    /// Cancel-safe; takes five seconds at most.
    ///
    /// # Errors
    /// As of any store; [`Refused`](dapper_lock::LockErrorKind::Refused) for a wrong user and for missing rights.
    pub async fn probe(&self) -> Result<Probed, LockError> {
        self.inner.probe().await.map_err(EtcdLockError::into_lock_error)
    }
}

#[async_trait]
impl LockStore for EtcdLockStore {
    async fn store_id(&self) -> Result<StoreId, LockError> {
        self.inner.store_id().await.map_err(EtcdLockError::into_lock_error)
    }

    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError> {
        self.inner.try_acquire(resource, holder, ttl).await.map_err(EtcdLockError::into_lock_error)
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        self.inner.renew(term, ttl).await.map_err(EtcdLockError::into_lock_error)
    }

    async fn release(&self, term: &Term) -> Result<(), LockError> {
        self.inner.release(term).await.map_err(EtcdLockError::into_lock_error)
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        self.inner.holder(resource).await.map_err(EtcdLockError::into_lock_error)
    }

    async fn wait(&self, resource: &Resource, _holder: &HolderId, limit: Duration) -> Result<(), LockError> {
        self.inner.wait(resource, limit).await.map_err(EtcdLockError::into_lock_error)
    }

    async fn ended(&self, term: &Term) {
        while let Err(error) = self.inner.wait_until_over(term).await {
            tracing::debug!(
                resource = %term.resource, error = &error as &dyn std::error::Error,
                "the end of the term is not watched"
            );
            sleep(WATCH_PAUSE).await;
        }
    }
}

impl Inner {
    async fn store_id(&self) -> Result<StoreId> {
        let (deadline, key) = (Deadline::after(ORDINARY), self.keys.store());
        let (connection, found) = self.read(&key, deadline).await?;
        match found.kvs().first() {
            Some(pair) => keys::read_store_id(pair),
            None => requests::make_store_id(&connection, &key, deadline).await,
        }
    }

    async fn try_acquire(
        self: &Arc<Self>,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire> {
        let (deadline, key) = (Deadline::after(limit_of(ttl)), self.keys.lease(resource));
        let (connection, found) = self.read(&key, deadline).await?;
        if let Some(entry) = Entry::find(&found)? {
            return Ok(TryAcquire::Held(held_by(&connection, entry, deadline).await?));
        }
        // The etcd lease first: whatever happens from here on, what is left behind ends with it.
        let lease = self.unowned_lease();
        requests::grant(&connection, lease.id, ttl, deadline).await?;
        match requests::claim(&connection, &key, holder, lease.id, deadline).await? {
            Claim::Made(token) => {
                lease.keep();
                Ok(TryAcquire::Granted(token))
            }
            Claim::Taken(entry) => Ok(TryAcquire::Held(held_by(&connection, entry, deadline).await?)),
        }
    }

    /// Keeps the etcd lease of the term alive, and then makes sure, by a quorum, that it still was the term's: a member
    /// that does not know yet that it leads no more keeps alive whatever it is asked to.
    async fn renew(self: &Arc<Self>, term: &Term, ttl: Duration) -> Result<Renewal> {
        let (deadline, key) = (Deadline::after(limit_of(ttl)), self.keys.lease(&term.resource));
        let (connection, found) = self.read(&key, deadline).await?;
        let Some(entry) = Entry::find_of(&found, term) else { return Ok(Renewal::NotHolder) };
        let Some(kept) = requests::keep_alive(&connection, entry.lease, deadline).await? else {
            return Ok(Renewal::NotHolder);
        };
        let is_the_terms = if kept >= ttl {
            requests::verify(&connection, &key, term, deadline).await?
        } else {
            // An etcd lease has the same time to live for ever: a longer one needs another.
            let longer = self.unowned_lease();
            requests::grant(&connection, longer.id, ttl, deadline).await?;
            // From here on the term may live with it, whether or not that is answered: it must not be revoked.
            let longer = longer.keep();
            let is_bound = requests::rebind(&connection, &key, term, longer, deadline).await?;
            drop(self.unowned(if is_bound { entry.lease } else { longer }));
            is_bound
        };
        Ok(if is_the_terms { Renewal::Renewed } else { Renewal::NotHolder })
    }

    async fn release(self: &Arc<Self>, term: &Term) -> Result<()> {
        let (deadline, key) = (Deadline::after(ORDINARY), self.keys.lease(&term.resource));
        let (connection, found) = self.read(&key, deadline).await?;
        let Some(entry) = Entry::find_of(&found, term) else { return Ok(()) };
        requests::release(&connection, &key, term, deadline).await?;
        drop(self.unowned(entry.lease));
        Ok(())
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>> {
        let deadline = Deadline::after(ORDINARY);
        let (connection, found) = self.read(&self.keys.lease(resource), deadline).await?;
        match Entry::find(&found)? {
            Some(entry) => Ok(Some(held_by(&connection, entry, deadline).await?)),
            None => Ok(None),
        }
    }

    async fn wait(&self, resource: &Resource, limit: Duration) -> Result<()> {
        let key = self.keys.lease(resource);
        let gone = async {
            let deadline = Deadline::after(ORDINARY);
            let (connection, found) = self.read(&key, deadline).await?;
            if found.kvs().is_empty() {
                return Ok(());
            }
            let mut watch = Watch::from(&connection, &key, &found, deadline).await?;
            watch.until_changed(|event| event.event_type() == EventType::Delete).await
        };
        // When the time is up, a try may be worth it just as well.
        timeout(limit, gone).await.unwrap_or(Ok(()))
    }

    /// Returns when the key is no longer that of this very term. An error says nothing about that.
    async fn wait_until_over(&self, term: &Term) -> Result<()> {
        let key = self.keys.lease(&term.resource);
        loop {
            let deadline = Deadline::after(ORDINARY);
            let (connection, found) = self.read(&key, deadline).await?;
            if Entry::find_of(&found, term).is_none() {
                return Ok(());
            }
            // The holder itself may have bound the key to another etcd lease: so look again.
            Watch::from(&connection, &key, &found, deadline).await?.until_changed(|_| true).await?;
        }
    }

    async fn probe(&self) -> Result<Probed> {
        let deadline = Deadline::after(ORDINARY);
        let connection = self.connection(deadline).await?;
        let lease = format!("{}probe", self.keys.leases());
        requests::check_rights(&connection, &self.keys.store(), &lease, deadline).await?;
        let version = requests::version(&connection, deadline).await?;
        Ok(Probed { endpoint: connection.endpoint().to_string(), version })
    }

    /// Reads a key, from a quorum, and says over which connection. Every call begins with this: a connection that has
    /// ended since the last one shows here, and a new one takes its place.
    async fn read(&self, key: &str, deadline: Deadline) -> Result<(Arc<Connection>, GetResponse)> {
        let mut connection = self.connection(deadline).await?;
        let mut found = requests::read(&connection, key, deadline).await;
        if found.is_err() && !connection.is_usable() && !deadline.remaining().is_zero() {
            connection = self.connection(deadline).await?;
            found = requests::read(&connection, key, deadline).await;
        }
        Ok((connection, found?))
    }

    /// The connection, if it is as good as it was; else a new one, which has shown that a quorum is behind it.
    async fn connection(&self, deadline: Deadline) -> Result<Arc<Connection>> {
        let late = |_| EtcdLockError::RequestTimeout { task: "connect", limit: deadline.limit };
        let place = Arc::clone(self.places().entry(Handle::current().id()).or_default());
        let mut place = timeout_at(deadline.end, place.lock()).await.map_err(late)?;
        if let Some(connection) = &place.connection
            && connection.is_usable()
        {
            return Ok(Arc::clone(connection));
        }
        place.connection = None;
        let endpoints = &self.options.endpoints;
        let mut last = EtcdLockError::NoEndpoint;
        for left in (1..=endpoints.len()).rev() {
            let endpoint = &endpoints[place.next % endpoints.len()];
            // Whatever comes of this one, it is another's turn the next time.
            place.next = (place.next + 1) % endpoints.len();
            let limit = deadline.share(left).min(self.options.connect_timeout);
            match timeout(limit, self.open(endpoint, limit)).await {
                Ok(Ok(connection)) => {
                    let connection = Arc::new(connection);
                    place.connection = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Ok(Err(error)) if error.is_refused() => return Err(error),
                Ok(Err(error)) => last = error,
                Err(_) => last = EtcdLockError::ConnectTimeout { endpoint: endpoint.to_string(), limit },
            }
        }
        Err(last)
    }

    async fn open(&self, endpoint: &Endpoint, limit: Duration) -> Result<Connection> {
        let connection = Connection::open(&self.options, endpoint, limit).await?;
        let read = requests::read(&connection, &self.keys.store(), Deadline::after(limit)).await;
        read.map_err(|error| error.while_connecting(endpoint))?;
        Ok(connection)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<runtime::Id, Arc<AsyncMutex<Place>>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn revoke(&self, lease: i64, deadline: Deadline) -> Result<()> {
        let connection = self.connection(deadline).await?;
        requests::revoke(&connection, lease, deadline).await
    }

    /// An id for an etcd lease that is not made yet.
    fn unowned_lease(self: &Arc<Self>) -> Unowned {
        // Random enough to be nobody else's, and never negative or zero.
        let (number, _) = Uuid::new_v4().as_u64_pair();
        self.unowned(i64::try_from(number >> 1).unwrap_or(i64::MAX))
    }

    fn unowned(self: &Arc<Self>, id: i64) -> Unowned {
        Unowned { inner: Arc::clone(self), id, is_kept: false }
    }
}

/// An etcd lease that is revoked in the background unless somebody keeps it: best effort, since it ends by itself.
struct Unowned {
    inner: Arc<Inner>,
    id: i64,
    is_kept: bool,
}

impl Unowned {
    fn keep(mut self) -> i64 {
        self.is_kept = true;
        self.id
    }
}

impl Drop for Unowned {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_kept {
            return;
        }
        let (inner, id) = (Arc::clone(&self.inner), self.id);
        runtime.spawn(async move {
            let deadline = Deadline::after(ORDINARY);
            while let Err(error) = inner.revoke(id, deadline).await {
                if deadline.remaining() < REVOKE_PAUSE {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "an etcd lease that nobody uses was not revoked; it ends by itself"
                    );
                    return;
                }
                sleep(REVOKE_PAUSE).await;
            }
        });
    }
}

/// Who holds, and for how long.
async fn held_by(connection: &Connection, entry: Entry, deadline: Deadline) -> Result<HeldBy> {
    let remaining = requests::remaining(connection, entry.lease, deadline).await?;
    // An etcd lease ends a little later than its time. Until then the key is there, and its watchers are told.
    let remaining = remaining.max(Duration::from_secs(1));
    Ok(HeldBy { holder: entry.holder, token: entry.token, remaining })
}

/// How long a call may take under a lease of `ttl`: so long that the next one, to another member, is still in time.
fn limit_of(ttl: Duration) -> Duration {
    (ttl / 3).max(SHORTEST)
}

impl fmt::Debug for EtcdLockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLockStore").field("options", &self.inner.options).finish_non_exhaustive()
    }
}
