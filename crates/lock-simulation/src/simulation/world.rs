//! Nodes, their drivers, and the time in which everything happens.

use dapper_lock::{HolderId, LossReason, Timestamp};
use fastrand::Rng;

use super::clock::Clock;
use super::judge::Book;
use super::queue::{Address, Happening, Queue};
use super::scenario::Scenario;
use super::{Outcome, Tally};
use crate::driver::{Ask, CallId, Driver, Effect, Event};
use crate::store::{Caller, SessionId, StoredLease};
use crate::{Break, Row, Violation};

/// Everything there is in one run.
pub(crate) struct World {
    pub(super) rng: Rng,
    pub(super) scenario: Scenario,
    pub(super) broken: Option<Break>,
    /// The store's clock, which is the time of everything.
    pub(super) now: u64,
    pub(super) queue: Queue,
    pub(super) nodes: Vec<Node>,
    pub(super) seats: Vec<Seat>,
    pub(super) resources: Vec<Resource>,
    pub(super) sessions: Vec<Session>,
    pub(super) store_is_up: bool,
    pub(super) tally: Tally,
    violations: Vec<Violation>,
    trace: Option<Vec<String>>,
    effects: Vec<Effect>,
}

/// A machine with one process that has a driver for each resource.
pub(super) struct Node {
    pub(super) clock: Clock,
    pub(super) run: Run,
    /// How often its process was started.
    pub(super) start: u32,
    pub(super) links: Links,
    /// Since when the store hears nothing of it.
    pub(super) silent_since: Option<u64>,
    /// How often that began.
    pub(super) silences: u32,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Up,
    Frozen { until: u64 },
    Suspended { until: u64 },
    Down,
}

/// Which directions of a node's network work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) to_store: bool,
    pub(super) from_store: bool,
    pub(super) to_row: bool,
    pub(super) from_row: bool,
}

impl Links {
    pub(super) const UP: Self = Self { to_store: true, from_store: true, to_row: true, from_row: true };
}

/// A driver and what surrounds it in its process.
pub(super) struct Seat {
    pub(super) node: usize,
    pub(super) resource: usize,
    pub(super) driver: Driver,
    pub(super) session: Option<SessionId>,
    /// When its timer is set to; the end of time when it is not.
    wake_at: u64,
}

/// A lease in the store, its waiters, the row that it protects, and the judge's book on both.
pub(super) struct Resource {
    pub(super) lease: StoredLease,
    pub(super) waiters: Vec<Waiter>,
    pub(super) row: Row,
    pub(super) book: Book,
    pub(super) written_when_calm: Option<u64>,
}

/// A call that waits at the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) from: Address,
    pub(crate) session: Option<SessionId>,
    pub(crate) call: CallId,
}

/// A session at the store.
pub(super) struct Session {
    pub(super) owner: Address,
    pub(super) is_alive: bool,
    /// When the store heard of it first.
    pub(super) opened_at: u64,
    /// The term that was granted in it.
    pub(super) token: Option<dapper_lock::FencingToken>,
}

impl World {
    /// The beginning of the run of `seed`.
    pub(crate) fn new(seed: u64, broken: Option<Break>, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let scenario = Scenario::draw(&mut rng, broken);
        let nodes = (0..scenario.nodes).map(|_| Node {
            clock: draw_clock(&mut rng, scenario.clock_bound_ppm),
            run: Run::Up,
            start: 1,
            links: Links::UP,
            silent_since: None,
            silences: 0,
        });
        let nodes: Vec<Node> = nodes.collect();
        let resource = || Resource {
            lease: StoredLease::new(broken),
            waiters: Vec::new(),
            row: Row::new(broken),
            book: Book::default(),
            written_when_calm: None,
        };
        let resources = (0..scenario.resources).map(|_| resource()).collect();
        let mut world = Self {
            rng,
            broken,
            now: 0,
            queue: Queue::default(),
            nodes,
            seats: Vec::new(),
            resources,
            sessions: Vec::new(),
            store_is_up: true,
            tally: Tally::default(),
            violations: Vec::new(),
            trace: traced.then(Vec::new),
            effects: Vec::new(),
            scenario,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.scenario.nodes {
            let holder = self.draw_holder();
            for resource in 0..self.scenario.resources {
                let driver = Driver::new(self.scenario.config, holder, self.broken);
                self.seats.push(Seat { node, resource, driver, session: None, wake_at: u64::MAX });
                self.next_idea(self.seats.len() - 1);
            }
        }
        if !self.scenario.faults.is_empty() {
            self.next_fault();
        }
        self.note(|world| format!("{:?}", world.scenario));
        for node in 0..self.nodes.len() {
            self.note(|world| {
                let rate = world.nodes[node].clock.rate_ppm();
                format!("node {node}: its clock runs at {rate} millionths of the store's")
            });
        }
    }

    /// Lets everything happen.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some((at, happening)) = self.queue.pop() {
            if at > self.scenario.ends_at {
                break;
            }
            self.now = at;
            self.tally.events += 1;
            self.happen(happening);
        }
        self.now = self.scenario.ends_at;
        for resource in 0..self.resources.len() {
            match self.resources[resource].written_when_calm {
                Some(at) => {
                    let thousandths = (at - self.scenario.calm_at) * 1000 / self.scenario.ttl;
                    self.tally.slowest_progress = self.tally.slowest_progress.max(thousandths);
                }
                None => self.violated(Violation::NoProgress),
            }
        }
        Outcome { tally: self.tally, violations: self.violations, trace: self.trace.unwrap_or_default() }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(seat) => self.timer(seat),
            Happening::Idea(at) => {
                if self.reaches(at, Happening::Idea(at)) {
                    self.idea(at.seat);
                }
            }
            Happening::Call { from, call, caller, ask } => self.call_arrives(from, call, caller, ask),
            Happening::Answer { to, session, call, ref answer } => {
                let answer = answer.clone();
                if self.reaches(to, happening) {
                    self.answer_arrives(to, session, call, answer);
                }
            }
            Happening::WaitOver(waiter) => self.wait_is_over(waiter),
            Happening::RowCall { from, call, caller, request } => {
                self.row_call_arrives(from, call, caller, request);
            }
            Happening::RowAnswer { to, call, accepted } => {
                if self.reaches(to, happening) {
                    self.feed(to.seat, Event::RowAnswered(call, accepted));
                }
            }
            Happening::TermEnded { to, session, token } => {
                if self.reaches(to, happening) {
                    let seat = &mut self.seats[to.seat];
                    seat.session.take_if(|current| *current == session);
                    self.feed(to.seat, Event::TermEnded(token));
                }
            }
            Happening::Goodbye(session) => self.end_session(session),
            Happening::Patience { node, silence } => self.patience_is_over(node, silence),
            Happening::Fault => self.fault(),
            Happening::Resume(node) => self.resume(node),
            Happening::Boot(node) => self.boot(node),
            Happening::Mend(node) => self.mend(node),
            Happening::StoreUp => {
                self.store_is_up = true;
                self.note(|_| "the store is back".to_owned());
            }
        }
    }

    /// Whether something for a driver is received now. A paused node receives it when it goes on, in any order.
    fn reaches(&mut self, to: Address, happening: Happening) -> bool {
        let node = &self.nodes[self.seats[to.seat].node];
        if node.start != to.start {
            return false;
        }
        match node.run {
            Run::Up => true,
            Run::Down => false,
            Run::Frozen { until } | Run::Suspended { until } => {
                let at = until + self.rng.u64(0..=self.scenario.ttl / 1000);
                self.queue.push(at, happening);
                false
            }
        }
    }

    fn timer(&mut self, seat: usize) {
        if self.seats[seat].wake_at != self.now {
            return;
        }
        let ttl = self.scenario.ttl;
        let later = match self.nodes[self.seats[seat].node].run {
            Run::Up => None,
            Run::Down => return,
            Run::Frozen { until } => Some(until + self.rng.u64(0..=ttl / 1000)),
            // Timers stood still; the driver sets them to no more than a margin, so as to notice.
            Run::Suspended { until } => {
                let margin = self.scenario.config.margin().as_nanos() as u64;
                Some(until + self.rng.u64(0..=margin.max(10_000_000)))
            }
        };
        if let Some(later) = later {
            self.seats[seat].wake_at = later;
            self.queue.push(later, Happening::Wake(seat));
            return;
        }
        self.seats[seat].wake_at = u64::MAX;
        self.feed(seat, Event::Wake);
    }

    fn idea(&mut self, seat: usize) {
        self.next_idea(seat);
        let driver = &self.seats[seat].driver;
        let is_calm = self.is_calm();
        let by_chance = |rng: &mut Rng, odds| !is_calm && rng.u32(0..1000) < odds;
        let event = if driver.is_idle() {
            Event::Acquire
        } else if driver.is_acquiring() {
            if !by_chance(&mut self.rng, self.scenario.cancels) {
                return;
            }
            Event::Cancel
        } else if by_chance(&mut self.rng, self.scenario.lets_go) {
            Event::LetGo
        } else if driver.is_ready() {
            Event::Write
        } else {
            return;
        };
        self.note(|world| format!("{}: user: {event:?}", world.name(seat)));
        self.feed(seat, event);
    }

    fn next_idea(&mut self, seat: usize) {
        let leisurely = self.now + self.rng.u64(0..=2 * self.scenario.user_every);
        // How fast the lease recovers is asked when all is calm, not how slow its users are.
        let is_awaited = self.resources[self.seats[seat].resource].written_when_calm.is_none();
        let eager = self.now.max(self.scenario.calm_at) + self.rng.u64(0..=self.scenario.ttl / 10);
        let at = if is_awaited { leisurely.min(eager) } else { leisurely };
        let address = self.address(seat);
        self.queue.push(at, Happening::Idea(address));
    }

    /// Lets a driver take something in, does what it says, and sets its timer.
    pub(super) fn feed(&mut self, seat: usize, event: Event) {
        let now = self.local_time(seat);
        let mut effects = std::mem::take(&mut self.effects);
        self.seats[seat].driver.handle(now, event, &mut effects);
        for effect in effects.drain(..) {
            self.note(|world| format!("{}: {effect:?}", world.name(seat)));
            match effect {
                Effect::Ask(call, ask) => self.send_call(seat, call, ask),
                Effect::Abandon(_) => self.close_session(seat),
                Effect::Row(call, request) => self.send_row_call(seat, call, request),
                Effect::Held { token, until, first } => self.held(seat, token, until, first),
                Effect::Over(reason) => match reason {
                    LossReason::Expired => self.tally.expired += 1,
                    LossReason::NotHolder => self.tally.not_holder += 1,
                    LossReason::SessionLost => self.tally.session_lost += 1,
                    _ => {}
                },
                Effect::GaveUp(_) => self.tally.gave_up += 1,
                Effect::Idle => self.close_session(seat),
            }
        }
        self.effects = effects;
        self.set_timer(seat);
    }

    fn set_timer(&mut self, seat: usize) {
        let Some(next) = self.seats[seat].driver.next_wake() else { return };
        let mut at = self.nodes[self.seats[seat].node].clock.when(next).max(self.now);
        if at >= self.seats[seat].wake_at {
            return;
        }
        // Now and then a runtime is starved, and its timers fire late.
        if !self.is_calm() && self.chance(self.scenario.slow) {
            at += self.rng.u64(0..=self.scenario.ttl);
        }
        self.seats[seat].wake_at = at;
        self.queue.push(at, Happening::Wake(seat));
    }

    /// A term began or was renewed: nobody else may be valid now, and it may not be trusted beyond the promise.
    fn held(&mut self, seat: usize, token: dapper_lock::FencingToken, until: Timestamp, first: bool) {
        self.tally.terms += u64::from(first);
        self.tally.renewals += u64::from(!first);
        let resource = self.seats[seat].resource;
        for other in 0..self.seats.len() {
            if other == seat || self.seats[other].resource != resource {
                continue;
            }
            let Some(theirs) = self.seats[other].driver.valid(self.local_time(other)) else { continue };
            if self.resources[resource].book.is_forced(theirs.min(token)) {
                self.tally.forced_overlaps += 1;
            } else {
                self.violated(Violation::TwoHolders { new: token, old: theirs });
            }
        }
        let promised = self.resources[resource].book.promised_until(token);
        if self.nodes[self.seats[seat].node].clock.read(promised) < until {
            self.violated(Violation::Trust { token });
        }
    }

    pub(super) fn violated(&mut self, violation: Violation) {
        self.note(|_| format!("VIOLATION: {violation}"));
        // One of each kind says enough.
        let is_known =
            |known: &Violation| std::mem::discriminant(known) == std::mem::discriminant(&violation);
        if !self.violations.iter().any(is_known) {
            self.violations.push(violation);
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = format!("{:>12.6}  {}", self.now as f64 / 1e9, line(self));
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    pub(super) fn name(&self, seat: usize) -> String {
        let Seat { node, resource, .. } = self.seats[seat];
        format!("node {node}.{} resource {resource}", self.nodes[node].start)
    }

    pub(super) fn address(&self, seat: usize) -> Address {
        Address { seat, start: self.nodes[self.seats[seat].node].start }
    }

    pub(super) fn caller(&self, seat: usize) -> Caller {
        let Seat { driver, session, .. } = &self.seats[seat];
        Caller { holder: driver.holder(), ttl: self.scenario.config.ttl(), session: *session }
    }

    pub(super) fn local_time(&self, seat: usize) -> Timestamp {
        self.nodes[self.seats[seat].node].clock.read(self.now)
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= self.scenario.calm_at
    }

    pub(super) fn chance(&mut self, odds: u32) -> bool {
        odds > 0 && self.rng.u32(0..1000) < odds
    }

    fn draw_holder(&mut self) -> HolderId {
        format!("{:032x}", self.rng.u128(..)).parse().expect("32 hexadecimal digits are an identity")
    }

    /// A new start of a node's process: nothing is left of the last.
    pub(super) fn renew_process(&mut self, node: usize) {
        self.nodes[node].start += 1;
        let holder = self.draw_holder();
        for seat in 0..self.seats.len() {
            if self.seats[seat].node == node {
                self.seats[seat].driver = Driver::new(self.scenario.config, holder, self.broken);
                self.seats[seat].session = None;
                self.seats[seat].wake_at = u64::MAX;
                self.next_idea(seat);
            }
        }
    }

    /// Where an answer to a call goes.
    pub(super) fn is_release(ask: Ask) -> bool {
        matches!(ask, Ask::Release(_))
    }
}

/// A clock within the stated bound: a third of them as slow as may be, a third anywhere, a third exact.
fn draw_clock(rng: &mut Rng, bound_ppm: u64) -> Clock {
    // The bound is exclusive.
    let bound = bound_ppm.saturating_sub(1);
    let rate = match rng.u8(..3) {
        0 => 1_000_000 - bound,
        1 => 1_000_000 - bound + rng.u64(0..=2 * bound),
        _ => 1_000_000,
    };
    Clock::new(rng.u64(0..=1_000_000_000_000), rate)
}
