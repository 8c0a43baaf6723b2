//! A store in memory that can restart, be set back, and commit one sin.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dapper_lock::{
    FencingToken, HeldBy, HolderId, LockError, LockErrorKind, LockStore, Renewal, Resource, StoreId, Term,
    TryAcquire,
};
use dapper_lock_conformance::{Harness, HarnessError, Suspect};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::sins::Sin;

const NEVER: Duration = Duration::from_secs(1 << 30);

/// The store itself, which outlives its handles.
pub(super) struct World {
    pub(super) sin: Option<Sin>,
    id: Mutex<StoreId>,
    leases: Mutex<Leases>,
    backup: Mutex<Leases>,
    freed: Notify,
    /// Those who wait in line, where a sin wants a line.
    line: Mutex<Vec<oneshot::Sender<()>>>,
}

#[derive(Clone, Default)]
struct Leases {
    entries: HashMap<String, Entry>,
    /// Terms that ran out and were followed.
    followed: Vec<Term>,
}

#[derive(Clone)]
struct Entry {
    holder: HolderId,
    token: u64,
    /// `None` once released.
    ends: Option<Instant>,
    /// Which handle the last grant went through.
    handle: usize,
}

impl Entry {
    fn running(&self, late: Duration) -> Option<Instant> {
        self.ends.filter(|ends| *ends + late > Instant::now())
    }

    fn is(&self, term: &Term) -> bool {
        (self.holder, self.token) == (term.holder, term.token.get())
    }
}

/// One client.
struct Handle {
    world: Arc<World>,
    number: usize,
    /// An identity of its own, where a sin wants one.
    id: StoreId,
    /// A call was dropped, and a sin makes it matter.
    broken: AtomicBool,
    /// The holder whose wait has ended, where a sin makes it matter.
    waited: Mutex<Option<HolderId>>,
    /// A password, with which no call succeeds.
    secret: Option<String>,
}

/// Breaks the handle unless the call comes to its end.
struct BreaksWhenDropped<'h>(Option<&'h AtomicBool>);

impl Drop for BreaksWhenDropped<'_> {
    fn drop(&mut self) {
        if let Some(broken) = self.0 {
            broken.store(true, Ordering::SeqCst);
        }
    }
}

impl World {
    pub(super) fn new(sin: Option<Sin>) -> Arc<Self> {
        let id = match sin {
            Some(Sin::EveryStoreHasTheSameIdentity) => SAME_FOR_ALL.parse().unwrap(),
            _ => StoreId::random(),
        };
        Arc::new(Self {
            sin,
            id: Mutex::new(id),
            leases: Mutex::default(),
            backup: Mutex::default(),
            freed: Notify::new(),
            line: Mutex::default(),
        })
    }

    fn has(&self, sin: Sin) -> bool {
        self.sin == Some(sin)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a resource.
    fn key(&self, resource: &Resource) -> String {
        let name = resource.as_str();
        match self.sin {
            Some(Sin::NamesAreLowerCased) => name.to_lowercase(),
            Some(Sin::NamesAreCutOff) => name.chars().take(63).collect(),
            _ => name.to_owned(),
        }
    }

    /// How late terms end.
    fn late(&self) -> Duration {
        if self.has(Sin::TermsEndMuchTooLate) { Duration::from_secs(10) } else { Duration::ZERO }
    }

    fn end_of(&self, ttl: Duration) -> Instant {
        let ttl = if self.has(Sin::TimesAreCutToSeconds) { Duration::from_secs(ttl.as_secs()) } else { ttl };
        Instant::now() + ttl
    }

    fn held_by(&self, entry: &Entry) -> Option<HeldBy> {
        let ends = entry.running(self.late())?;
        let unit = if self.has(Sin::RemainingIsInAnotherUnit) { 1_000 } else { 1 };
        let remaining = (ends - Instant::now()) * unit;
        Some(HeldBy { holder: entry.holder, token: token(entry.token), remaining })
    }

    fn wake(&self) {
        if self.has(Sin::TheFirstInLineIsWokenEvenIfGone) {
            let mut line = self.line.lock().unwrap();
            if !line.is_empty() {
                let _ = line.remove(0).send(());
            }
        } else if !self.has(Sin::ReleasesWakeNobody) {
            self.freed.notify_waiters();
        }
    }
}

const SAME_FOR_ALL: &str = "00000000-0000-4000-8000-000000000000";

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap_or(FencingToken::FIRST)
}

impl Handle {
    /// The way to the store.
    async fn reach(&self) -> Result<(), LockError> {
        yield_now().await;
        if let Some(secret) = &self.secret {
            let cause = if self.world.has(Sin::ErrorsShowThePassword) {
                format!("cannot connect with the password {secret}")
            } else {
                "cannot connect".to_owned()
            };
            return Err(LockError::with_source("model", LockErrorKind::Refused, cause));
        }
        if self.broken.load(Ordering::SeqCst) {
            let cause = "another call is under way";
            return Err(LockError::with_source("model", LockErrorKind::Unavailable, cause));
        }
        Ok(())
    }

    fn breaks_when_dropped(&self, sin: Sin) -> BreaksWhenDropped<'_> {
        BreaksWhenDropped(self.world.has(sin).then_some(&self.broken))
    }

    /// Who keeps the resource from `holder`.
    fn obstacle(&self, leases: &Leases, key: &str, holder: &HolderId) -> Option<HeldBy> {
        let world = &*self.world;
        let entry = leases.entries.get(key)?;
        if world.has(Sin::AWaitThatEndsMeansFree) && self.waited.lock().unwrap().take() == Some(*holder) {
            return None;
        }
        if world.has(Sin::AHolderMayTakeItAgain) && entry.holder == *holder {
            return None;
        }
        world.held_by(entry)
    }

    /// Writes a grant down.
    fn grant(&self, leases: &mut Leases, resource: &Resource, holder: &HolderId, ttl: Duration) -> u64 {
        let world = &*self.world;
        let key = world.key(resource);
        let last = leases.entries.get(&key);
        let expired = last.is_some_and(|last| last.ends.is_some());
        let keeps = last.is_some_and(|last| {
            (world.has(Sin::TheSameHolderKeepsItsToken) && !expired && last.holder == *holder)
                || (world.has(Sin::TokensOfExpiredTermsAreReused) && expired)
        });
        let number = last.map_or(1, |last| if keeps { last.token } else { last.token + 1 });
        if let Some(last) = last.filter(|_| expired) {
            let (holder, token) = (last.holder, token(last.token));
            leases.followed.push(Term { resource: resource.clone(), holder, token });
        }
        let entry =
            Entry { holder: *holder, token: number, ends: Some(world.end_of(ttl)), handle: self.number };
        leases.entries.insert(key, entry);
        number
    }
}

#[async_trait]
impl LockStore for Handle {
    async fn store_id(&self) -> Result<StoreId, LockError> {
        self.reach().await?;
        let own = self.world.has(Sin::EveryHandleHasAnIdentity);
        Ok(if own { self.id } else { *self.world.id.lock().unwrap() })
    }

    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError> {
        let world = &*self.world;
        let mut fragile = self.breaks_when_dropped(Sin::ADroppedTryBreaksTheHandle);
        let key = world.key(resource);
        let asked = Instant::now();
        self.reach().await?;
        if world.has(Sin::AHolderMayHoldOneResource) {
            let leases = world.leases();
            let others =
                leases.entries.iter().filter(|(name, entry)| **name != key && entry.holder == *holder);
            if let Some(held_by) = others.filter_map(|(_, entry)| world.held_by(entry)).next() {
                fragile.0 = None;
                return Ok(TryAcquire::Held(held_by));
            }
        }
        let is_late = asked.elapsed() >= ttl && world.has(Sin::LateTriesAreGranted);
        let obstacle = self.obstacle(&world.leases(), &key, holder).filter(|_| !is_late);
        if let Some(held_by) = obstacle {
            fragile.0 = None;
            return Ok(TryAcquire::Held(held_by));
        }
        if world.has(Sin::ItChecksFirstAndWritesLater) {
            yield_now().await;
        }
        let before = world.leases().clone();
        let number = self.grant(&mut world.leases(), resource, holder, ttl);
        let mut unconfirmed = Unconfirmed { world, key: &key, before: before.entries.get(&key).cloned() };
        yield_now().await;
        unconfirmed.before = None;
        unconfirmed.key = "";
        fragile.0 = None;
        Ok(TryAcquire::Granted(token(number)))
    }

    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError> {
        let world = &*self.world;
        let mut fragile = self.breaks_when_dropped(Sin::ADroppedRenewalBreaksTheHandle);
        self.reach().await?;
        let end = world.end_of(ttl);
        let renewed = {
            let mut leases = world.leases();
            let follower = leases.followed.contains(term) && world.has(Sin::StaleHoldersAreConfirmed);
            let any =
                leases.entries.values().any(|entry| entry.is(term) && entry.running(world.late()).is_some());
            let any = any && world.has(Sin::RenewalsIgnoreTheResource);
            match leases.entries.get_mut(&world.key(&term.resource)) {
                Some(entry) if world.renews(entry, term) => {
                    if !world.has(Sin::RenewalsDoNotLastLonger) {
                        entry.ends = Some(end);
                    }
                    true
                }
                _ => follower || any,
            }
        };
        yield_now().await;
        fragile.0 = None;
        Ok(if renewed { Renewal::Renewed } else { Renewal::NotHolder })
    }

    async fn release(&self, term: &Term) -> Result<(), LockError> {
        let world = &*self.world;
        self.reach().await?;
        if world.has(Sin::ReleasesNeverReturn) {
            std::future::pending::<()>().await;
        }
        let key = world.key(&term.resource);
        if world.has(Sin::ADroppedReleaseBlocksForEver) {
            if let Some(entry) = world.leases().entries.get_mut(&key).filter(|entry| entry.is(term)) {
                entry.ends = entry.ends.map(|_| Instant::now() + NEVER);
            }
            yield_now().await;
        }
        let known = {
            let mut leases = world.leases();
            let mut known = false;
            for (name, entry) in &mut leases.entries {
                let named = *name == key || world.has(Sin::ReleasesIgnoreTheResource);
                if named && world.releases(entry, term, self.number) {
                    known |= entry.ends.is_some();
                    entry.ends =
                        world.has(Sin::ReleasesTakeTime).then(|| Instant::now() + Duration::from_secs(4));
                }
            }
            if world.has(Sin::LateReleasesFreeTheNext)
                && leases.followed.contains(term)
                && let Some(entry) = leases.entries.get_mut(&key)
            {
                entry.ends = None;
            }
            known
        };
        world.wake();
        yield_now().await;
        if !known && world.has(Sin::ASecondReleaseIsAnError) {
            return Err(LockError::new("model", LockErrorKind::Refused));
        }
        Ok(())
    }

    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError> {
        self.reach().await?;
        let key = self.world.key(resource);
        let mut leases = self.world.leases();
        if self.world.has(Sin::LookingReserves) && !leases.entries.contains_key(&key) {
            let ends = Some(Instant::now() + NEVER);
            let entry = Entry { holder: HolderId::random(), token: 1, ends, handle: self.number };
            leases.entries.insert(key, entry);
            return Ok(None);
        }
        Ok(leases.entries.get(&key).and_then(|entry| self.world.held_by(entry)))
    }

    async fn wait(&self, resource: &Resource, holder: &HolderId, limit: Duration) -> Result<(), LockError> {
        let world = &*self.world;
        self.reach().await?;
        let freed = world.freed.notified();
        let held =
            world.leases().entries.get(&world.key(resource)).and_then(|entry| entry.running(world.late()));
        if let Some(ends) = held {
            let limit = limit.min(ends - Instant::now());
            if world.has(Sin::TheFirstInLineIsWokenEvenIfGone) {
                let (sender, woken) = oneshot::channel();
                world.line.lock().unwrap().push(sender);
                let _ = timeout(limit, woken).await;
            } else if world.has(Sin::WaitsIgnoreTheirLimit) {
                freed.await;
            } else {
                let _ = timeout(limit, freed).await;
            }
        }
        *self.waited.lock().unwrap() = Some(*holder);
        Ok(())
    }

    async fn ended(&self, _term: &Term) {
        if !self.world.has(Sin::EveryTermIsSaidToHaveEnded) {
            std::future::pending::<()>().await;
        }
    }
}

impl World {
    /// Whether `term` is what the entry says, so that it is renewed.
    fn renews(&self, entry: &Entry, term: &Term) -> bool {
        let token = entry.token == term.token.get() || self.has(Sin::RenewalsIgnoreTheToken);
        let holder = entry.holder == term.holder || self.has(Sin::RenewalsIgnoreTheHolder);
        let runs = match entry.ends {
            None => self.has(Sin::ReleasedTermsAreRenewed),
            Some(_) => entry.running(self.late()).is_some() || self.has(Sin::ExpiredTermsAreRevived),
        };
        token && holder && runs
    }

    /// Whether `term` is what the entry says, so that it is released.
    fn releases(&self, entry: &Entry, term: &Term, handle: usize) -> bool {
        let token = entry.token == term.token.get() || self.has(Sin::ReleasesIgnoreTheToken);
        let holder = entry.holder == term.holder || self.has(Sin::ReleasesIgnoreTheHolder);
        let handle = entry.handle == handle || !self.has(Sin::OnlyItsOwnHandleReleases);
        token && holder && handle
    }
}

/// Undoes the count of a grant whose reply was not received, where a sin wants it.
struct Unconfirmed<'w> {
    world: &'w World,
    key: &'w str,
    before: Option<Entry>,
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        if self.key.is_empty() || !self.world.has(Sin::OnlyReceivedTokensCount) {
            return;
        }
        let before = self.before.as_ref().map_or(0, |before| before.token);
        if let Some(entry) = self.world.leases().entries.get_mut(self.key) {
            entry.ends = None;
            entry.token = before;
        }
    }
}

/// A store that can do everything that a harness can be asked for, except living in several processes.
pub(super) struct Model {
    pub(super) world: Arc<World>,
    pub(super) handles: Mutex<usize>,
}

impl Model {
    fn handle(&self, secret: Option<String>) -> Handle {
        let mut number = self.handles.lock().unwrap();
        *number += 1;
        Handle {
            world: Arc::clone(&self.world),
            number: *number,
            id: StoreId::random(),
            broken: AtomicBool::new(false),
            waited: Mutex::default(),
            secret,
        }
    }
}

#[async_trait]
impl Harness for Model {
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(self.handle(None)))
    }

    async fn restart(&self) -> Result<(), HarnessError> {
        let world = &*self.world;
        let mut leases = world.leases();
        for entry in leases.entries.values_mut() {
            if world.has(Sin::ARestartForgetsTokens) && entry.ends.is_none() {
                entry.token = 0;
            }
            if world.has(Sin::ARestartFreesEverything) {
                entry.ends = None;
            }
        }
        if world.has(Sin::ARestartDrawsAnIdentity) {
            *world.id.lock().unwrap() = StoreId::random();
        }
        Ok(())
    }

    async fn back_up(&self) -> Result<(), HarnessError> {
        *self.world.backup.lock().unwrap() = self.world.leases().clone();
        Ok(())
    }

    async fn restore(&self) -> Result<(), HarnessError> {
        let mut leases = self.world.backup.lock().unwrap().clone();
        if self.world.has(Sin::RestoredTermsNeverEnd) {
            for entry in leases.entries.values_mut() {
                (entry.holder, entry.ends) = (HolderId::random(), Some(Instant::now() + NEVER));
            }
        }
        *self.world.leases() = leases;
        Ok(())
    }

    async fn open_with_secret(&self, canary: &str) -> Result<Vec<Suspect>, HarnessError> {
        let handle = self.handle(Some(canary.to_owned()));
        let debug = format!("{handle:?}");
        Ok(vec![Suspect { store: Arc::new(handle), debug }])
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Handle");
        if self.world.has(Sin::DebugShowsThePassword) {
            shown.field("secret", &self.secret);
        }
        shown.finish_non_exhaustive()
    }
}
