//! An event on its way through the graph, and the jobs that carry it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use dapper_core::{Acknowledgement, Event};
use tokio::sync::Notify;

use crate::lanes::LaneId;
use crate::retry::Backoff;

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
/// When the last reference goes, the event is acknowledged if every process has handled it, else abandoned.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) event: Event,
    acknowledgement: Option<Acknowledgement>,
    unhandled: AtomicU32,
    /// Per route of the input, how many predecessors have yet to handle it; empty where no route has several.
    joins: Box<[AtomicU32]>,
    pub(crate) run: Arc<InputRun>,
}

impl Ticket {
    pub(crate) fn new(
        event: Event,
        acknowledgement: Acknowledgement,
        processes: u32,
        joins: &[u32],
        run: Arc<InputRun>,
    ) -> Arc<Self> {
        run.outstanding.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self {
            event,
            acknowledgement: Some(acknowledgement),
            unhandled: AtomicU32::new(processes),
            joins: joins.iter().map(|&count| AtomicU32::new(count)).collect(),
            run,
        })
    }

    /// One process has handled the event.
    pub(crate) fn handled_by_one(&self) {
        self.unhandled.fetch_sub(1, Ordering::AcqRel);
    }

    /// One predecessor of the input's route number `local` has handled the event; true when it was the last.
    pub(crate) fn join(&self, local: usize) -> bool {
        self.joins.get(local).is_none_or(|count| count.fetch_sub(1, Ordering::AcqRel) == 1)
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
            && *self.unhandled.get_mut() == 0
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
    pub(crate) backoff: Backoff,
}

impl Job {
    /// The event as the process is to see it.
    pub(crate) fn event(&self) -> &Event {
        self.retry.as_ref().map_or(&self.ticket.event, |retry| &retry.event)
    }
}
