//! The worker pool: hands events to processes, in order per lane and up to a limit at the same time.
//!
//! One mutex guards what may run and what waits; it is never held while a process runs or anything is awaited.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use dapper_core::{Delivery, Entry, Fate};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::builder::ProcessNode;
use crate::lanes::{Aged, Lanes};
use crate::meter::{Meter, Tally};
use crate::plan::Plan;
use crate::report::Reporter;
use crate::ticket::{At, InputRun, Job, Onward, Ticket};

mod call;

pub(crate) use call::panic_message;

/// How many jobs enter under one hold of the lock.
const ENTER_AT_ONCE: usize = 1024;
/// How many jobs a worker takes at once, at most. It takes more than one only while they end without waiting.
const TAKE_AT_ONCE: usize = 64;
/// A worker that has been at what it took for so long gives the rest back, for other workers to do at the same time.
const TAKEN_FOR: Duration = Duration::from_micros(100);
/// How often events that wait for a retry are asked whether they are still valid.
const VALIDITY_PERIOD: Duration = Duration::from_secs(1);

/// The jobs of a graph and what its workers share.
pub(crate) struct Pool {
    pub(crate) plan: Plan,
    pub(crate) processes: Vec<ProcessNode>,
    pub(crate) reporter: Reporter,
    pub(crate) meter: Meter,
    hasher: RandomState,
    state: Mutex<State>,
    /// Wakes one idle worker.
    work: Notify,
    /// Wakes the timer: a deadline was added, or the phase changed.
    deadlines: Notify,
    /// Set with [`Phase::Closed`], for workers to see before each job.
    closed: AtomicBool,
    /// Cuts off the runs that are under way.
    cut_off: CancellationToken,
}

struct State {
    lanes: Lanes<Job>,
    /// Jobs between two attempts, by the time of the next; each holds its lane.
    waiting: BTreeMap<(Instant, u64), Job>,
    entered_waiting: u64,
    idle: usize,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Everything goes on.
    Running,
    /// What is there is finished, but nothing is retried.
    Draining,
    /// Nothing more is handed to a process.
    Closed,
}

/// What became of a job that a worker took.
enum Outcome {
    Handled(Job),
    Failed(Job, Duration),
    /// Its input has it now, for this process.
    Stored(Job),
    Abandoned(Job),
}

impl Pool {
    pub(crate) fn new(
        plan: Plan,
        inputs: &[String],
        processes: Vec<ProcessNode>,
        reporter: Reporter,
    ) -> Self {
        Self {
            meter: Meter::new(&plan, inputs, &processes),
            plan,
            processes,
            reporter,
            hasher: RandomState::new(),
            state: Mutex::new(State {
                lanes: Lanes::new(),
                waiting: BTreeMap::new(),
                entered_waiting: 0,
                idle: 0,
                phase: Phase::Running,
            }),
            work: Notify::new(),
            deadlines: Notify::new(),
            closed: AtomicBool::new(false),
            cut_off: CancellationToken::new(),
        }
    }

    /// Takes in the events of a delivery. Never waits.
    pub(crate) fn enter(&self, run: &Arc<InputRun>, delivery: Delivery) {
        let input = &self.plan.inputs[run.input];
        if *delivery.entry() != Entry::Start || !delivery.stored().at.is_empty() || input.filters.is_some() {
            return self.enter_specially(run, delivery);
        }
        let mut events = delivery.into_events().peekable();
        while events.peek().is_some() {
            let mut jobs = Vec::with_capacity(ENTER_AT_ONCE.min(events.size_hint().0 * input.entry.len()));
            for (event, acknowledgement) in events.by_ref().take(ENTER_AT_ONCE) {
                let ticket = Arc::new(Ticket::new(event, acknowledgement, input, false, Arc::clone(run)));
                jobs.extend(input.entry.iter().map(|&route| self.job(route, &ticket)));
            }
            self.enter_jobs(jobs);
        }
    }

    /// What was parked, or is partly, or is to be before anything is done with it; and what links may not take.
    fn enter_specially(&self, run: &Arc<InputRun>, delivery: Delivery) {
        let input = &self.plan.inputs[run.input];
        let (entry, stored) = (delivery.entry().clone(), delivery.stored().clone());
        let mut jobs = Vec::new();
        for (event, acknowledgement) in delivery.into_events() {
            let run = Arc::clone(run);
            if let Entry::Resumed { process, tries, suspect } = &entry {
                match self.route(run.input, process) {
                    Some(route) => {
                        let at = At { route, tries: *tries, suspect: *suspect };
                        let ticket = Ticket::resumed(event, acknowledgement, &self.plan, at, run);
                        jobs.push(self.job(route, &Arc::new(ticket)));
                    }
                    None => self.process_is_gone(process, *tries, event, acknowledgement),
                }
                continue;
            }
            let index = acknowledgement.index();
            let reach = self.plan.reach(run.input, &event, None);
            let mut ticket = Ticket::new(event, acknowledgement, input, true, run);
            if let Some(reach) = &reach {
                ticket.limit_to(reach);
            }
            for route in stored.of(index).filter_map(|process| self.route(ticket.run.input, process)) {
                let behind = self.plan.behind_for(ticket.run.input, &ticket.event, route);
                ticket.settle(self.plan.routes[route as usize].local, &behind);
            }
            let ticket = Arc::new(ticket);
            let is_entry = |local: usize| match &reach {
                None => self.plan.routes[input.routes.start as usize + local].before == 0,
                Some(reach) => reach.before[local] == 0,
            };
            let entered = input.routes.clone().filter(|&route| {
                let local = self.plan.routes[route as usize].local;
                is_entry(local) && !ticket.is_settled(local)
            });
            for job in entered.map(|route| self.job(route, &ticket)) {
                if entry == Entry::Isolated && ticket.parking().is_some() {
                    self.store(&job, Fate::Untried { suspect: true });
                } else {
                    jobs.push(job);
                }
            }
        }
        self.enter_jobs(jobs);
    }

    fn enter_jobs(&self, jobs: Vec<Job>) {
        let mut refused = Vec::new();
        let mut state = self.lock();
        for job in jobs {
            refused.extend(state.enter(job));
        }
        self.meter.queued.set(state.lanes.runnable() as f64);
        self.wake_workers(state);
    }

    /// Gives up the events of a run of an input that has ended, as far as no process is at them.
    pub(crate) fn abandon(&self, run: &Arc<InputRun>) {
        run.end();
        self.abandon_waiting(|job| Arc::ptr_eq(&job.ticket.run, run));
    }

    /// From now on nothing is retried; what waits for its next attempt is parked where it can be, else given up.
    pub(crate) fn drain(&self) {
        let mut given_up = Vec::new();
        let mut state = self.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Draining;
        }
        for (_, job) in std::mem::take(&mut state.waiting) {
            if self.store_waiting(&job) {
                state.lanes.release(job.lane);
            } else {
                given_up.extend(state.lanes.close(job.lane));
            }
            given_up.push(job);
        }
        self.wake_workers(state);
    }

    /// Gives up all that no process is at, and lets the workers end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        self.closed.store(true, Ordering::Release);
        let given_up =
            (std::mem::replace(&mut state.lanes, Lanes::new()), std::mem::take(&mut state.waiting));
        drop(state);
        drop(given_up);
        self.work.notify_waiters();
        self.deadlines.notify_one();
    }

    /// Cuts off the runs that are under way; implies [`close`](Self::close).
    pub(crate) fn cut_off(&self) {
        self.close();
        self.cut_off.cancel();
    }

    /// One worker: runs jobs until the pool is closed.
    pub(crate) async fn work(&self) {
        let mut tally = self.meter.tally();
        let (mut taken, mut done, mut most) = (VecDeque::new(), Vec::new(), 1);
        loop {
            self.settle_and_take(&mut done, &mut taken, most);
            if taken.is_empty() && !self.wait_for_job(&mut taken, &mut tally).await {
                return;
            }
            let all = taken.len();
            let waited = self.run_taken(&mut taken, &mut done, &mut tally).await;
            most = match waited {
                true => 1,
                false if all == most => (most * 2).min(TAKE_AT_ONCE),
                false => most,
            };
        }
    }

    /// Runs what was taken, one after the other, and gives back what is left as soon as one has to wait, or they have
    /// taken long: then it returns true.
    async fn run_taken(
        &self,
        taken: &mut VecDeque<Aged<Job>>,
        done: &mut Vec<Outcome>,
        tally: &mut Tally<'_>,
    ) -> bool {
        let since = Instant::now();
        while let Some(aged) = taken.pop_front() {
            // Processes that never wait must not keep the runtime from everything else, such as renewing a lease.
            tokio::task::coop::consume_budget().await;
            if self.closed.load(Ordering::Acquire) {
                done.push(Outcome::Abandoned(aged.job));
                continue;
            }
            let mut run = pin!(self.run(aged.job, tally));
            if let Poll::Ready(outcome) = poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await {
                done.push(outcome);
                if taken.is_empty() || since.elapsed() < TAKEN_FOR {
                    continue;
                }
                self.give_back(taken);
                return true;
            }
            self.give_back(taken);
            self.settle_and_take(done, taken, 0);
            done.push(run.await);
            return true;
        }
        false
    }

    fn give_back(&self, taken: &mut VecDeque<Aged<Job>>) {
        if taken.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        let mut state = self.lock();
        for aged in taken.drain(..) {
            if state.phase == Phase::Closed {
                refused.push(aged);
            } else {
                state.lanes.give_back(aged);
            }
        }
        self.wake_workers(state);
    }

    /// The timer: makes jobs runnable when their next attempt is due, until the pool is closed.
    pub(crate) async fn keep_time(&self) {
        let mut ask_at = Instant::now();
        loop {
            let Some(next) = self.resume_due() else { return };
            match next {
                None => self.deadlines.notified().await,
                Some(next) => {
                    if ask_at <= Instant::now() {
                        self.abandon_waiting(|job| !job.ticket.is_valid());
                        ask_at = Instant::now() + VALIDITY_PERIOD;
                    }
                    tokio::select! {
                        () = sleep_until(next.min(ask_at)) => {}
                        () = self.deadlines.notified() => {}
                    }
                }
            }
        }
    }

    /// `None` when the pool is closed, else the next deadline if there is one.
    fn resume_due(&self) -> Option<Option<Instant>> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.phase == Phase::Closed {
            return None;
        }
        while let Some(first) = state.waiting.first_entry() {
            if first.key().0 > now {
                break;
            }
            let job = first.remove();
            state.lanes.resume(job);
        }
        let next = state.waiting.first_key_value().map(|(key, _)| key.0);
        self.wake_workers(state);
        Some(next)
    }

    fn abandon_waiting(&self, which: impl Fn(&Job) -> bool) {
        let mut given_up = Vec::new();
        let mut state = self.lock();
        let keys: Vec<_> = state.waiting.iter().filter(|(_, job)| which(job)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(job) = state.waiting.remove(&key) {
                state.lanes.release(job.lane);
                given_up.push(job);
            }
        }
        self.wake_workers(state);
    }

    fn job(&self, route: u32, ticket: &Arc<Ticket>) -> Job {
        let lane = if is_broken!(PerKeyOrder) {
            self.hasher.hash_one((route, &ticket.event.event_id))
        } else {
            self.hasher.hash_one((route, &ticket.event.location, &ticket.event.id))
        };
        Job { ticket: Arc::clone(ticket), lane, route, retry: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes as many idle workers as there are jobs for them.
    fn wake_workers(&self, state: MutexGuard<'_, State>) {
        let wanted = state.lanes.runnable().min(state.idle);
        drop(state);
        for _ in 0..wanted {
            self.work.notify_one();
        }
    }

    /// Waits for a job and takes it; false when the pool is closed.
    async fn wait_for_job(&self, taken: &mut VecDeque<Aged<Job>>, tally: &mut Tally<'_>) -> bool {
        tally.write();
        self.meter.queued.set(0.0);
        loop {
            // Registered before the look, so that a job that comes in between wakes it.
            let mut woken = pin!(self.work.notified());
            woken.as_mut().enable();
            {
                let mut state = self.lock();
                if state.phase == Phase::Closed {
                    return false;
                }
                if let Some(aged) = state.lanes.take() {
                    taken.push_back(aged);
                    return true;
                }
                state.idle += 1;
            }
            woken.await;
            self.lock().idle -= 1;
        }
    }

    /// Writes down what became of jobs, and takes up to so many others, under one hold of the lock.
    fn settle_and_take(&self, done: &mut Vec<Outcome>, taken: &mut VecDeque<Aged<Job>>, most: usize) {
        let mut onward = Vec::new();
        for outcome in done.iter() {
            if let Outcome::Handled(job) = outcome {
                self.onward(job, &mut onward);
            }
        }
        // Jobs are dropped after the lock is: the last one of an event wakes its input.
        let mut refused = Vec::new();
        let mut state = self.lock();
        for job in onward {
            refused.extend(state.enter(job));
        }
        let mut finished = Vec::with_capacity(done.len());
        for outcome in done.drain(..) {
            self.settle(&mut state, outcome, &mut refused, &mut finished);
        }
        if state.phase != Phase::Closed {
            // As many as leave the other workers the same.
            let share = most.min(state.lanes.runnable() / (state.idle + 1) + 1);
            taken.extend(std::iter::from_fn(|| state.lanes.take()).take(share.min(most)));
        }
        self.wake_workers(state);
        drop((refused, finished));
    }

    fn settle(&self, state: &mut State, outcome: Outcome, refused: &mut Vec<Job>, finished: &mut Vec<Job>) {
        match outcome {
            Outcome::Handled(job) => {
                state.lanes.release(job.lane);
                job.ticket.settle(self.plan.routes[job.route as usize].local, &[]);
                finished.push(job);
            }
            Outcome::Abandoned(job) | Outcome::Stored(job) => {
                state.lanes.release(job.lane);
                finished.push(job);
            }
            Outcome::Failed(job, delay) => match state.phase {
                Phase::Running => {
                    let key = (Instant::now() + delay, state.entered_waiting);
                    state.entered_waiting += 1;
                    state.waiting.insert(key, job);
                    if state.waiting.first_key_value().is_some_and(|first| *first.0 == key) {
                        self.deadlines.notify_one();
                    }
                }
                Phase::Draining | Phase::Closed => {
                    if self.store_waiting(&job) {
                        state.lanes.release(job.lane);
                    } else {
                        refused.extend(state.lanes.close(job.lane));
                    }
                    finished.push(job);
                }
            },
        }
    }

    /// Adds the jobs that become possible because `job` was handled.
    fn onward(&self, job: &Job, jobs: &mut Vec<Job>) {
        for &next in &self.plan.routes[job.route as usize].next {
            let route = &self.plan.routes[next as usize];
            let onward = job.ticket.onward(route.local, route.before);
            if onward == Onward::Wait {
                continue;
            }
            let next = self.job(next, &job.ticket);
            if onward == Onward::Store && self.store(&next, self.joined(&next)) {
                continue;
            }
            jobs.push(next);
        }
    }
}

impl State {
    fn enter(&mut self, job: Job) -> Option<Job> {
        if self.phase == Phase::Closed { Some(job) } else { self.lanes.enter(job.lane, job) }
    }
}
