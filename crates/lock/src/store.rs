//! What a backend must do.

use std::time::Duration;

use async_trait::async_trait;

use crate::{FencingToken, HolderId, LockError, Resource, StoreId, Term};

/// Keeps leases: one holder per resource at most, each grant with a token of its own.
///
/// Callers use [`LockManager`](crate::LockManager); this trait is for those who add a backend.
///
/// # What an implementer owes
/// - **Tokens grow.** A grant's token is higher than that of every earlier grant of the resource, whether that was
///   used, released, expired or never received, and whether or not the store was restarted in between. The last token
///   is kept for as long as the store exists; it may grow by more than one.
/// - **One holder.** Nothing is granted while an earlier grant is neither released nor past its time to live, whoever
///   asks, the holder itself included. The one exception is a store that *knows* the earlier grant's session to be
///   dead and whose holder learns that through [`ended`](Self::ended).
/// - **Exact terms.** Renew and release act on the very term they name, by resource, holder and token, or not at all.
///   A term that is over stays over, even when nobody has taken the resource since.
/// - **Store time.** When a lease ends is decided by the store's clock alone, counted from when the store handled the
///   request; a time computed by a client never enters. The store may end a lease later than `ttl`, never sooner.
/// - **Unclear means error.** When it is not known whether the store did what was asked, the answer is `Err`. A reply
///   that got lost is unclear: a store never answers `Granted` to a second try because it guesses that the first one's
///   reply was lost; it answers `Held`, with the caller as the holder, and the caller releases that term.
/// - **Cancellation.** Each future may be dropped at any await point. That may leave a grant which nobody knows of; it
///   ends with its time to live at the latest, and nothing else stays behind: no later call fails or is misled by it.
/// - **Waiting.** [`wait`](Self::wait) promises to return, nothing more: it may return early, late by a moment, or
///   for no reason, and its return says nothing about who holds the resource. It should return soon after a release.
/// - **Bounds.** Every call ends by itself: [`wait`](Self::wait) after its limit, the others after a time in the order
///   of the time to live. [`ended`](Self::ended) alone may take for ever.
/// - **Secrets.** Errors, logs and `Debug` never show one.
///
/// The crate `dapper-lock-conformance` tests all of this, as far as it shows from outside.
#[async_trait]
pub trait LockStore: Send + Sync {
    /// Which store this is: drawn at random when the store is made, kept with its tokens and lost with them, the same
    /// for all who contend through it. A store that was emptied is another store, and so is a copy that goes its own
    /// way once its tokens are no longer above those of the original. [`StoreId::EPHEMERAL`] for a store that lives
    /// and dies with one process.
    ///
    /// Whoever is fenced by tokens remembers whose tokens those are: two stores' numbers can't be compared.
    async fn store_id(&self) -> Result<StoreId, LockError>;

    /// Grants the resource to `holder` for `ttl` if nobody has it, and says who has it otherwise. Does not wait for it.
    ///
    /// After an `Err` the resource may be granted all the same: nobody may act on such a grant.
    async fn try_acquire(
        &self,
        resource: &Resource,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<TryAcquire, LockError>;

    /// Lets the term end `ttl` from now, if it is still running.
    ///
    /// Never starts anything: [`Renewal::NotHolder`] when the term was released, has expired or was followed by
    /// another, and when the session it lived in is known to be gone. `Err` with
    /// [`SessionLost`](crate::LockErrorKind::SessionLost) says the same when the store noticed during the call; every
    /// other `Err` leaves open whether the term was renewed, and the caller may ask again.
    async fn renew(&self, term: &Term, ttl: Duration) -> Result<Renewal, LockError>;

    /// Ends the term and wakes those who wait for the resource. `Ok` also when the term is over already.
    async fn release(&self, term: &Term) -> Result<(), LockError>;

    /// Who holds the resource, `None` when nobody does. For display: the answer is old when it arrives.
    async fn holder(&self, resource: &Resource) -> Result<Option<HeldBy>, LockError>;

    /// Returns when another try by `holder` may be worth it, and at the latest after `limit`.
    ///
    /// May return at any time without a reason. Callers pass at most the [`remaining`](HeldBy::remaining) time that
    /// the last try reported, so that a lease which just ends is noticed.
    async fn wait(&self, resource: &Resource, holder: &HolderId, limit: Duration) -> Result<(), LockError>;

    /// Resolves once the store knows, without having been asked, that the term is over: the session it lived in
    /// ended, or a watch reported it. At once when the store knows of no such term. A store that can't know never
    /// resolves.
    async fn ended(&self, term: &Term);
}

/// The answer to a try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TryAcquire {
    /// The caller holds the resource, under this token.
    Granted(FencingToken),
    /// Somebody else does, or an earlier term of the caller is still running.
    Held(HeldBy),
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Renewal {
    /// The term runs on.
    Renewed,
    /// The term is over and never comes back.
    NotHolder,
}

/// Who holds a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldBy {
    /// The holder.
    pub holder: HolderId,
    /// The token of its term.
    pub token: FencingToken,
    /// How long the term still runs by the store's clock, unless it is renewed or released.
    pub remaining: Duration,
}
