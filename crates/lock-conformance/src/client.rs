//! Calls to a store, each bounded, each with a failure that says what happened.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dapper_lock::{
    HeldBy, HolderId, LockError, LockErrorKind, LockStore, Renewal, Resource, StoreId, Term, TryAcquire,
};
use tokio::time::{Instant, sleep, timeout};

use crate::case::{Stop, Verdict, chain, ensure};

/// The longest time that a call may take, other than `wait` and `ended`.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A time to live for terms that are not meant to run out.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// What "at once" and "soon" mean on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(2);
/// The pause between two tries.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);
/// How far two clocks, and the rounding of a time to live, may be apart.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(10);

/// A handle of the store.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) store: Arc<dyn LockStore>,
}

pub(crate) fn resource(name: &str) -> Verdict<Resource> {
    Resource::new(name).map_err(|error| Stop::Failed(format!("{name:?}: {error}")))
}

impl Client {
    pub(crate) async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Verdict<TryAcquire> {
        call("try_acquire", self.store.try_acquire(resource, holder, ttl)).await
    }

    /// Acquires a resource that must be free.
    pub(crate) async fn grant(&self, resource: &Resource, holder: HolderId, ttl: Duration) -> Verdict<Term> {
        match self.try_acquire(resource, &holder, ttl).await? {
            TryAcquire::Granted(token) => Ok(Term { resource: resource.clone(), holder, token }),
            TryAcquire::Held(by) => Err(Stop::Failed(format!(
                "{resource:?} must be free for {holder}, and try_acquire says that it is held: {by:?}"
            ))),
        }
    }

    /// Tries to acquire a resource that must not be granted.
    pub(crate) async fn refused(&self, resource: &Resource, holder: HolderId, why: &str) -> Verdict<HeldBy> {
        match self.try_acquire(resource, &holder, LONG).await? {
            TryAcquire::Held(by) => Ok(by),
            TryAcquire::Granted(token) => Err(Stop::Failed(format!(
                "{resource:?} was granted to {holder} with token {token}, although {why}"
            ))),
        }
    }

    /// Tries until the resource is granted; at `deadline` it must be. Failures that may pass are waited out.
    pub(crate) async fn granted_by(
        &self,
        resource: &Resource,
        holder: HolderId,
        ttl: Duration,
        deadline: Instant,
        why: &str,
    ) -> Verdict<Term> {
        loop {
            let asked = Instant::now();
            let answer = bounded("try_acquire", self.store.try_acquire(resource, &holder, ttl)).await?;
            let last = match answer {
                Ok(TryAcquire::Granted(token)) => {
                    return Ok(Term { resource: resource.clone(), holder, token });
                }
                Ok(TryAcquire::Held(by)) => format!("held: {by:?}"),
                Err(error) if error.is_transient() => chain(&error),
                Err(error) => return Err(failed("try_acquire", &error)),
            };
            ensure!(
                asked < deadline,
                "{resource:?} is not granted in time, although {why}; the last answer: {last}"
            );
            sleep(PAUSE).await;
        }
    }

    /// As [`granted_by`](Self::granted_by), with the store's own waiting between the tries.
    pub(crate) async fn granted_after_wait(
        &self,
        resource: &Resource,
        holder: HolderId,
        ttl: Duration,
        limit: Duration,
        why: &str,
    ) -> Verdict<Term> {
        let deadline = Instant::now() + limit;
        loop {
            match bounded("try_acquire", self.store.try_acquire(resource, &holder, ttl)).await? {
                Ok(TryAcquire::Granted(token)) => {
                    return Ok(Term { resource: resource.clone(), holder, token });
                }
                Ok(TryAcquire::Held(by)) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    ensure!(
                        !left.is_zero(),
                        "trying and waiting in turns did not get {resource:?} within {limit:?}, although {why}: {by:?}"
                    );
                    self.wait(resource, &holder, by.remaining.min(left)).await?;
                }
                Err(error) if error.is_transient() && Instant::now() < deadline => {}
                Err(error) => return Err(failed("try_acquire", &error)),
            }
            sleep(PAUSE / 10).await;
        }
    }

    /// Renews; a session that the store says is lost means that the term is over.
    pub(crate) async fn renew(&self, term: &Term, ttl: Duration) -> Verdict<Renewal> {
        match bounded("renew", self.store.renew(term, ttl)).await? {
            Err(error) if error.kind == LockErrorKind::SessionLost => Ok(Renewal::NotHolder),
            answer => answer.map_err(|error| failed("renew", &error)),
        }
    }

    /// The term must be running.
    pub(crate) async fn runs(&self, term: &Term, ttl: Duration, why: &str) -> Verdict {
        let renewal = self.renew(term, ttl).await?;
        ensure!(renewal == Renewal::Renewed, "renew answers NotHolder for {term:?}, although {why}");
        Ok(())
    }

    /// The term must not be running.
    pub(crate) async fn is_over(&self, term: &Term, ttl: Duration, why: &str) -> Verdict {
        let renewal = self.renew(term, ttl).await?;
        ensure!(renewal == Renewal::NotHolder, "renew answers Renewed for {term:?}, although {why}");
        Ok(())
    }

    pub(crate) async fn release(&self, term: &Term) -> Verdict {
        call("release", self.store.release(term)).await
    }

    pub(crate) async fn holder(&self, resource: &Resource) -> Verdict<Option<HeldBy>> {
        call("holder", self.store.holder(resource)).await
    }

    pub(crate) async fn store_id(&self) -> Verdict<StoreId> {
        call("store_id", self.store.store_id()).await
    }

    /// Waits; the call must end with its limit.
    pub(crate) async fn wait(&self, resource: &Resource, holder: &HolderId, limit: Duration) -> Verdict {
        let waited = timeout(limit + SOON, self.store.wait(resource, holder, limit)).await;
        match waited {
            Ok(answer) => answer.map_err(|error| failed("wait", &error)),
            Err(_) => Err(Stop::Failed(format!(
                "wait with a limit of {limit:?} did not end within {:?}",
                limit + SOON
            ))),
        }
    }

    /// The holder must be the very term.
    pub(crate) async fn holds(&self, term: &Term, why: &str) -> Verdict<HeldBy> {
        let found = self.holder(&term.resource).await?;
        match found {
            Some(by) if by.holder == term.holder && by.token == term.token => Ok(by),
            other => Err(Stop::Failed(format!("holder says {other:?} instead of {term:?}, although {why}"))),
        }
    }
}

async fn call<T>(what: &str, future: impl Future<Output = Result<T, LockError>>) -> Verdict<T> {
    bounded(what, future).await?.map_err(|error| failed(what, &error))
}

/// The answer of a call that must end by itself.
pub(crate) async fn bounded<T>(
    what: &str,
    future: impl Future<Output = Result<T, LockError>>,
) -> Verdict<Result<T, LockError>> {
    let answer = timeout(CALL_LIMIT, future).await;
    answer.map_err(|_| Stop::Failed(format!("{what} did not end within {CALL_LIMIT:?}")))
}

fn failed(what: &str, error: &LockError) -> Stop {
    Stop::Failed(format!("{what} failed: {}", chain(error)))
}
