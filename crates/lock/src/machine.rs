//! The life of one lease as a pure state machine: time and replies in, requests and "held" or "lost" out.
//!
//! [`LockManager`](crate::LockManager) drives one for each lease. It is public for simulations, models, and whoever
//! needs another driver. It reads no clock and does no I/O. Rules that it keeps:
//! - Trust ends at *request sent + ttl − margin*. "Sent" is when the machine asked for the request, which is never
//!   later than when it leaves, so a slow reply shortens trust and never lengthens it.
//! - Once trust has ended, nothing revives it. A machine lives through one term and is then over.
//! - An unclear answer to a try means "not the holder"; a grant that comes too late to be trusted is discarded.
//! - An unclear answer to a renewal changes nothing: it is tried again until trust ends.
//!
//! What it owes to its driver: at most one request is on its way at a time, and every time it wants to be asked again
//! is in [`next_tick`](Machine::next_tick). What the driver owes to it: time that never goes back, and a request that is
//! sent no earlier than it was asked for.
//!
//! ```
//! use std::time::Duration;
//! use dapper_lock::machine::{Action, Input, Machine};
//! use dapper_lock::{FencingToken, HolderId, LeaseConfig, Timestamp, TryAcquire};
//!
//! let config = LeaseConfig::new(Duration::from_secs(10), Duration::from_secs(3), Duration::from_secs(1))?;
//! let mut machine = Machine::new(config, HolderId::random(), None);
//! let sent = Timestamp::from_origin(Duration::from_secs(5));
//! let actions = machine.handle(sent, Input::Tick);
//! let [Action::Try { request }] = actions[..] else { panic!("{actions:?}") };
//! let reply = Ok(TryAcquire::Granted(FencingToken::FIRST));
//! let answered = sent.after(Duration::from_secs(2));
//! // Trust is counted from when the request was sent, not from when its answer came.
//! let valid_until = sent.after(Duration::from_secs(9));
//! assert_eq!(
//!     machine.handle(answered, Input::Tried { request, reply }),
//!     [Action::Held { token: FencingToken::FIRST, valid_until }],
//! );
//! # Ok::<(), dapper_lock::LeaseConfigError>(())
//! ```

use std::time::Duration;

use crate::backoff::Backoff;
use crate::{
    FencingToken, HeldBy, HolderId, LeaseConfig, LockErrorKind, LossReason, Renewal, Timestamp, TryAcquire,
};

/// After so many failed tries in a row the caller is told.
pub const MAX_FAILURES: u32 = 5;
/// The shortest time between two tries, for stores whose wait returns too eagerly.
pub const TRY_GAP: Duration = Duration::from_millis(10);
/// The longest time that the store is asked to wait in one call.
pub const MAX_WAIT: Duration = Duration::from_secs(30);
/// How much longer than asked a store's wait may take before it is abandoned; never more than the time to live.
pub const WAIT_GRACE: Duration = Duration::from_secs(1);

/// Which request a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A try was answered.
    Tried {
        /// Which try it was.
        request: RequestId,
        /// The store's answer, or why there is none.
        reply: Result<TryAcquire, LockErrorKind>,
    },
    /// The store's wait returned.
    Waited(Result<(), LockErrorKind>),
    /// A renewal was answered.
    Renewed {
        /// Which renewal it was.
        request: RequestId,
        /// The store's answer, or why there is none.
        reply: Result<Renewal, LockErrorKind>,
    },
    /// The store knows by itself that the term is over.
    TermEnded,
}

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the store for the resource.
    Try {
        /// To be named with the answer.
        request: RequestId,
    },
    /// Let the store wait.
    Wait {
        /// At most so long.
        limit: Duration,
    },
    /// Release a term of ours that nobody acts on.
    Discard {
        /// The term's token.
        token: FencingToken,
    },
    /// Ask the store to renew the term.
    Renew {
        /// To be named with the answer.
        request: RequestId,
        /// The term's token.
        token: FencingToken,
    },
    /// The term may be acted on until then.
    Held {
        /// The term's token.
        token: FencingToken,
        /// The first moment at which the term may no longer be acted on, unless this action comes again.
        valid_until: Timestamp,
    },
    /// The term is over. The machine asks for nothing more.
    Lost {
        /// Why.
        reason: LossReason,
    },
    /// There will be no term. The machine asks for nothing more.
    GiveUp(Cause),
}

/// Why there will be no term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The store failed too often, or will not do it at all.
    Failed,
    /// The store grants, but too slowly for its grants to be trusted.
    TooSlow,
    /// The store issued a token that is not above an earlier one.
    TokenWentBack {
        /// The token of the grant.
        granted: FencingToken,
        /// The highest token seen before.
        seen: FencingToken,
    },
}

/// One lease, from the first try to its end. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    config: LeaseConfig,
    holder: HolderId,
    /// The highest token seen so far, ours or another's.
    highest: Option<FencingToken>,
    backoff: Backoff,
    failures: u32,
    requests: u64,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Pausing { until: Timestamp },
    Trying(Sent),
    Waiting { not_before: Timestamp, until: Timestamp },
    Holding(Holding),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sent {
    request: RequestId,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holding {
    token: FencingToken,
    valid_until: Timestamp,
    renew_at: Timestamp,
    in_flight: Option<Sent>,
}

impl Machine {
    /// A machine that wants the resource. `highest` is the highest token that an earlier machine saw.
    #[must_use]
    pub fn new(config: LeaseConfig, holder: HolderId, highest: Option<FencingToken>) -> Self {
        let seed = holder.as_u128();
        #[expect(clippy::cast_possible_truncation, reason = "half of a random number is random enough")]
        let backoff = Backoff::new(seed as u64);
        let state = State::Pausing { until: Timestamp::from_origin(Duration::ZERO) };
        Self { config, holder, highest, backoff, failures: 0, requests: 0, state }
    }

    /// The highest token seen so far.
    #[must_use]
    pub fn highest(&self) -> Option<FencingToken> {
        self.highest
    }

    /// When to feed the next [`Input::Tick`] at the latest; `None` while a reply must come first.
    #[must_use]
    pub fn next_tick(&self) -> Option<Timestamp> {
        match &self.state {
            State::Pausing { until } => Some(*until),
            State::Trying(_) | State::Over => None,
            State::Waiting { until, .. } => Some(until.after(self.grace())),
            State::Holding(holding) if holding.in_flight.is_some() => Some(holding.valid_until),
            State::Holding(holding) => Some(holding.renew_at.min(holding.valid_until)),
        }
    }

    /// Takes in what happened at `now` and says what to do about it. `now` never goes back.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        if let State::Holding(holding) = &self.state
            && now >= holding.valid_until
        {
            return self.lose(LossReason::Expired);
        }
        match input {
            Input::Tick => self.tick(now),
            Input::Tried { request, reply } => self.tried(now, request, reply),
            Input::Waited(reply) => self.waited(now, reply),
            Input::Renewed { request, reply } => self.renewed(now, request, reply),
            Input::TermEnded if matches!(self.state, State::Holding(_)) => self.lose(LossReason::SessionLost),
            Input::TermEnded => Vec::new(),
        }
    }

    /// A lost answer to a wait costs no more than another lease's life, however short that is.
    fn grace(&self) -> Duration {
        WAIT_GRACE.min(self.config.ttl())
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        match &self.state {
            State::Pausing { until } if now >= *until => self.try_now(now),
            State::Waiting { until, .. } if now >= until.after(self.grace()) => self.try_now(now),
            State::Holding(holding) if holding.in_flight.is_none() && now >= holding.renew_at => {
                self.renew_now(now)
            }
            _ => Vec::new(),
        }
    }

    fn tried(
        &mut self,
        now: Timestamp,
        request: RequestId,
        reply: Result<TryAcquire, LockErrorKind>,
    ) -> Vec<Action> {
        let sent = match &self.state {
            State::Trying(sent) if sent.request == request => *sent,
            // An answer to a request that was given up: nobody acts on what it grants.
            _ => return discard_grant(&reply),
        };
        match reply {
            Ok(TryAcquire::Granted(token)) => self.granted(now, sent, token),
            Ok(TryAcquire::Held(held_by)) => self.refused(now, &held_by),
            Err(kind) => self.failed(now, kind),
        }
    }

    fn granted(&mut self, now: Timestamp, sent: Sent, token: FencingToken) -> Vec<Action> {
        let discard = Action::Discard { token };
        if let Some(seen) = self.highest.filter(|seen| token <= *seen) {
            self.state = State::Over;
            return vec![discard, Action::GiveUp(Cause::TokenWentBack { granted: token, seen })];
        }
        self.highest = Some(token);
        let valid_until = sent.at.after(self.config.trust());
        if now >= valid_until {
            let mut actions = vec![discard];
            actions.extend(self.pause_after_failure(now, Cause::TooSlow));
            return actions;
        }
        let renew_at = sent.at.after(self.config.renew_every());
        self.state = State::Holding(Holding { token, valid_until, renew_at, in_flight: None });
        vec![Action::Held { token, valid_until }]
    }

    fn refused(&mut self, now: Timestamp, held_by: &HeldBy) -> Vec<Action> {
        self.highest = self.highest.max(Some(held_by.token));
        self.failures = 0;
        if held_by.holder == self.holder {
            // A try of ours was granted and its answer lost. One manager asks for a resource once at a time, so
            // nobody acts on that term.
            self.state = State::Pausing { until: now.after(self.backoff.next_delay()) };
            return vec![Action::Discard { token: held_by.token }];
        }
        self.backoff.reset();
        let limit = held_by.remaining.clamp(Duration::from_millis(1), MAX_WAIT);
        self.state = State::Waiting { not_before: now.after(TRY_GAP), until: now.after(limit) };
        vec![Action::Wait { limit }]
    }

    fn failed(&mut self, now: Timestamp, kind: LockErrorKind) -> Vec<Action> {
        if kind.is_transient() {
            return self.pause_after_failure(now, Cause::Failed);
        }
        self.state = State::Over;
        vec![Action::GiveUp(Cause::Failed)]
    }

    fn pause_after_failure(&mut self, now: Timestamp, cause: Cause) -> Vec<Action> {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            self.state = State::Over;
            return vec![Action::GiveUp(cause)];
        }
        self.state = State::Pausing { until: now.after(self.backoff.next_delay()) };
        Vec::new()
    }

    fn waited(&mut self, now: Timestamp, reply: Result<(), LockErrorKind>) -> Vec<Action> {
        let State::Waiting { not_before, .. } = &self.state else { return Vec::new() };
        let not_before = *not_before;
        match reply {
            Ok(()) if now < not_before => {
                self.state = State::Pausing { until: not_before };
                Vec::new()
            }
            Ok(()) => self.try_now(now),
            // The next try tells whether the store is still there; it counts, this does not.
            Err(_) => {
                self.state = State::Pausing { until: now.after(self.backoff.next_delay()) };
                Vec::new()
            }
        }
    }

    fn renewed(
        &mut self,
        now: Timestamp,
        request: RequestId,
        reply: Result<Renewal, LockErrorKind>,
    ) -> Vec<Action> {
        let State::Holding(holding) = &mut self.state else { return Vec::new() };
        let Some(sent) = holding.in_flight.take_if(|sent| sent.request == request) else { return Vec::new() };
        match reply {
            Ok(Renewal::Renewed) => {
                holding.valid_until = holding.valid_until.max(sent.at.after(self.config.trust()));
                holding.renew_at = sent.at.after(self.config.renew_every());
                vec![Action::Held { token: holding.token, valid_until: holding.valid_until }]
            }
            Ok(Renewal::NotHolder) => self.lose(LossReason::NotHolder),
            Err(LockErrorKind::SessionLost) => self.lose(LossReason::SessionLost),
            Err(_) => {
                holding.renew_at = now.after(self.config.renew_every() / 4);
                Vec::new()
            }
        }
    }

    fn try_now(&mut self, now: Timestamp) -> Vec<Action> {
        let request = self.next_request();
        self.state = State::Trying(Sent { request, at: now });
        vec![Action::Try { request }]
    }

    fn renew_now(&mut self, now: Timestamp) -> Vec<Action> {
        let request = self.next_request();
        let State::Holding(holding) = &mut self.state else { return Vec::new() };
        holding.in_flight = Some(Sent { request, at: now });
        vec![Action::Renew { request, token: holding.token }]
    }

    fn lose(&mut self, reason: LossReason) -> Vec<Action> {
        self.state = State::Over;
        vec![Action::Lost { reason }]
    }

    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }
}

fn discard_grant(reply: &Result<TryAcquire, LockErrorKind>) -> Vec<Action> {
    match reply {
        Ok(TryAcquire::Granted(token)) => vec![Action::Discard { token: *token }],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_millis(millis))
    }

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    /// Time to live 10 s, renewed every 3 s, margin 1 s.
    fn machine() -> Machine {
        let config = LeaseConfig::new(10 * SECOND, 3 * SECOND, SECOND).unwrap();
        Machine::new(config, HolderId::random(), None)
    }

    fn try_at(machine: &mut Machine, now: Timestamp) -> RequestId {
        match machine.handle(now, Input::Tick)[..] {
            [Action::Try { request }] => request,
            ref other => panic!("{other:?}"),
        }
    }

    fn grant(machine: &mut Machine, sent: Timestamp, answered: Timestamp, number: u64) -> Vec<Action> {
        let request = try_at(machine, sent);
        let reply = Ok(TryAcquire::Granted(token(number)));
        machine.handle(answered, Input::Tried { request, reply })
    }

    fn renew_at(machine: &mut Machine, now: Timestamp) -> RequestId {
        match machine.handle(now, Input::Tick)[..] {
            [Action::Renew { request, .. }] => request,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn trust_is_anchored_at_the_request() {
        let mut machine = machine();
        let actions = grant(&mut machine, at(0), at(2_000), 1);
        assert_eq!(actions, [Action::Held { token: token(1), valid_until: at(9_000) }]);
        let request = renew_at(&mut machine, at(3_000));
        let actions = machine.handle(at(8_999), Input::Renewed { request, reply: Ok(Renewal::Renewed) });
        assert_eq!(actions, [Action::Held { token: token(1), valid_until: at(12_000) }]);
    }

    #[test]
    fn a_grant_that_comes_too_late_is_discarded() {
        let mut machine = machine();
        assert_eq!(grant(&mut machine, at(0), at(9_000), 1), [Action::Discard { token: token(1) }]);
        assert_eq!(grant(&mut machine, at(10_000), at(10_001), 2).len(), 1);
    }

    #[test]
    fn a_late_renewal_does_not_revive() {
        let mut machine = machine();
        grant(&mut machine, at(0), at(10), 1);
        let request = renew_at(&mut machine, at(8_000));
        let reply = Ok(Renewal::Renewed);
        let lost = machine.handle(at(9_000), Input::Renewed { request, reply });
        assert_eq!(lost, [Action::Lost { reason: LossReason::Expired }]);
        assert_eq!(machine.handle(at(9_001), Input::Renewed { request, reply }), []);
        assert_eq!(machine.next_tick(), None);
    }

    #[test]
    fn a_renewal_is_tried_again_until_trust_ends() {
        let mut machine = machine();
        grant(&mut machine, at(0), at(10), 1);
        let request = renew_at(&mut machine, at(3_000));
        assert_eq!(machine.next_tick(), Some(at(9_000)));
        let reply = Err(LockErrorKind::Unavailable);
        assert_eq!(machine.handle(at(3_100), Input::Renewed { request, reply }), []);
        assert_eq!(machine.next_tick(), Some(at(3_850)));
        renew_at(&mut machine, at(3_850));
        assert_eq!(machine.handle(at(9_000), Input::Tick), [Action::Lost { reason: LossReason::Expired }]);
    }

    #[test]
    fn a_clear_no_ends_the_term_at_once() {
        for (reply, reason) in [
            (Ok(Renewal::NotHolder), LossReason::NotHolder),
            (Err(LockErrorKind::SessionLost), LossReason::SessionLost),
        ] {
            let mut machine = machine();
            grant(&mut machine, at(0), at(10), 1);
            let request = renew_at(&mut machine, at(3_000));
            let actions = machine.handle(at(3_001), Input::Renewed { request, reply });
            assert_eq!(actions, [Action::Lost { reason }]);
        }
        let mut machine = machine();
        grant(&mut machine, at(0), at(10), 1);
        assert_eq!(
            machine.handle(at(11), Input::TermEnded),
            [Action::Lost { reason: LossReason::SessionLost }]
        );
    }

    #[test]
    fn failures_are_bounded_and_a_refusal_is_final() {
        let mut machine = machine();
        let mut now = at(0);
        for _ in 1..MAX_FAILURES {
            let request = try_at(&mut machine, now);
            let reply = Err(LockErrorKind::Timeout);
            assert_eq!(machine.handle(now, Input::Tried { request, reply }), []);
            now = machine.next_tick().unwrap();
        }
        let request = try_at(&mut machine, now);
        let actions = machine.handle(now, Input::Tried { request, reply: Err(LockErrorKind::Timeout) });
        assert_eq!(actions, [Action::GiveUp(Cause::Failed)]);

        let mut machine = self::machine();
        let request = try_at(&mut machine, at(0));
        let actions = machine.handle(at(1), Input::Tried { request, reply: Err(LockErrorKind::Refused) });
        assert_eq!(actions, [Action::GiveUp(Cause::Failed)]);
    }

    #[test]
    fn our_own_forgotten_term_is_discarded() {
        let mut machine = machine();
        let request = try_at(&mut machine, at(0));
        let held = HeldBy { holder: machine.holder, token: token(4), remaining: SECOND };
        let actions = machine.handle(at(1), Input::Tried { request, reply: Ok(TryAcquire::Held(held)) });
        assert_eq!(actions, [Action::Discard { token: token(4) }]);
    }

    #[test]
    fn a_token_that_went_back_is_refused() {
        let config = LeaseConfig::from_ttl(10 * SECOND).unwrap();
        let mut machine = Machine::new(config, HolderId::random(), Some(token(7)));
        let cause = Cause::TokenWentBack { granted: token(7), seen: token(7) };
        assert_eq!(
            grant(&mut machine, at(0), at(1), 7),
            [Action::Discard { token: token(7) }, Action::GiveUp(cause)]
        );
    }

    #[test]
    fn a_lost_answer_to_a_wait_costs_a_short_lease_no_more_than_its_life() {
        let ttl = SECOND / 10;
        let mut machine = Machine::new(LeaseConfig::from_ttl(ttl).unwrap(), HolderId::random(), None);
        let request = try_at(&mut machine, at(0));
        let held = HeldBy { holder: HolderId::random(), token: token(4), remaining: ttl / 2 };
        machine.handle(at(1), Input::Tried { request, reply: Ok(TryAcquire::Held(held)) });
        assert_eq!(machine.next_tick(), Some(at(1).after(ttl / 2).after(ttl)));
    }

    #[test]
    fn an_eager_wait_does_not_spin() {
        let mut machine = machine();
        let request = try_at(&mut machine, at(0));
        let held = HeldBy { holder: HolderId::random(), token: token(4), remaining: 5 * SECOND };
        let actions = machine.handle(at(1), Input::Tried { request, reply: Ok(TryAcquire::Held(held)) });
        assert_eq!(actions, [Action::Wait { limit: 5 * SECOND }]);
        assert_eq!(machine.handle(at(2), Input::Waited(Ok(()))), []);
        assert_eq!(machine.next_tick(), Some(at(11)));
        try_at(&mut machine, at(11));
    }
}
