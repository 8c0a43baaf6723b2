//! Drives the production [`Machine`] for one resource the way `LockManager`'s own driver does, as a pure function of
//! time and what arrives: acquire, keep, release, and what the holder does with the row meanwhile.

use std::time::Duration;

use dapper_lock::machine::{Action, Cause, Input, Machine, RequestId, WAIT_GRACE};
use dapper_lock::{
    FencingToken, HolderId, LeaseConfig, LockErrorKind, LossReason, Renewal, Timestamp, TryAcquire,
};

use crate::{Break, RowRequest};

/// The longest time that the store has to confirm a release.
const MAX_RELEASE: Duration = Duration::from_secs(5);
/// The pause before a release that failed is tried again.
const RELEASE_PAUSE: Duration = Duration::from_millis(50);

/// Which call an answer belongs to; unlike a [`RequestId`], unique for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u32);

/// A call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// Acquire the resource if it is free.
    Try,
    /// Wait for it, at most so long.
    Wait(Duration),
    /// Renew the term of this token.
    Renew(FencingToken),
    /// Release the term of this token.
    Release(FencingToken),
}

/// The store's answer to a call, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a try.
    Tried(TryAcquire),
    /// To a wait or a release.
    Done,
    /// To a renewal.
    Renewed(Renewal),
    /// The call failed.
    Failed(LockErrorKind),
}

/// What happens to a driver.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody wants the resource.
    Acquire,
    /// Whoever wanted it no longer does.
    Cancel,
    /// The holder gives it back.
    LetGo,
    /// The holder wants to write the row.
    Write,
    /// Time has passed.
    Wake,
    /// The store answered.
    Answered(CallId, Answer),
    /// The row answered: accepted or refused.
    RowAnswered(CallId, bool),
    /// The store says by itself that the term of this token is over.
    TermEnded(FencingToken),
}

/// What a driver wants done, or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Call the store.
    Ask(CallId, Ask),
    /// A call is not waited for any more.
    Abandon(CallId),
    /// Send this to the row.
    Row(CallId, RowRequest),
    /// The term may be acted on until then.
    Held {
        /// The term's token.
        token: FencingToken,
        /// When trust ends.
        until: Timestamp,
        /// Whether this is the beginning and not a renewal.
        first: bool,
    },
    /// The term is over for its holder.
    Over(LossReason),
    /// There will be no term.
    GaveUp(Cause),
    /// Everything is cleaned up; nobody wants the resource now.
    Idle,
}

/// One holder-to-be of one resource. See the [module](self).
#[derive(Clone, Debug)]
pub struct Driver {
    config: LeaseConfig,
    holder: HolderId,
    broken: Option<Break>,
    release_limit: Duration,
    highest: Option<FencingToken>,
    calls: u32,
    machine: Option<Machine>,
    pending: Option<Pending>,
    stage: Stage,
}

/// The machine's request that is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) call: CallId,
    pub(crate) sent: Timestamp,
    kind: Kind,
    deadline: Option<Timestamp>,
    /// For [`Break::Anchor`]: the machine as it was, and what made it ask.
    before: Option<Box<(Machine, Input)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Try(RequestId),
    Wait,
    Renew(RequestId),
}

#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Idle,
    Acquiring { cancelled: bool, discarding: Option<Discarding> },
    Keeping { token: FencingToken, until: Timestamp, worker: Worker },
    Releasing { token: FencingToken, deadline: Timestamp, call: Option<CallId>, again_at: Option<Timestamp> },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Discarding {
    pub(crate) call: CallId,
    pub(crate) deadline: Timestamp,
    then: Option<Cause>,
}

/// What the holder is doing with the row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Worker {
    TakingOver { call: CallId, deadline: Timestamp },
    Ready,
    Writing { call: CallId, deadline: Timestamp },
}

impl Driver {
    /// A driver that nobody wants anything of yet. The holder is drawn once per start of the process.
    #[must_use]
    pub fn new(config: LeaseConfig, holder: HolderId, broken: Option<Break>) -> Self {
        Self {
            config,
            holder,
            broken,
            release_limit: config.ttl().min(MAX_RELEASE),
            highest: None,
            calls: 0,
            machine: None,
            pending: None,
            stage: Stage::Idle,
        }
    }

    /// The same, with the time that the store has for a release in proportion: the time to live, as it is for those
    /// of up to five seconds.
    #[must_use]
    pub(crate) fn in_proportion(self) -> Self {
        Self { release_limit: self.config.ttl(), ..self }
    }

    /// The identity under which it acquires.
    #[must_use]
    pub fn holder(&self) -> HolderId {
        self.holder
    }

    /// The token under which the holder may act at `now`, as `Lease::is_valid` would say.
    #[must_use]
    pub fn valid(&self, now: Timestamp) -> Option<FencingToken> {
        match self.stage {
            Stage::Keeping { token, until, .. } if now < until => Some(token),
            _ => None,
        }
    }

    /// Whether nobody wants the resource.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether the resource is wanted and not had.
    #[must_use]
    pub fn is_acquiring(&self) -> bool {
        matches!(self.stage, Stage::Acquiring { cancelled: false, .. })
    }

    /// Whether it could write the row now, if its lease is valid.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Keeping { worker: Worker::Ready, .. })
    }

    /// When to wake it at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        let tick = || self.machine_tick();
        let pending = || self.pending.as_ref().and_then(|pending| pending.deadline);
        match &self.stage {
            Stage::Idle => None,
            Stage::Acquiring { discarding: Some(discarding), .. } => Some(discarding.deadline),
            Stage::Acquiring { cancelled: true, .. } => pending(),
            Stage::Acquiring { .. } => earlier(tick(), pending()),
            Stage::Keeping { worker: Worker::Ready, .. } => tick(),
            Stage::Keeping {
                worker: Worker::TakingOver { deadline, .. } | Worker::Writing { deadline, .. },
                ..
            } => earlier(tick(), Some(*deadline)),
            Stage::Releasing { deadline, again_at, .. } => earlier(Some(*deadline), *again_at),
        }
    }

    /// Whether an answer to this call, of the store or of the row, would still be listened to.
    pub(crate) fn awaits(&self, call: CallId) -> bool {
        let of_stage = match &self.stage {
            Stage::Acquiring { discarding, .. } => discarding.map(|discarding| discarding.call),
            Stage::Keeping {
                worker: Worker::TakingOver { call, .. } | Worker::Writing { call, .. }, ..
            } => Some(*call),
            Stage::Releasing { call, .. } => *call,
            Stage::Idle | Stage::Keeping { .. } => None,
        };
        of_stage == Some(call) || self.pending.as_ref().is_some_and(|pending| pending.call == call)
    }

    /// What it is doing, for the model, which must know a state again.
    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// When the machine wants to be asked again.
    pub(crate) fn machine_tick(&self) -> Option<Timestamp> {
        self.machine.as_ref().and_then(Machine::next_tick)
    }

    /// The machine's request that is on its way; waits count as none, since they may return at any time.
    pub(crate) fn request(&self) -> Option<&Pending> {
        self.pending.as_ref().filter(|pending| pending.kind != Kind::Wait)
    }

    /// Takes in what happened at `now` on the local clock, and says what to do about it.
    pub fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Acquire if self.is_idle() => {
                self.machine = Some(Machine::new(self.config, self.holder, self.highest));
                self.stage = Stage::Acquiring { cancelled: false, discarding: None };
                self.feed(now, Input::Tick, effects);
            }
            Event::Cancel => self.cancel(effects),
            Event::LetGo if matches!(self.stage, Stage::Keeping { .. }) => {
                self.end(now, LossReason::Released, effects);
            }
            Event::Write => self.write(now, effects),
            Event::Wake => self.wake(now, effects),
            Event::Answered(call, answer) => self.answered(now, call, answer, effects),
            Event::RowAnswered(call, accepted) => self.row_answered(now, call, accepted, effects),
            Event::TermEnded(ended) => {
                if matches!(self.stage, Stage::Keeping { token, .. } if token == ended) {
                    self.feed(now, Input::TermEnded, effects);
                }
            }
            Event::Acquire | Event::LetGo => {}
        }
    }

    fn wake(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match &self.stage {
            Stage::Idle => return,
            Stage::Acquiring { discarding: Some(discarding), .. } => {
                if now >= discarding.deadline {
                    effects.push(Effect::Abandon(discarding.call));
                    self.discarded(effects);
                }
                return;
            }
            Stage::Releasing { token, deadline, again_at, .. } => {
                if now >= *deadline {
                    self.abandon(effects);
                    self.idle(effects);
                } else if again_at.is_some_and(|at| now >= at) {
                    self.send_release(*token, effects);
                }
                return;
            }
            Stage::Keeping {
                worker: Worker::TakingOver { deadline, .. } | Worker::Writing { deadline, .. },
                ..
            } if now >= *deadline => {
                // What became of the row is unclear, so this holder starts afresh, under another token.
                self.end(now, LossReason::Released, effects);
                return;
            }
            Stage::Acquiring { .. } | Stage::Keeping { .. } => {}
        }
        if let Some(pending) = self.pending.take_if(|pending| pending.deadline.is_some_and(|at| now >= at)) {
            effects.push(Effect::Abandon(pending.call));
            self.settle(now, pending, Answer::Failed(LockErrorKind::Timeout), effects);
        } else if self.machine_tick().is_some_and(|at| now >= at) {
            self.feed(now, Input::Tick, effects);
        }
    }

    /// Nobody waits for the lease any more; a try that is on its way is waited for, so that its grant is not left behind.
    fn cancel(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Acquiring { cancelled, discarding: None } = &mut self.stage else { return };
        *cancelled = true;
        if !self.pending.as_ref().is_some_and(|pending| matches!(pending.kind, Kind::Try(_))) {
            self.abandon(effects);
            self.idle(effects);
        }
    }

    fn write(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let deadline = now.after(self.config.ttl());
        let call = self.next_call();
        let Stage::Keeping { token, until, worker: worker @ Worker::Ready } = &mut self.stage else { return };
        if now >= *until {
            self.end(now, LossReason::Expired, effects);
            return;
        }
        *worker = Worker::Writing { call, deadline };
        effects.push(Effect::Row(call, RowRequest::Write(*token)));
    }

    fn row_answered(&mut self, now: Timestamp, call: CallId, accepted: bool, effects: &mut Vec<Effect>) {
        let Stage::Keeping { worker, .. } = &mut self.stage else { return };
        match *worker {
            Worker::TakingOver { call: asked, .. } | Worker::Writing { call: asked, .. } if asked == call => {
                *worker = Worker::Ready;
                if !accepted {
                    self.end(now, LossReason::Released, effects);
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, now: Timestamp, call: CallId, answer: Answer, effects: &mut Vec<Effect>) {
        match &mut self.stage {
            Stage::Acquiring { discarding: Some(discarding), .. } if discarding.call == call => {
                return self.discarded(effects);
            }
            Stage::Releasing { call: Some(release), .. } if *release == call => {
                return self.released(now, &answer, effects);
            }
            _ => {}
        }
        if let Some(pending) = self.pending.take_if(|pending| pending.call == call) {
            self.settle(now, pending, answer, effects);
        }
    }

    /// The machine's request has come to an end, with an answer or without.
    fn settle(&mut self, now: Timestamp, pending: Pending, answer: Answer, effects: &mut Vec<Effect>) {
        match self.stage {
            Stage::Releasing { token, .. } => return self.send_release(token, effects),
            Stage::Acquiring { cancelled: true, .. } => {
                return match answer {
                    Answer::Tried(TryAcquire::Granted(token)) => self.discard(now, token, effects),
                    _ => self.idle(effects),
                };
            }
            _ => {}
        }
        if let Some(before) = pending.before {
            // The machine hears only now that it asked, so it believes that it asked just now.
            let (mut machine, input) = *before;
            machine.handle(now, input);
            self.machine = Some(machine);
        }
        let kind = match &answer {
            Answer::Failed(kind) => *kind,
            _ => LockErrorKind::Inconsistent,
        };
        let input = match (pending.kind, answer) {
            (Kind::Try(request), Answer::Tried(reply)) => Input::Tried { request, reply: Ok(reply) },
            (Kind::Try(request), _) if self.broken == Some(Break::Unclear) && kind.is_transient() => {
                let guess = self.machine.as_ref().and_then(Machine::highest).and_then(FencingToken::next);
                let reply = Ok(TryAcquire::Granted(guess.unwrap_or(FencingToken::FIRST)));
                Input::Tried { request, reply }
            }
            (Kind::Try(request), _) => Input::Tried { request, reply: Err(kind) },
            (Kind::Wait, Answer::Done | Answer::Failed(LockErrorKind::Timeout)) => Input::Waited(Ok(())),
            (Kind::Wait, _) => Input::Waited(Err(kind)),
            (Kind::Renew(request), Answer::Renewed(reply)) => Input::Renewed { request, reply: Ok(reply) },
            (Kind::Renew(request), _) if self.broken == Some(Break::Unclear) => {
                Input::Renewed { request, reply: Ok(Renewal::Renewed) }
            }
            (Kind::Renew(request), _) => Input::Renewed { request, reply: Err(kind) },
        };
        self.feed(now, input, effects);
    }

    /// Hands the machine an input and does what it says.
    fn feed(&mut self, now: Timestamp, input: Input, effects: &mut Vec<Effect>) {
        let Some(machine) = &mut self.machine else { return };
        let mut before =
            (self.broken == Some(Break::Anchor)).then(|| Box::new((machine.clone(), input.clone())));
        for action in machine.handle(now, input) {
            let ttl = self.config.ttl();
            match action {
                Action::Try { request } => {
                    let deadline = Some(now.after(ttl));
                    self.send(now, Kind::Try(request), Ask::Try, deadline, before.take(), effects);
                }
                Action::Wait { limit } => {
                    let deadline = Some(now.after(limit).after(WAIT_GRACE));
                    self.send(now, Kind::Wait, Ask::Wait(limit), deadline, None, effects);
                }
                Action::Renew { request, token } => {
                    self.send(now, Kind::Renew(request), Ask::Renew(token), None, before.take(), effects);
                }
                Action::Discard { token } => self.discard(now, token, effects),
                Action::Held { token, valid_until } => self.held(now, token, valid_until, effects),
                Action::Lost { reason } => self.end(now, reason, effects),
                Action::GiveUp(cause) => match &mut self.stage {
                    Stage::Acquiring { discarding: Some(discarding), .. } => discarding.then = Some(cause),
                    _ => self.give_up(cause, effects),
                },
            }
        }
    }

    fn held(
        &mut self,
        now: Timestamp,
        token: FencingToken,
        valid_until: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if let Stage::Keeping { until, .. } = &mut self.stage {
            *until = valid_until.max(*until);
            effects.push(Effect::Held { token, until: *until, first: false });
            return;
        }
        let call = self.next_call();
        let worker = Worker::TakingOver { call, deadline: now.after(self.config.ttl()) };
        self.stage = Stage::Keeping { token, until: valid_until, worker };
        effects.push(Effect::Held { token, until: valid_until, first: true });
        effects.push(Effect::Row(call, RowRequest::TakeOver(token)));
    }

    /// The lease is over. The term is given back, once a renewal that is on its way has been answered.
    fn end(&mut self, now: Timestamp, reason: LossReason, effects: &mut Vec<Effect>) {
        let Stage::Keeping { token, .. } = self.stage else { return };
        effects.push(Effect::Over(reason));
        if reason == LossReason::NotHolder {
            self.abandon(effects);
            return self.idle(effects);
        }
        let deadline = now.after(self.release_limit);
        self.stage = Stage::Releasing { token, deadline, call: None, again_at: None };
        if self.pending.is_none() {
            self.send_release(token, effects);
        }
    }

    fn send_release(&mut self, token: FencingToken, effects: &mut Vec<Effect>) {
        let id = self.next_call();
        if let Stage::Releasing { call, again_at, .. } = &mut self.stage {
            (*call, *again_at) = (Some(id), None);
        }
        effects.push(Effect::Ask(id, Ask::Release(token)));
    }

    fn released(&mut self, now: Timestamp, answer: &Answer, effects: &mut Vec<Effect>) {
        match (answer, &mut self.stage) {
            (Answer::Failed(kind), Stage::Releasing { call, again_at, .. }) if kind.is_transient() => {
                (*call, *again_at) = (None, Some(now.after(RELEASE_PAUSE)));
            }
            _ => self.idle(effects),
        }
    }

    fn discard(&mut self, now: Timestamp, token: FencingToken, effects: &mut Vec<Effect>) {
        let call = self.next_call();
        let deadline = now.after(self.release_limit);
        if let Stage::Acquiring { discarding, .. } = &mut self.stage {
            *discarding = Some(Discarding { call, deadline, then: None });
        }
        effects.push(Effect::Ask(call, Ask::Release(token)));
    }

    fn discarded(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Acquiring { cancelled, discarding } = &mut self.stage else { return };
        match discarding.take().and_then(|discarding| discarding.then) {
            Some(cause) => self.give_up(cause, effects),
            None if *cancelled => self.idle(effects),
            None => {}
        }
    }

    fn give_up(&mut self, cause: Cause, effects: &mut Vec<Effect>) {
        effects.push(Effect::GaveUp(cause));
        self.idle(effects);
    }

    fn idle(&mut self, effects: &mut Vec<Effect>) {
        if let Some(machine) = self.machine.take() {
            self.highest = machine.highest();
        }
        self.stage = Stage::Idle;
        effects.push(Effect::Idle);
    }

    fn send(
        &mut self,
        now: Timestamp,
        kind: Kind,
        ask: Ask,
        deadline: Option<Timestamp>,
        before: Option<Box<(Machine, Input)>>,
        effects: &mut Vec<Effect>,
    ) {
        // A wait that outlived its use: the machine asks for something else.
        self.abandon(effects);
        let call = self.next_call();
        self.pending = Some(Pending { call, sent: now, kind, deadline, before });
        effects.push(Effect::Ask(call, ask));
    }

    fn abandon(&mut self, effects: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.take() {
            effects.push(Effect::Abandon(pending.call));
        }
    }

    fn next_call(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
