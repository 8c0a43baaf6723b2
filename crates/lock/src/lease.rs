//! What a holder has in its hands.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{oneshot, watch};

use crate::{Clock, FencingToken, LockError, LockErrorKind, Resource, Term, Timestamp};

/// The right to act for a resource, until it is lost or released.
///
/// It is renewed in the background, whatever its holder does, for as long as the holder's runtime runs anything at
/// all; see [`LockManager`](crate::LockManager). Dropping it ends its validity at once and releases it in the
/// background, best effort.
pub struct Lease {
    term: Term,
    shared: Arc<Shared>,
    release: Option<oneshot::Sender<ReleaseReply>>,
}

/// Asks whether a [`Lease`] is still valid, from anywhere and without keeping it alive. Cheap to clone.
#[derive(Clone)]
pub struct LeaseValidity {
    shared: Arc<Shared>,
}

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// No renewal was confirmed in time; the store may or may not have given the resource to another.
    Expired,
    /// The store said that the term is over.
    NotHolder,
    /// The session that the term lived in is gone.
    SessionLost,
    /// The holder gave it up through [`Lease::revoke`].
    Revoked,
    /// The holder released or dropped it.
    Released,
    /// The runtime on which it was acquired shut down.
    Abandoned,
}

pub(crate) type ReleaseReply = oneshot::Sender<Result<(), LockError>>;

/// The end of trust, shared by the lease, its validity handles and the task that renews it.
pub(crate) struct Shared {
    resource: Resource,
    token: FencingToken,
    clock: Arc<dyn Clock>,
    /// Nanoseconds from the clock's origin; [`OVER`] once the lease is over, which it then stays. One word, so that
    /// "has it ended" and "let it run on" can't pass each other: a lease that was seen as ended is never extended.
    valid_until: AtomicU64,
    reason: watch::Sender<Option<LossReason>>,
}

const OVER: u64 = 0;

impl Lease {
    pub(crate) fn new(term: Term, shared: Arc<Shared>, release: oneshot::Sender<ReleaseReply>) -> Self {
        Self { term, shared, release: Some(release) }
    }

    /// The grant: resource, holder and token.
    #[must_use]
    pub fn term(&self) -> &Term {
        &self.term
    }

    /// The number of the grant. Pass it on with everything that is done under the lease.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.term.token
    }

    /// Whether the holder may act now. Reads the clock and some memory, never waits; once false, false for ever. Ask
    /// it immediately before each act.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.shared.is_valid()
    }

    /// A handle that answers [`is_valid`](Self::is_valid) elsewhere.
    #[must_use]
    pub fn validity(&self) -> LeaseValidity {
        LeaseValidity { shared: Arc::clone(&self.shared) }
    }

    /// Waits until the lease is over and says why. By then [`is_valid`](Self::is_valid) is false.
    ///
    /// It relies on timers, which stand still while the machine is suspended, so it can come late;
    /// [`is_valid`](Self::is_valid) does not. Cancel-safe.
    pub async fn lost(&self) -> LossReason {
        self.shared.over().await
    }

    /// Stops being valid, right now and for ever, without telling the store: others get the resource when the lease is
    /// released or dropped, or when its time to live has passed.
    pub fn revoke(&self) {
        self.shared.end(LossReason::Revoked);
    }

    /// Stops being valid and gives the resource back.
    ///
    /// The store has the time to live, five seconds at most, to confirm, and is asked again while it can't. Dropping the
    /// call does not stop the release.
    ///
    /// # Errors
    /// The store's error, or [`Timeout`](LockErrorKind::Timeout). The resource then becomes free when its time to live
    /// has passed.
    pub async fn release(mut self) -> Result<(), LockError> {
        self.shared.end(LossReason::Released);
        let stopped =
            || LockError::with_source("manager", LockErrorKind::Unavailable, "the runtime shut down");
        let Some(release) = self.release.take() else { return Err(stopped()) };
        let (reply, answer) = oneshot::channel();
        release.send(reply).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The task learns of it from the sender that is dropped with the lease, and releases the term.
        self.shared.end(LossReason::Released);
    }
}

impl LeaseValidity {
    /// Whether the holder may act now; see [`Lease::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.shared.is_valid()
    }

    /// The number of the grant.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.shared.token
    }

    /// Waits until the lease is over and says why; see [`Lease::lost`]. Cancel-safe.
    pub async fn lost(&self) -> LossReason {
        self.shared.over().await
    }
}

impl Shared {
    pub(crate) fn new(term: &Term, clock: Arc<dyn Clock>, valid_until: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            resource: term.resource.clone(),
            token: term.token,
            clock,
            valid_until: AtomicU64::new(nanos(valid_until)),
            reason: watch::Sender::new(None),
        })
    }

    fn is_valid(&self) -> bool {
        let mut until = self.valid_until.load(Ordering::Acquire);
        loop {
            // Zero, which is "over", is never later than now.
            if nanos(self.clock.now()) < until {
                return true;
            }
            if until == OVER {
                return false;
            }
            match self.valid_until.compare_exchange(until, OVER, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.publish(LossReason::Expired);
                    return false;
                }
                // Extended in between, or ended by somebody else.
                Err(current) => until = current,
            }
        }
    }

    /// Lets it run on until `valid_until`; false when it is over.
    pub(crate) fn extend(&self, valid_until: Timestamp) -> bool {
        let extend = |until| (until != OVER).then(|| nanos(valid_until).max(until));
        self.valid_until.fetch_update(Ordering::AcqRel, Ordering::Acquire, extend).is_ok()
    }

    /// Ends it, unless it is over already.
    pub(crate) fn end(&self, reason: LossReason) {
        if self.valid_until.swap(OVER, Ordering::AcqRel) != OVER {
            self.publish(reason);
        }
    }

    /// Waits until it is over.
    pub(crate) async fn over(&self) -> LossReason {
        let mut reasons = self.reason.subscribe();
        // The sender lives in `self`, so the channel can't close while this waits.
        let reason = reasons.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or(LossReason::Abandoned)
    }

    /// Called by the one who ended it, after it ended.
    fn publish(&self, reason: LossReason) {
        let (resource, token, at_ns) = (&self.resource, self.token.get(), nanos(self.clock.now()));
        match reason {
            LossReason::Released | LossReason::Revoked => {
                tracing::debug!(%resource, token, ?reason, at_ns, "lease ended by its holder");
            }
            _ => tracing::warn!(%resource, token, ?reason, at_ns, "lease lost"),
        }
        self.reason.send_replace(Some(reason));
    }
}

/// Ends the lease when a task that it needs is dropped by its runtime.
pub(crate) struct EndOnDrop(pub(crate) Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(LossReason::Abandoned);
    }
}

/// Nanoseconds from the clock's origin.
pub(crate) fn nanos(timestamp: Timestamp) -> u64 {
    // Enough for 584 years.
    u64::try_from(timestamp.since_origin().as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("term", &self.term).finish_non_exhaustive()
    }
}

impl fmt::Debug for LeaseValidity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { resource, token, .. } = &*self.shared;
        f.debug_struct("LeaseValidity")
            .field("resource", resource)
            .field("token", token)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HolderId;
    use std::time::Duration;

    struct Manual(AtomicU64);

    impl Clock for Manual {
        fn now(&self) -> Timestamp {
            at(self.0.load(Ordering::SeqCst))
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    fn shared() -> (Arc<Shared>, Arc<Manual>) {
        let clock = Arc::new(Manual(AtomicU64::new(1)));
        let term = Term {
            resource: Resource::new("r").unwrap(),
            holder: HolderId::random(),
            token: FencingToken::FIRST,
        };
        (Shared::new(&term, Arc::clone(&clock) as Arc<dyn Clock>, at(10)), clock)
    }

    #[tokio::test]
    async fn one_look_at_an_expired_lease_ends_it_for_ever() {
        let (shared, clock) = shared();
        assert!(shared.is_valid());
        clock.0.store(10, Ordering::SeqCst);
        assert!(!shared.is_valid());
        assert!(!shared.extend(at(20)));
        assert!(!shared.is_valid());
        assert_eq!(shared.over().await, LossReason::Expired);
    }

    #[tokio::test]
    async fn the_first_reason_stays() {
        let (shared, _clock) = shared();
        shared.end(LossReason::Revoked);
        shared.end(LossReason::Released);
        assert!(!shared.is_valid());
        assert_eq!(shared.over().await, LossReason::Revoked);
    }

    #[test]
    fn it_is_extended_and_never_shortened() {
        let (shared, clock) = shared();
        assert!(shared.extend(at(20)) && shared.extend(at(15)));
        clock.0.store(19, Ordering::SeqCst);
        assert!(shared.is_valid());
    }
}
