//! [`LockStore`] on PostgreSQL.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dapper_connect::ConnectionString;
use dapper_lock::{
    FencingToken, HeldBy, HolderId, LockError, LockStore, Renewal, Resource, StoreId, Term, TryAcquire,
};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::error::PostgresLockError;
use crate::install::{self, install, is_pooled};
use crate::lease::{self, Standing};
use crate::options::PostgresLockOptions;
use crate::session::{self, SLICE, Session};
use crate::sql::{self, Statements};

type Result<T, E = PostgresLockError> = std::result::Result<T, E>;

/// How long a session without a term is kept for its holder's next call.
const IDLE: Duration = Duration::from_secs(2);
/// The pause between two looks at a lease whose end no session lock would tell.
const POLL: Duration = Duration::from_millis(1_250);
/// How long a call without a time to live of its own may take: releasing and asking on a connection of its own.
const ORDINARY: Duration = Duration::from_secs(5);

/// Keeps leases in a table of a PostgreSQL database. See the [crate](crate) for how, and for what it assumes.
///
/// Each resource and holder that holds or waits has a connection of its own; a holder keeps it for as long as it holds.
/// Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct PostgresLockStore {
    inner: Arc<Inner>,
}

struct Inner {
    connection: ConnectionString,
    options: PostgresLockOptions,
    statements: Statements,
    /// The table's identity, once it was found and the sessions were examined.
    ready: AsyncMutex<Option<StoreId>>,
    /// Whether sessions are not to be relied upon: by option, or because a pooler shares them.
    shared: AtomicBool,
    slots: Mutex<HashMap<(Resource, HolderId), Arc<Slot>>>,
}

/// What one holder has going for one resource.
#[derive(Default)]
struct Slot {
    state: AsyncMutex<SlotState>,
    /// The term that runs, and how its session's end shows. Apart from the state, which a call may keep locked.
    running: Mutex<Option<(FencingToken, watch::Receiver<bool>)>>,
}

/// A call takes the session out and puts it back at its end, so that a call which is dropped midway, with a statement
/// perhaps still running, takes the session with it.
#[derive(Default)]
struct SlotState {
    session: Option<Session>,
    /// How many calls there have been.
    calls: u64,
}

impl PostgresLockStore {
    /// A store that connects as the connection string says; how soon a server that is gone is noticed follows from the time
    /// to live, whatever it says of that. Connects when it is first used.
    #[must_use]
    pub fn new(connection: ConnectionString, options: PostgresLockOptions) -> Self {
        let inner = Inner {
            connection,
            statements: Statements::new(&options.schema),
            shared: AtomicBool::new(!options.use_sessions),
            options,
            ready: AsyncMutex::default(),
            slots: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes the schema and the table unless they are there, and examines the server. Every acquisition does so by
    /// itself; calling it tells early whether the server and the rights will do. Cancel-safe.
    ///
    /// # Errors
    /// [`Refused`](dapper_lock::LockErrorKind::Refused) for a standby and for missing rights, else as of any store.
    pub async fn install(&self) -> Result<(), LockError> {
        self.store_id().await.map(|_| ())
    }

    /// The statements that [`install`](Self::install) would run now; none when the table is there. Changes nothing.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As of any store.
    pub async fn plan_install(&self) -> Result<Vec<String>, LockError> {
        let plan = async {
            let session = self.inner.open("dapper-lock", ORDINARY).await?;
            let plan = install::plan(&session, &self.inner.statements).await?;
            session.close();
            Ok(plan)
        };
        plan.await.map_err(PostgresLockError::into_lock_error)
    }
}

#[async_trait]
impl LockStore for PostgresLockStore {
    async fn store_id(&self) -> Result<StoreId, LockError> {
        self.inner.make_ready(ORDINARY).await.map_err(PostgresLockError::into_lock_error)
    }

    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError> {
        let result = self.inner.try_acquire(resource, holder, ttl).await;
        result.map_err(PostgresLockError::into_lock_error)
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        self.inner.renew(term, ttl).await
    }

    async fn release(&self, term: &Term) -> Result<(), LockError> {
        self.inner.release(term).await.map_err(PostgresLockError::into_lock_error)
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        self.inner.holder(resource).await.map_err(PostgresLockError::into_lock_error)
    }

    async fn wait(&self, resource: &Resource, holder: &HolderId, limit: Duration) -> Result<(), LockError> {
        self.inner.wait(resource, holder, limit).await.map_err(PostgresLockError::into_lock_error)
    }

    async fn ended(&self, term: &Term) {
        let slot = self.inner.existing_slot(&term.resource, &term.holder);
        let running = slot.and_then(|slot| slot.running().clone());
        if let Some((_, mut closed)) = running.filter(|(token, _)| *token == term.token) {
            // An error means that the session was given up, which ends the term just as well.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }
}

impl Inner {
    async fn try_acquire(&self, resource: &Resource, holder: &HolderId, ttl: Duration) -> Result<TryAcquire> {
        let slot = self.slot(resource, holder);
        let mut state = slot.state.lock().await;
        state.calls += 1;
        let usable =
            |session: &Session| !session.is_closed() && (session.limit == ttl || session.term.is_some());
        let mut session = match state.session.take().filter(usable) {
            Some(session) => session,
            None => self.open_for(resource, ttl).await?,
        };
        let key = self.key(resource);
        let outcome = lease::grant(&mut session, &self.statements, key, resource, holder, ttl).await;
        let outcome = outcome.inspect_err(|error| self.learn(error))?;
        if let TryAcquire::Granted(token) = &outcome {
            *slot.running() = Some((*token, session.closed()));
        }
        state.session = Some(session);
        expire_idle(&slot, &state);
        Ok(outcome)
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        let gone = || PostgresLockError::SessionGone.into_session_lost();
        let slot = self.existing_slot(&term.resource, &term.holder).ok_or_else(gone)?;
        let mut state = slot.state.lock().await;
        state.calls += 1;
        let mut session = state.session.take().ok_or_else(gone)?;
        if session.term != Some(term.token) {
            state.session = Some(session);
            return Ok(Renewal::NotHolder);
        }
        if session.is_closed() {
            return Err(gone());
        }
        let key = self.key(&term.resource);
        match lease::renew(&mut session, &self.statements, key, term, ttl).await {
            Ok(renewal) => {
                state.session = Some(session);
                expire_idle(&slot, &state);
                Ok(renewal)
            }
            Err(error) if error.leaves_session() => {
                state.session = Some(session);
                Err(error.into_lock_error())
            }
            Err(error) => {
                self.learn(&error);
                Err(error.into_session_lost())
            }
        }
    }

    async fn release(&self, term: &Term) -> Result<()> {
        if let Some(slot) = self.existing_slot(&term.resource, &term.holder) {
            let mut state = slot.state.lock().await;
            state.calls += 1;
            if let Some(mut session) = state.session.take().filter(|session| !session.is_closed()) {
                if session.term == Some(term.token) {
                    let key = self.key(&term.resource);
                    if lease::release_and_unlock(&mut session, &self.statements, key, term).await.is_ok() {
                        session.close();
                        return Ok(());
                    }
                } else if lease::release(&session, &self.statements, term).await.is_ok() {
                    state.session = Some(session);
                    expire_idle(&slot, &state);
                    return Ok(());
                }
            }
        }
        // The term's session is gone. Releasing is safe on any: nobody acts on the term any more.
        let session = self.open("dapper-lock", ORDINARY).await?;
        lease::release(&session, &self.statements, term).await?;
        session.close();
        Ok(())
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>> {
        let session = self.open("dapper-lock", ORDINARY).await?;
        let standing = match lease::standing(&session, &self.statements, resource).await {
            Err(error) if error.is_not_installed() => Standing::Free,
            other => other?,
        };
        session.close();
        Ok(match standing {
            Standing::Free => None,
            Standing::Held { held_by, .. } => Some(held_by),
        })
    }

    async fn wait(&self, resource: &Resource, holder: &HolderId, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let slot = self.slot(resource, holder);
        let mut state = slot.state.lock().await;
        state.calls += 1;
        let can_wait = |session: &Session| {
            !session.is_closed() && session.holder_has_lock && session.term.is_none() && !session.shared
        };
        if !state.session.as_ref().is_some_and(can_wait) {
            drop(state);
            sleep(limit.min(POLL)).await;
            return Ok(());
        }
        let Some(mut session) = state.session.take() else { return Ok(()) };
        let key = self.key(resource);
        loop {
            // No longer than the server lets a statement run.
            let part = end.duration_since(Instant::now()).min(session.limit.max(SLICE));
            if part.is_zero() || lease::wait_for_lock(&mut session, key, part).await? {
                break;
            }
        }
        state.session = Some(session);
        expire_idle(&slot, &state);
        Ok(())
    }

    /// A session for a resource, on a server that is ready for leases.
    async fn open_for(&self, resource: &Resource, ttl: Duration) -> Result<Session> {
        self.make_ready(ttl).await?;
        let mut session = self.open(&format!("dapper-lock {resource}"), ttl).await?;
        if session.shared {
            self.learn(&PostgresLockError::SessionShared);
        }
        session.shared = self.shared.load(Ordering::Relaxed);
        // Behind a pooler the settings would stay with sessions that serve others.
        if !session.shared {
            session.configure().await?;
        }
        Ok(session)
    }

    async fn open(&self, application_name: &str, ttl: Duration) -> Result<Session> {
        let config = session::prepare(&self.connection, application_name, ttl);
        let limit = self.options.connect_timeout;
        let session = timeout(limit, Session::connect(&self.connection, &config, (limit, ttl))).await;
        session.unwrap_or(Err(PostgresLockError::ConnectTimeout { limit }))
    }

    async fn make_ready(&self, ttl: Duration) -> Result<StoreId> {
        let mut ready = self.ready.lock().await;
        if let Some(id) = *ready {
            return Ok(id);
        }
        // Several replicas may be installing, one after the other.
        let limit = ttl.max(ORDINARY);
        let one = self.open("dapper-lock", limit).await?;
        if !self.shared.load(Ordering::Relaxed) {
            let two = self.open("dapper-lock", limit).await?;
            if is_pooled(&one, &two).await? {
                self.learn(&PostgresLockError::SessionShared);
            }
            two.close();
        }
        let id = install(&one, &self.statements, &self.options.schema).await?;
        one.close();
        *ready = Some(id);
        Ok(id)
    }

    /// Draws conclusions for later calls.
    fn learn(&self, error: &PostgresLockError) {
        if matches!(error, PostgresLockError::SessionShared) && !self.shared.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a pooler shares the sessions behind this connection: \
                 a dead holder will be followed only when its time to live has passed"
            );
        }
        if error.is_not_installed()
            && let Ok(mut ready) = self.ready.try_lock()
        {
            *ready = None;
        }
    }

    fn key(&self, resource: &Resource) -> i64 {
        sql::advisory_key("session", &self.options.schema, resource.as_str())
    }

    fn slot(&self, resource: &Resource, holder: &HolderId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry((resource.clone(), *holder)).or_default())
    }

    fn existing_slot(&self, resource: &Resource, holder: &HolderId) -> Option<Arc<Slot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&(resource.clone(), *holder)).cloned()
    }
}

impl Slot {
    fn running(&self) -> std::sync::MutexGuard<'_, Option<(FencingToken, watch::Receiver<bool>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the slot's session if it has no term and nobody calls again for a while.
fn expire_idle(slot: &Arc<Slot>, state: &SlotState) {
    if state.session.as_ref().is_none_or(|session| session.term.is_some()) {
        return;
    }
    let (slot, calls) = (Arc::downgrade(slot), state.calls);
    tokio::spawn(async move {
        sleep(IDLE).await;
        let Some(slot) = slot.upgrade() else { return };
        // A call that is under way will see to it.
        let Ok(mut state) = slot.state.try_lock() else { return };
        if state.calls == calls
            && let Some(session) = state.session.take()
        {
            session.close();
        }
    });
}

impl fmt::Debug for PostgresLockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the configuration: it has the password.
        f.debug_struct("PostgresLockStore").field("options", &self.inner.options).finish_non_exhaustive()
    }
}
