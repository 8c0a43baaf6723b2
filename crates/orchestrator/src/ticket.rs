//! An event on its way through the graph, and the jobs that carry it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use dapper_core::{Acknowledgement, Event, Parking};
use tokio::sync::Notify;

use crate::lanes::LaneId;
use crate::plan::{InputPlan, Plan};
use crate::reach::Reach;

/// One run of an input's `handle`, from its start to its end.
#[derive(Debug)]
pub(crate) struct InputRun {
    /// Which input.
    pub(crate) input: usize,
    alive: AtomicBool,
    outstanding: AtomicUsize,
    limit: usize,
    /// Told when there is room again for a delivery.
    pub(crate) room: Notify,
}

impl InputRun {
    pub(crate) fn new(input: usize, limit: usize) -> Self {
        Self {
            input,
            alive: AtomicBool::new(true),
            outstanding: AtomicUsize::new(0),
            limit,
            room: Notify::new(),
        }
    }

    /// Whether fewer events than the limit are under way.
    pub(crate) fn has_room(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) < self.limit
    }

    /// From now on its events are not handed to processes any more: nobody counts them.
    pub(crate) fn end(&self) {
        self.alive.store(false, Ordering::Release);
    }

    fn leave(&self) {
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == self.limit {
            self.room.notify_one();
        }
    }
}

/// One event and the duty to acknowledge it, shared by the jobs of all processes that it is meant for.
///
/// When the last reference goes, the event is acknowledged if it is *settled* at every process, else abandoned. Settled
/// is a process that has handled it, one for which the input has stored it, and all that come after such a one: they get
/// it when that one has handled it.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) event: Event,
    acknowledgement: Option<Acknowledgement>,
    unsettled: AtomicU32,
    /// Per route of the input, how many predecessors have yet to handle it; empty where no route has several.
    joins: Box<[AtomicU32]>,
    /// Per route of the input, whether it is settled; empty where each is settled once, in one way.
    settled: Box<[AtomicBool]>,
    resumed: Option<Box<Resumed>>,
    pub(crate) run: Arc<InputRun>,
}

/// How an event goes on that was parked.
#[derive(Debug)]
struct Resumed {
    at: At,
    /// Per route, how many of its predecessors the event passes on from here.
    within: Vec<u32>,
}

/// Where an event that was parked is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) route: u32,
    /// How often it was tried there, this time included.
    pub(crate) tries: u32,
    /// Whether it may be what kills the program.
    pub(crate) suspect: bool,
}

/// What a handled event does at a process that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// It enters.
    Enter,
    /// It waits for other processes, or has been there.
    Wait,
    /// Whether the others have handled it, only its input knows.
    Store,
}

impl Ticket {
    pub(crate) fn new(
        event: Event,
        acknowledgement: Acknowledgement,
        input: &InputPlan,
        with_stored: bool,
        run: Arc<InputRun>,
    ) -> Self {
        run.outstanding.fetch_add(1, Ordering::AcqRel);
        let bits = if with_stored || !input.joins.is_empty() { input.processes } else { 0 };
        Self {
            event,
            acknowledgement: Some(acknowledgement),
            unsettled: AtomicU32::new(input.processes),
            joins: input.joins.iter().map(|&count| AtomicU32::new(count)).collect(),
            settled: (0..bits).map(|_| AtomicBool::new(false)).collect(),
            resumed: None,
            run,
        }
    }

    /// One that goes on at a process where it was parked.
    pub(crate) fn resumed(
        event: Event,
        acknowledgement: Acknowledgement,
        plan: &Plan,
        at: At,
        run: Arc<InputRun>,
    ) -> Self {
        let input = &plan.inputs[run.input];
        let first = input.routes.start;
        let route = &plan.routes[at.route as usize];
        let reach = plan.reach(run.input, &event, Some(at.route));
        let narrowed = reach.as_ref().map(|reach| plan.behind_in(reach, run.input, at.route));
        let behind = narrowed.as_ref().unwrap_or(&route.behind);
        let mut within = vec![0; input.joins.len()];
        if !within.is_empty() {
            for local in behind.iter().chain([&route.local]) {
                for &next in &plan.routes[first as usize + local].next {
                    within[(next - first) as usize] += 1;
                }
            }
        }
        let mut ticket = Self::new(event, acknowledgement, input, reach.is_some(), run);
        *ticket.unsettled.get_mut() = 1 + behind.len() as u32;
        if reach.is_some() {
            for (local, settled) in ticket.settled.iter_mut().enumerate() {
                *settled.get_mut() = local != route.local && !behind.contains(&local);
            }
        }
        ticket.joins = within.iter().map(|&count| AtomicU32::new(count)).collect();
        ticket.resumed = Some(Box::new(Resumed { at, within }));
        ticket
    }

    /// What the filters keep it from is settled, and waited for by nobody. For one with `with_stored`.
    pub(crate) fn limit_to(&mut self, reach: &Reach) {
        let mut settled = 0;
        for (bit, is_reached) in self.settled.iter_mut().zip(&reach.reached) {
            *bit.get_mut() = !is_reached;
            settled += u32::from(!is_reached);
        }
        *self.unsettled.get_mut() -= settled;
        for (count, before) in self.joins.iter_mut().zip(&reach.before) {
            *count.get_mut() = *before;
        }
    }

    /// It is settled at the route with that local number, and at those behind it as far as they depend on it.
    pub(crate) fn settle(&self, local: usize, behind: &[usize]) {
        let newly = if self.settled.is_empty() {
            1 + behind.len() as u32
        } else {
            let all = behind.iter().chain([&local]);
            all.filter(|&&local| !self.settled[local].swap(true, Ordering::AcqRel)).count() as u32
        };
        self.unsettled.fetch_sub(newly, Ordering::AcqRel);
    }

    /// Whether it is known to be settled at the route with that local number.
    pub(crate) fn is_settled(&self, local: usize) -> bool {
        self.settled.get(local).is_some_and(|settled| settled.load(Ordering::Acquire))
    }

    /// One predecessor of a route has handled the event.
    pub(crate) fn onward(&self, local: usize, before: u32) -> Onward {
        if self.is_settled(local)
            || self.joins.get(local).is_some_and(|count| count.fetch_sub(1, Ordering::AcqRel) != 1)
        {
            return Onward::Wait;
        }
        match &self.resumed {
            Some(resumed)
                if resumed.at.suspect || resumed.within.get(local).is_some_and(|&within| within < before) =>
            {
                Onward::Store
            }
            _ => Onward::Enter,
        }
    }

    /// Where it was parked, if it was and `route` is there.
    pub(crate) fn resumed_at(&self, route: u32) -> Option<At> {
        self.resumed.as_ref().map(|resumed| resumed.at).filter(|at| at.route == route)
    }

    /// Whether what comes next has to be stored before it is tried, since the program may die of it.
    pub(crate) fn is_suspect(&self) -> bool {
        self.resumed.as_ref().is_some_and(|resumed| resumed.at.suspect)
    }

    /// Where its input can store it, and its place in its delivery.
    pub(crate) fn parking(&self) -> Option<(&Arc<dyn Parking>, usize)> {
        let acknowledgement = self.acknowledgement.as_ref()?;
        Some((acknowledgement.parking()?, acknowledgement.index()))
    }

    /// Whether the event may be handed to a process at this moment.
    pub(crate) fn is_valid(&self) -> bool {
        self.run.alive.load(Ordering::Acquire)
            && self.acknowledgement.as_ref().is_some_and(Acknowledgement::is_valid)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(acknowledgement) = self.acknowledgement.take()
            && *self.unsettled.get_mut() == 0
        {
            acknowledgement.handled();
        }
        self.run.leave();
    }
}

/// The duty to have one process handle one event.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) lane: LaneId,
    pub(crate) route: u32,
    /// Present once a run has failed.
    pub(crate) retry: Option<Box<Retry>>,
}

/// What a job remembers of its failed runs.
#[derive(Debug)]
pub(crate) struct Retry {
    /// The event with its raised attempt.
    pub(crate) event: Event,
    /// How many runs have failed here.
    pub(crate) failures: u32,
    /// How the last one failed.
    pub(crate) error: String,
}

impl Job {
    /// The event as the process is to see it.
    pub(crate) fn event(&self) -> &Event {
        self.retry.as_ref().map_or(&self.ticket.event, |retry| &retry.event)
    }
}
