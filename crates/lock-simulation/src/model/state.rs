//! One state of the model, and all that can happen in it.

use std::time::Duration;

use dapper_lock::{FencingToken, HolderId, LeaseConfig, Timestamp, TryAcquire};

use super::Configuration;
use crate::driver::{Answer, Ask, CallId, Driver, Effect, Event, Stage};
use crate::store::{Caller, SessionId, StoredLease};
use crate::{Break, Row, RowRequest, Violation};

/// The length of a tick. Everything in the machine that is shorter (pauses, the limits of waits and releases) is far
/// below it.
pub(super) const TICK: Duration = Duration::from_secs(600);

/// What is shared by all states of one exploration.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) configuration: Configuration,
    lease: LeaseConfig,
    /// The identities of each node's starts.
    holders: Vec<Vec<HolderId>>,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The store's clock, in ticks.
    pub(super) now: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) messages: Vec<Message>,
    pub(super) lease: StoredLease,
    pub(super) row: Row,
    /// The highest token that was granted.
    pub(super) granted: Option<FencingToken>,
    /// The highest token whose holder has begun with the row.
    pub(super) begun: Option<FencingToken>,
    pub(super) pauses: u8,
    pub(super) losses: u8,
    pub(super) restarts: u8,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) driver: Driver,
    pub(super) local: Timestamp,
    pub(super) start: u8,
    /// Excused from everything that is due, until its next step.
    pub(super) paused: bool,
    /// For a node whose clock is slow: ticks since it last missed one.
    pub(super) since_miss: Option<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) node: u8,
    pub(super) start: u8,
    pub(super) body: Body,
    pub(super) age: u8,
    /// Comes at any time, or never.
    pub(super) late: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    Call(CallId, Ask),
    Answer(CallId, Answer),
    RowCall(CallId, RowRequest),
    RowAnswer(CallId, bool),
    Goodbye,
}

/// A state that can follow, and how it came about, or what is wrong with it.
pub(super) type Successor = (State, Step, Option<Violation>);

/// What happens from one state to the next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Tick { paused: u8, missed: u8 },
    Node(usize, Event),
    Delivered(Message),
    Restart(usize),
}

impl Rules {
    pub(super) fn new(configuration: Configuration) -> Self {
        let Configuration { ttl, margin, renew_every, broken, .. } = configuration;
        let margin =
            if broken == Some(Break::Margin) { Duration::from_nanos(1) } else { TICK * u32::from(margin) };
        let lease = LeaseConfig::new(TICK * u32::from(ttl), TICK * u32::from(renew_every), margin)
            .expect("the configuration was checked");
        let starts = usize::from(configuration.restarts) + 1;
        let holders = (0..usize::from(configuration.nodes))
            .map(|node| (0..starts).map(|start| holder(node, start)).collect());
        Self { holders: holders.collect(), configuration, lease }
    }

    pub(super) fn initial(&self) -> State {
        let Configuration { nodes, slow_clocks, pauses, losses, restarts, broken, .. } = self.configuration;
        let node = |index: usize| Node {
            driver: self.driver(index, 0),
            local: Timestamp::from_origin(TICK),
            start: 0,
            paused: false,
            since_miss: (index < usize::from(slow_clocks)).then_some(u8::MAX),
        };
        State {
            now: 1,
            nodes: (0..usize::from(nodes)).map(node).collect(),
            messages: Vec::new(),
            lease: StoredLease::new(broken),
            row: Row::new(broken),
            granted: None,
            begun: None,
            pauses,
            losses,
            restarts,
        }
    }

    pub(super) fn holder(&self, node: usize, start: u8) -> HolderId {
        self.holders[node][usize::from(start)]
    }

    fn driver(&self, node: usize, start: u8) -> Driver {
        Driver::new(self.lease, self.holders[node][usize::from(start)], self.configuration.broken)
            .in_proportion()
    }

    /// All states that can follow.
    pub(super) fn successors(&self, state: &State, successors: &mut Vec<Successor>) {
        for node in 0..state.nodes.len() {
            for event in self.events(state, node) {
                let mut next = state.clone();
                self.step(&mut next, node, event.clone());
                let found = self.check(&next);
                successors.push((next, Step::Node(node, event), found));
            }
            if state.restarts > 0 {
                let mut next = state.clone();
                self.restart(&mut next, node);
                successors.push((next, Step::Restart(node), None));
            }
        }
        for index in 0..state.messages.len() {
            let mut next = state.clone();
            let message = next.messages.swap_remove(index);
            let found = self.deliver(&mut next, &message).or_else(|| self.check(&next));
            self.forget_idle_messages(&mut next);
            successors.push((next, Step::Delivered(message), found));
        }
        self.ticks(state, successors);
    }

    /// What a node can do by itself.
    fn events(&self, state: &State, node: usize) -> Vec<Event> {
        let Node { driver, local, .. } = &state.nodes[node];
        let mut events = Vec::new();
        match driver.stage() {
            Stage::Idle => events.push(Event::Acquire),
            _ if is_lazy(driver) || is_due(&state.nodes[node]) => events.push(Event::Wake),
            _ => {}
        }
        if driver.is_ready() && driver.valid(*local).is_some() {
            events.push(Event::Write);
        }
        if self.configuration.let_go && driver.is_ready() {
            events.push(Event::LetGo);
        }
        events
    }

    fn step(&self, state: &mut State, index: usize, event: Event) {
        let node = &mut state.nodes[index];
        node.paused = false;
        if let (Event::Wake, Some(at)) = (&event, node.driver.next_wake()) {
            // Where only a pause or a limit far below a tick is left of it, its clock is a little ahead of what it was:
            // it has no other time in mind, so nothing else moves.
            node.local = node.local.max(at);
        }
        let mut effects = Vec::new();
        node.driver.handle(node.local, event, &mut effects);
        for effect in effects {
            let body = match effect {
                // A wait may return at any time, so it is not even sent: the driver's own limit ends it.
                Effect::Ask(_, Ask::Wait(_)) => continue,
                Effect::Ask(call, ask) => Body::Call(call, ask),
                Effect::Row(call, request) => Body::RowCall(call, request),
                _ => continue,
            };
            self.send(state, index, body);
        }
        self.forget_idle_messages(state);
    }

    /// Takes out messages that would change nothing, now or ever: answers that nobody listens to, and calls that nobody
    /// listens to the answer of and whose token is below the one that they would have to equal, for tokens only grow.
    fn forget_idle_messages(&self, state: &mut State) {
        let State { nodes, messages, lease, row, .. } = state;
        let is_exact = self.configuration.broken.is_none();
        messages.retain(|message| {
            let node = &nodes[usize::from(message.node)];
            let is_awaited = |call| message.start == node.start && node.driver.awaits(call);
            match message.body {
                Body::Answer(call, _) | Body::RowAnswer(call, _) => is_awaited(call),
                Body::Call(call, Ask::Renew(token) | Ask::Release(token)) if is_exact => {
                    is_awaited(call) || Some(token) >= lease.token()
                }
                Body::RowCall(call, RowRequest::TakeOver(token) | RowRequest::Write(token)) if is_exact => {
                    is_awaited(call) || Some(token) >= row.token()
                }
                _ => true,
            }
        });
    }

    fn send(&self, state: &mut State, node: usize, body: Body) {
        let start = state.nodes[node].start;
        state.messages.push(Message { node: node as u8, start, body, age: 0, late: false });
    }

    fn restart(&self, state: &mut State, index: usize) {
        state.restarts -= 1;
        if self.configuration.sessions {
            self.send(state, index, Body::Goodbye);
        }
        let node = &mut state.nodes[index];
        node.start += 1;
        node.paused = false;
        node.driver = self.driver(index, node.start);
        self.forget_idle_messages(state);
    }

    fn deliver(&self, state: &mut State, message: &Message) -> Option<Violation> {
        let index = usize::from(message.node);
        let holder = self.holders[index][usize::from(message.start)];
        let answer = match &message.body {
            Body::Answer(call, answer) => {
                self.step(state, index, Event::Answered(*call, answer.clone()));
                return None;
            }
            Body::RowAnswer(call, accepted) => {
                self.step(state, index, Event::RowAnswered(*call, *accepted));
                return None;
            }
            Body::Goodbye => {
                state.lease.end_session(session(index, message.start));
                return None;
            }
            Body::RowCall(call, request) => {
                let accepted = state.row.handle(*request);
                let (RowRequest::TakeOver(token) | RowRequest::Write(token)) = *request;
                if accepted && let Some(begun) = state.begun.filter(|begun| token < *begun) {
                    return Some(Violation::StaleWrite { accepted: token, begun });
                }
                if accepted {
                    state.begun = Some(token);
                }
                Body::RowAnswer(*call, accepted)
            }
            Body::Call(call, ask) => {
                let now = Timestamp::from_origin(TICK * state.now);
                let session = self.configuration.sessions.then(|| session(index, message.start));
                let caller = Caller { holder, ttl: self.lease.ttl(), session };
                let answer = match *ask {
                    Ask::Try => Answer::Tried(state.lease.try_acquire(now, caller)?),
                    Ask::Renew(token) => Answer::Renewed(state.lease.renew(now, token, caller)),
                    Ask::Release(token) => {
                        state.lease.release(holder, token);
                        Answer::Done
                    }
                    Ask::Wait(_) => Answer::Done,
                };
                if let Answer::Tried(TryAcquire::Granted(token)) = answer {
                    if let Some(before) = state.granted.filter(|before| token <= *before) {
                        return Some(Violation::TokenOrder { token, before });
                    }
                    state.granted = Some(token);
                }
                Body::Answer(*call, answer)
            }
        };
        let node = &state.nodes[index];
        let is_awaited = match answer {
            Body::Answer(call, _) | Body::RowAnswer(call, _) => node.driver.awaits(call),
            _ => false,
        };
        if node.start != message.start || !is_awaited {
            return None;
        }
        match answer {
            // To hear later that another holds it, or not at all, is to try again later, which it may do anyhow.
            Body::Answer(call, Answer::Tried(TryAcquire::Held(held))) if held.holder != holder => {
                let is_paused = node.paused;
                self.step(state, index, Event::Answered(call, Answer::Tried(TryAcquire::Held(held))));
                state.nodes[index].paused = is_paused;
            }
            Body::RowAnswer(call, accepted) if !node.paused => {
                self.step(state, index, Event::RowAnswered(call, accepted));
            }
            answer => self.send(state, index, answer),
        }
        None
    }

    /// Time goes on. Whatever is due must have been done, unless its node pauses or its message is lost or late.
    fn ticks(&self, state: &State, successors: &mut Vec<Successor>) {
        let delay = self.configuration.delay;
        let is_overdue = |message: &Message| message.age >= delay && !message.late;
        let mut duties = 0_u8;
        let mut must_pause = 0_u8;
        for (index, node) in state.nodes.iter().enumerate().filter(|(_, node)| !node.paused) {
            let bit = 1 << index;
            let is_due = is_due(node);
            if is_due {
                must_pause |= bit;
            }
            if is_due
                || state
                    .messages
                    .iter()
                    .any(|message| usize::from(message.node) == index && is_overdue(message))
            {
                duties |= bit;
            }
        }
        for paused in 0..1_u8 << state.nodes.len() {
            if paused & !duties != 0
                || must_pause & !paused != 0
                || paused.count_ones() > u32::from(state.pauses)
            {
                continue;
            }
            let is_excused = |message: &Message| {
                let node = &state.nodes[usize::from(message.node)];
                node.start == message.start && (node.paused || paused & (1 << message.node) != 0)
            };
            let lost =
                state.messages.iter().filter(|message| is_overdue(message) && !is_excused(message)).count();
            if lost > usize::from(state.losses) {
                continue;
            }
            let mut next = state.clone();
            next.pauses -= paused.count_ones() as u8;
            next.losses -= lost as u8;
            for message in &mut next.messages {
                if is_overdue(message) && !is_excused(message) {
                    (message.late, message.age) = (true, 0);
                } else if !message.late {
                    message.age = (message.age + 1).min(delay);
                }
            }
            next.now += 1;
            for (index, node) in next.nodes.iter_mut().enumerate() {
                node.paused |= paused & (1 << index) != 0;
            }
            self.advance_clocks(&next, paused, successors);
        }
    }

    /// Every clock ticks; a slow one may miss the tick if it did not miss one of the last few.
    fn advance_clocks(&self, state: &State, paused: u8, successors: &mut Vec<Successor>) {
        let Configuration { ttl, margin, .. } = self.configuration;
        // One in ttl / margin is the stated bound.
        let every = ttl / margin - 1;
        for missed in 0..1_u8 << state.nodes.len() {
            let may_miss =
                |index: usize| state.nodes[index].since_miss.is_some_and(|since_miss| since_miss >= every);
            if (0..state.nodes.len()).any(|index| missed & (1 << index) != 0 && !may_miss(index)) {
                continue;
            }
            let mut next = state.clone();
            for (index, node) in next.nodes.iter_mut().enumerate() {
                if missed & (1 << index) != 0 {
                    node.since_miss = Some(0);
                } else {
                    node.local = node.local.after(TICK);
                    node.since_miss =
                        node.since_miss.map(|since_miss| since_miss.saturating_add(1).min(every));
                }
            }
            let found = self.check(&next);
            successors.push((next, Step::Tick { paused, missed }, found));
        }
    }

    fn check(&self, state: &State) -> Option<Violation> {
        let mut valid = state.nodes.iter().filter_map(|node| node.driver.valid(node.local));
        let (one, other) = (valid.next()?, valid.next()?);
        Some(Violation::TwoHolders { new: one.max(other), old: one.min(other) })
    }
}

fn holder(node: usize, start: usize) -> HolderId {
    format!("{node:016x}{start:016x}").parse().expect("32 hexadecimal digits are an identity")
}

/// Whether the node has something to do before time may go on.
fn is_due(node: &Node) -> bool {
    !is_lazy(&node.driver) && node.driver.next_wake().is_some_and(|at| at <= node.local)
}

/// Whether the driver may try again at any time, now or later.
pub(super) fn is_lazy(driver: &Driver) -> bool {
    match driver.stage() {
        Stage::Idle => true,
        Stage::Acquiring { discarding: None, .. } => driver.request().is_none(),
        _ => false,
    }
}

pub(super) fn session(node: usize, start: u8) -> SessionId {
    SessionId(node as u32 * 256 + u32::from(start))
}
