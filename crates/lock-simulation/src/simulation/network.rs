//! What travels between drivers, store and row, and what those two make of it.

use dapper_lock::{LockErrorKind, TryAcquire};

use super::queue::{Address, Happening};
use super::world::{Session, Waiter, World};
use crate::driver::{Answer, Ask, CallId, Event};
use crate::store::{Caller, SessionId};
use crate::{Break, RowRequest};

impl World {
    /// When a message that leaves now arrives; `None` when it is lost.
    fn travel(&mut self, link: bool) -> Option<u64> {
        if !link || (!self.is_calm() && self.chance(self.scenario.loss)) {
            self.tally.lost_messages += 1;
            return None;
        }
        let mut at = self.now + self.rng.u64(0..=self.scenario.delay);
        if !self.is_calm() && self.chance(self.scenario.slow) {
            // Slower than a lease lives. No fault, late messages included, outlasts the beginning of calm.
            at += self.rng.u64(0..=2 * self.scenario.ttl);
            at = at.min(self.scenario.calm_at.max(self.now + self.scenario.delay));
        }
        Some(at)
    }

    pub(super) fn send_call(&mut self, seat: usize, call: CallId, ask: Ask) {
        let from = self.address(seat);
        if self.scenario.sessions && ask == Ask::Try && self.seats[seat].session.is_none() {
            self.seats[seat].session = Some(SessionId(self.sessions.len() as u32));
            self.sessions.push(Session { owner: from, is_alive: true, opened_at: u64::MAX, token: None });
        }
        let mut caller = self.caller(seat);
        if ask == Ask::Try && self.rng.u8(..10) == 0 && !self.scenario.sessions {
            caller.session = None;
        }
        let link = self.nodes[self.seats[seat].node].links.to_store;
        // Some failures are noticed, and leave open whether the call arrives.
        if !self.is_calm() && self.chance(if link { self.scenario.unclear } else { 500 }) {
            let answer = Answer::Failed(LockErrorKind::Unavailable);
            let at = self.now + self.rng.u64(0..=self.scenario.delay);
            self.queue.push(at, Happening::Answer { to: from, session: caller.session, call, answer });
        }
        let copies = 1 + usize::from(!self.is_calm() && self.chance(self.scenario.duplicates));
        for _ in 0..copies {
            if let Some(at) = self.travel(link) {
                self.queue.push(at, Happening::Call { from, call, caller, ask });
            }
        }
    }

    fn send_answer(&mut self, to: Waiter, answer: Answer) {
        let Waiter { from: to, session, call } = to;
        let link = self.nodes[self.seats[to.seat].node].links.from_store;
        if let Some(at) = self.travel(link) {
            self.queue.push(at, Happening::Answer { to, session, call, answer });
        }
    }

    pub(super) fn answer_arrives(
        &mut self,
        to: Address,
        session: Option<SessionId>,
        call: CallId,
        answer: Answer,
    ) {
        if let Answer::Failed(LockErrorKind::SessionLost) = answer
            && self.seats[to.seat].session == session
        {
            self.seats[to.seat].session = None;
        }
        self.note(|world| format!("{}: hears {answer:?}", world.name(to.seat)));
        self.feed(to.seat, Event::Answered(call, answer));
    }

    pub(super) fn call_arrives(&mut self, from: Address, call: CallId, caller: Caller, ask: Ask) {
        let origin = Waiter { from, session: caller.session, call };
        if !self.store_is_up {
            return self.send_answer(origin, Answer::Failed(LockErrorKind::Unavailable));
        }
        if let Some(session) = caller.session.filter(|_| !Self::is_release(ask)) {
            let session = &mut self.sessions[session.0 as usize];
            if !session.is_alive {
                return self.send_answer(origin, Answer::Failed(LockErrorKind::SessionLost));
            }
            session.opened_at = session.opened_at.min(self.now);
        }
        self.note(|world| format!("store: {ask:?} of {}.{}", world.name(from.seat), from.start));
        let answer = match ask {
            Ask::Try => self.try_acquire(from, caller),
            Ask::Renew(token) => {
                let now = self.store_time();
                let resource = &mut self.resources[self.seats[from.seat].resource];
                resource.book.asked_to_renew(self.now, token, self.now + self.scenario.ttl);
                Answer::Renewed(resource.lease.renew(now, token, caller))
            }
            Ask::Release(token) => {
                let index = self.seats[from.seat].resource;
                let resource = &mut self.resources[index];
                if resource.lease.release(caller.holder, token) {
                    resource.book.released(token);
                    self.wake_waiters(index);
                }
                Answer::Done
            }
            Ask::Wait(limit) => {
                let now = self.store_time();
                let resource = &mut self.resources[self.seats[from.seat].resource];
                if resource.lease.held(now).is_some() {
                    resource.waiters.push(origin);
                    let mut limit = limit.as_nanos() as u64;
                    // A wait may return at any time without a reason.
                    if self.rng.u8(..8) == 0 {
                        limit = self.rng.u64(0..=limit);
                    }
                    self.queue.push(self.now + limit, Happening::WaitOver(origin));
                    return;
                }
                Answer::Done
            }
        };
        self.note(|_| format!("store: answers {answer:?}"));
        self.send_answer(origin, answer);
    }

    fn try_acquire(&mut self, from: Address, mut caller: Caller) -> Answer {
        let session = caller.session;
        // Somebody in passing may have the session lock; the row then knows of no session until the first renewal.
        if self.rng.u8(..10) == 0 {
            caller.session = None;
        }
        let now = self.store_time();
        let resource = &mut self.resources[self.seats[from.seat].resource];
        let followed_session = resource.lease.followed_session(now);
        let Some(tried) = resource.lease.try_acquire(now, caller) else {
            return Answer::Failed(LockErrorKind::Refused);
        };
        if let TryAcquire::Granted(token) = tried {
            self.tally.grants += 1;
            self.tally.followed_sessions += u64::from(followed_session);
            let granted = resource.book.granted(token, caller.holder, self.now + self.scenario.ttl);
            if let Some(session) = session {
                self.sessions[session.0 as usize].token = Some(token);
            }
            if let Err(violation) = granted {
                self.violated(violation);
            }
        }
        Answer::Tried(tried)
    }

    pub(super) fn wait_is_over(&mut self, waiter: Waiter) {
        let waiters = &mut self.resources[self.seats[waiter.from.seat].resource].waiters;
        if let Some(index) = waiters.iter().position(|other| *other == waiter) {
            waiters.remove(index);
            self.send_answer(waiter, Answer::Done);
        }
    }

    /// The resource is free: with sessions the first in line gets to know, else all do.
    pub(super) fn wake_waiters(&mut self, resource: usize) {
        let waiters = &mut self.resources[resource].waiters;
        let woken = if self.scenario.sessions { waiters.len().min(1) } else { waiters.len() };
        let woken: Vec<Waiter> = waiters.drain(..woken).collect();
        for waiter in woken {
            self.send_answer(waiter, Answer::Done);
        }
    }

    /// Calls that wait fail when their connection does.
    pub(super) fn drop_waiters(&mut self, resource: usize, is_dropped: impl Fn(&Waiter) -> bool) {
        let waiters = &mut self.resources[resource].waiters;
        let dropped: Vec<Waiter> = waiters.extract_if(.., |waiter| is_dropped(waiter)).collect();
        for waiter in dropped {
            self.send_answer(waiter, Answer::Failed(LockErrorKind::SessionLost));
        }
    }

    pub(super) fn send_row_call(&mut self, seat: usize, call: CallId, request: RowRequest) {
        let (from, caller) = (self.address(seat), self.caller(seat));
        let link = self.nodes[self.seats[seat].node].links.to_row;
        if let Some(at) = self.travel(link) {
            self.queue.push(at, Happening::RowCall { from, call, caller, request });
        }
    }

    pub(super) fn row_call_arrives(
        &mut self,
        from: Address,
        call: CallId,
        caller: Caller,
        request: RowRequest,
    ) {
        let is_calm = self.is_calm();
        let resource = &mut self.resources[self.seats[from.seat].resource];
        let accepted = resource.row.handle(request);
        let mut verdict = Ok(());
        if accepted {
            self.tally.accepted += 1;
            verdict = resource.book.accepted(caller.holder, request);
            if is_calm && matches!(request, RowRequest::Write(_)) {
                resource.written_when_calm.get_or_insert(self.now);
            }
        } else {
            self.tally.refused += 1;
        }
        self.note(|world| {
            let answer = if accepted { "accepts" } else { "refuses" };
            format!("row: {answer} {request:?} of {}.{}", world.name(from.seat), from.start)
        });
        if let Err(violation) = verdict {
            self.violated(violation);
        }
        let link = self.nodes[self.seats[from.seat].node].links.from_row;
        if let Some(at) = self.travel(link) {
            self.queue.push(at, Happening::RowAnswer { to: from, call, accepted });
        }
    }

    /// The client gives its session up; the store hears of it unless the network is silent.
    pub(super) fn close_session(&mut self, seat: usize) {
        let Some(session) = self.seats[seat].session.take() else { return };
        self.say_goodbye(self.seats[seat].node, session);
    }

    pub(super) fn say_goodbye(&mut self, node: usize, session: SessionId) {
        if self.nodes[node].links.to_store {
            let at = self.now + self.rng.u64(0..=self.scenario.delay);
            self.queue.push(at, Happening::Goodbye(session));
        }
    }

    /// A session is over at the server: its term, if it has one, may be followed, and its client is told.
    pub(super) fn end_session(&mut self, id: SessionId) {
        let session = &mut self.sessions[id.0 as usize];
        if !session.is_alive {
            return;
        }
        session.is_alive = false;
        let (owner, token) = (session.owner, session.token);
        let index = self.seats[owner.seat].resource;
        self.note(|world| format!("store: session {} of {} ended", id.0, world.name(owner.seat)));
        self.drop_waiters(index, |waiter| waiter.session == Some(id));
        if self.resources[index].lease.end_session(id) {
            self.wake_waiters(index);
        }
        self.tell_term_ended(owner, id, token);
    }

    pub(super) fn tell_term_ended(
        &mut self,
        to: Address,
        session: SessionId,
        token: Option<dapper_lock::FencingToken>,
    ) {
        let link = self.nodes[self.seats[to.seat].node].links.from_store;
        if let Some(token) = token
            && let Some(at) = self.travel(link)
        {
            self.queue.push(at, Happening::TermEnded { to, session, token });
        }
    }

    /// How long the store waits for a silent client: never less than that may trust its term.
    pub(super) fn patience(&self) -> u64 {
        if self.broken == Some(Break::Patience) { self.scenario.ttl / 4 } else { self.scenario.ttl }
    }

    pub(super) fn store_time(&self) -> dapper_lock::Timestamp {
        dapper_lock::Timestamp::from_origin(std::time::Duration::from_nanos(self.now))
    }
}
