//! The contract of [`LockStore`](dapper_lock::LockStore) as a pure model.

use std::time::Duration;

use dapper_lock::{FencingToken, HeldBy, HolderId, Renewal, Timestamp, TryAcquire};

use crate::Break;

/// The session at the server that a term lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u32);

/// Who asks for a grant or a renewal, and how long it is to last.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The caller's identity.
    pub holder: HolderId,
    /// The time to live.
    pub ttl: Duration,
    /// The session whose end frees the resource, for stores that have such a thing.
    pub session: Option<SessionId>,
}

/// One resource in a store: its last token, for ever, and who holds it. All times are the store's.
#[derive(Clone, Debug)]
pub struct StoredLease {
    token: Option<FencingToken>,
    held: Option<Held>,
    broken: Option<Break>,
}

/// A grant that was not released.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// To whom.
    pub holder: HolderId,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// The session that it lives in, where that is known.
    pub session: Option<SessionId>,
    /// Whether that session is known to have ended.
    pub session_ended: bool,
}

impl StoredLease {
    /// A resource that was never granted.
    #[must_use]
    pub fn new(broken: Option<Break>) -> Self {
        Self { token: None, held: None, broken }
    }

    /// The last token.
    #[must_use]
    pub fn token(&self) -> Option<FencingToken> {
        self.token
    }

    /// The last grant, if nobody could have followed it by `now`.
    #[must_use]
    pub fn held(&self, now: Timestamp) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.expires_at > now && !held.session_ended)
    }

    /// Whether a grant at `now` would follow a term before its time, because its session has ended.
    #[must_use]
    pub fn followed_session(&self, now: Timestamp) -> bool {
        self.held.is_some_and(|held| held.session_ended && held.expires_at > now)
    }

    /// Grants the resource if it is free. `None` when the tokens are used up.
    pub fn try_acquire(&mut self, now: Timestamp, caller: Caller) -> Option<TryAcquire> {
        if let (Some(held), Some(token)) = (self.held(now), self.token) {
            let remaining = held.expires_at.since(now);
            return Some(TryAcquire::Held(HeldBy { holder: held.holder, token, remaining }));
        }
        let token = self.token.map_or(Some(FencingToken::FIRST), FencingToken::next)?;
        self.put(now, token, caller);
        Some(TryAcquire::Granted(token))
    }

    /// Lets the very term run on, if it is still running.
    pub fn renew(&mut self, now: Timestamp, token: FencingToken, caller: Caller) -> Renewal {
        let is_the_term =
            self.token == Some(token) && self.held(now).is_some_and(|held| held.holder == caller.holder);
        if !is_the_term && self.broken != Some(Break::ExactRenew) {
            return Renewal::NotHolder;
        }
        self.put(now, token, caller);
        Renewal::Renewed
    }

    /// Ends the very term; true when that frees the resource.
    pub fn release(&mut self, holder: HolderId, token: FencingToken) -> bool {
        let is_the_term = self.token == Some(token) || self.broken == Some(Break::ExactRelease);
        self.held.take_if(|held| held.holder == holder && is_the_term).is_some()
    }

    /// The session ended; true when that frees the resource.
    pub fn end_session(&mut self, session: SessionId) -> bool {
        match &mut self.held {
            Some(held) if held.session == Some(session) => {
                held.session_ended = true;
                true
            }
            _ => false,
        }
    }

    /// The server was restarted: it knows no session of before any more, so time alone decides.
    pub fn restart(&mut self) {
        if let Some(held) = &mut self.held {
            held.session = None;
        }
        if self.broken == Some(Break::TokenReuse) {
            self.held = None;
            self.token = self.token.and_then(|token| FencingToken::new(token.get() - 1));
        }
    }

    fn put(&mut self, now: Timestamp, token: FencingToken, caller: Caller) {
        let Caller { holder, ttl, session } = caller;
        self.token = Some(token);
        self.held = Some(Held { holder, expires_at: now.after(ttl), session, session_ended: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    fn caller(session: Option<SessionId>) -> Caller {
        Caller { holder: HolderId::random(), ttl: TTL, session }
    }

    fn granted(lease: &mut StoredLease, now: Timestamp, caller: Caller) -> FencingToken {
        match lease.try_acquire(now, caller) {
            Some(TryAcquire::Granted(token)) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_term_ends_with_its_time_and_stays_over() {
        let (one, other) = (caller(None), caller(None));
        let mut lease = StoredLease::new(None);
        let token = granted(&mut lease, at(0), one);
        assert!(
            matches!(lease.try_acquire(at(9), other), Some(TryAcquire::Held(held)) if held.remaining == TTL / 10)
        );
        assert_eq!(lease.renew(at(5), token, one), Renewal::Renewed);
        assert_eq!(lease.renew(at(15), token, one), Renewal::NotHolder);
        assert_eq!(granted(&mut lease, at(15), other), token.next().unwrap());
        assert!(!lease.release(one.holder, token) && lease.release(other.holder, token.next().unwrap()));
        assert_eq!(granted(&mut lease, at(15), one).get(), 3);
    }

    #[test]
    fn the_end_of_a_session_frees_and_a_restart_forgets_it() {
        let session = SessionId(1);
        let one = caller(Some(session));
        let mut lease = StoredLease::new(None);
        let token = granted(&mut lease, at(0), one);
        assert!(lease.end_session(session));
        assert_eq!(lease.renew(at(1), token, one), Renewal::NotHolder);
        granted(&mut lease, at(1), one);
        lease.restart();
        assert!(!lease.end_session(session));
        assert!(lease.held(at(10)).is_some());
    }
}
