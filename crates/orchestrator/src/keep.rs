//! What the pool hands back to an input that can store it: parked events, dead letters, and those behind them.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::{Acknowledgement, Event, Fate, Parcel, Settle};

use crate::RetryPolicy;
use crate::builder::ProcessNode;
use crate::dispatch::Pool;
use crate::retry::Keeping;
use crate::ticket::Job;

/// How long an event is left alone whose process is not in the pipeline.
const PROCESS_IS_GONE: Duration = Duration::from_secs(60);

impl Pool {
    pub(crate) fn node(&self, job: &Job) -> &ProcessNode {
        &self.processes[self.plan.routes[job.route as usize].process]
    }

    /// The route of an input's events into the process with that id.
    pub(crate) fn route(&self, input: usize, process: &str) -> Option<u32> {
        let index = self.processes.iter().position(|node| node.process.id() == process)?;
        self.plan.route(input, index)
    }

    /// How a job that fails is kept.
    ///
    /// Where a process with several predecessors comes after this one, a failing event stays in memory until its last
    /// attempt: whether all of them have handled it is known here alone.
    pub(crate) fn keeping(&self, job: &Job) -> Keeping {
        let Some(_) = job.ticket.parking() else { return Keeping::Memory };
        let input = &self.plan.inputs[job.ticket.run.input];
        let behind = &self.plan.routes[job.route as usize].behind;
        if job.ticket.resumed_at(job.route).is_some() {
            Keeping::Parked
        } else if behind.iter().any(|&local| input.joins.get(local).is_some_and(|&before| before > 1)) {
            Keeping::Ended
        } else {
            Keeping::Quick
        }
    }

    /// Whether an earlier event of the job's key is parked at its process.
    pub(crate) fn is_held(&self, job: &Job, node: &ProcessNode) -> bool {
        let Some((parking, _)) = job.ticket.parking() else { return false };
        job.ticket.resumed_at(job.route).is_none() && parking.is_held(node.process.id(), &job.ticket.event)
    }

    /// What becomes of an event at a process that comes after the one where it was resumed.
    pub(crate) fn joined(&self, job: &Job) -> Fate {
        if self.plan.routes[job.route as usize].before < 2 {
            return Fate::Untried { suspect: job.ticket.is_suspect() };
        }
        // Filters can keep an event from the ways that lead here from a process: what is parked there holds up nothing.
        let ahead = self.plan.ahead_for(job.ticket.run.input, &job.ticket.event, job.route);
        let process = |route: u32| &self.processes[self.plan.routes[route as usize].process].process;
        let unless = ahead.into_iter().map(|route| process(route).id().to_owned()).collect();
        Fate::Joined { unless }
    }

    /// Parks a job that waits for its next try, where it can be.
    pub(crate) fn store_waiting(&self, job: &Job) -> bool {
        let Some(retry) = job.retry.as_ref().filter(|_| self.keeping(job) == Keeping::Quick) else {
            return false;
        };
        if !job.ticket.is_valid() {
            return false;
        }
        let (tries, error) = (retry.failures, retry.error.clone());
        let mut event = retry.event.clone();
        // It says the attempt to come.
        event.attempt = event.attempt.map(|attempt| attempt.saturating_sub(1));
        self.store_event(job, event, Fate::Retry { tries, after: Duration::ZERO, error })
    }

    /// Hands the event to its input, for the process of this job. False when that can't store it.
    pub(crate) fn store(&self, job: &Job, fate: Fate) -> bool {
        self.store_event(job, job.event().clone(), fate)
    }

    fn store_event(&self, job: &Job, event: Event, fate: Fate) -> bool {
        let Some((parking, index)) = job.ticket.parking() else { return false };
        let (route, meter) = (&self.plan.routes[job.route as usize], self.meter.route(job.route));
        match &fate {
            Fate::Dead { .. } => meter.dead_lettered.increment(1),
            Fate::Retry { .. } | Fate::Untried { .. } | Fate::Joined { .. } => meter.parked.increment(1),
        }
        let behind = self.plan.behind_for(job.ticket.run.input, &job.ticket.event, job.route);
        let (ticket, local) = (Arc::clone(&job.ticket), route.local);
        parking.store(Parcel {
            process: self.node(job).process.id().to_owned(),
            event,
            index,
            max_crashes: self.node(job).policy.max_crashes,
            fate,
            settle: Settle::new(move || ticket.settle(local, &behind)),
        });
        true
    }

    /// An event was parked at a process that the pipeline no longer has: it stays there.
    pub(crate) fn process_is_gone(
        &self,
        process: &str,
        tries: u32,
        event: Event,
        acknowledgement: Acknowledgement,
    ) {
        let error = format!("no link leads to a process {process:?}; add it, or discard its dead letters");
        tracing::warn!(location = &*event.location, id = event.id, "a parked event can't go on: {error}");
        let Some(parking) = acknowledgement.parking().map(Arc::clone) else { return };
        let index = acknowledgement.index();
        parking.store(Parcel {
            process: process.to_owned(),
            event,
            index,
            max_crashes: RetryPolicy::default().max_crashes,
            fate: Fate::Retry { tries: tries.saturating_sub(1), after: PROCESS_IS_GONE, error },
            settle: Settle::new(move || acknowledgement.handled()),
        });
    }
}
