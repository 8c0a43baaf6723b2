//! What is counted of inputs and of the runs of processes, through the `metrics` facade: nothing where no recorder is
//! installed.
//!
//! Workers count for themselves and write down many runs at once, or what there is before they wait. A process that
//! never waits may run a million times a second, and two looks at the clock cost a tenth of such a run: so of runs that
//! end without waiting one in [`TIMED_ONE_IN`] is timed, and stands for those before it. A run that waits is timed
//! always, from its first wait where it was not among those.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

use crate::builder::ProcessNode;
use crate::plan::Plan;

/// Runs that a worker counts before it writes them down, at most.
const WRITTEN_AT_ONCE: u32 = 64;
/// How many runs without waiting there are to one that is timed.
const TIMED_ONE_IN: u32 = 64;

/// The counters of a graph.
pub(crate) struct Meter {
    routes: Vec<RouteMeter>,
    /// Jobs that could run now and have no worker.
    pub(crate) queued: Gauge,
}

/// What happens to one input's events at one process.
pub(crate) struct RouteMeter {
    handled: Counter,
    pub(crate) failed: Counter,
    pub(crate) retried: Counter,
    pub(crate) parked: Counter,
    pub(crate) dead_lettered: Counter,
    running: Gauge,
    duration: Histogram,
}

/// What one worker has counted and not written down yet.
pub(crate) struct Tally<'m> {
    meter: &'m Meter,
    routes: Vec<Counts>,
    unwritten: u32,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    handled: u64,
    /// Runs whose time is not in the histogram yet.
    untimed: u32,
    /// Runs until one is timed again.
    timed_in: u32,
    last_seconds: f64,
}

/// The counter of an input's restarts, and whether it runs.
pub(crate) struct InputMeter {
    pub(crate) up: Gauge,
    pub(crate) restarts: Counter,
}

impl Meter {
    /// Counters for each way of an input's events into a process.
    pub(crate) fn new(plan: &Plan, inputs: &[String], processes: &[ProcessNode]) -> Self {
        describe();
        let of = |(input, process): (usize, usize)| {
            let labels =
                [("input", inputs[input].clone()), ("process", processes[process].process.id().to_owned())];
            RouteMeter {
                handled: counter!("dapper_events_handled_total", &labels),
                failed: counter!("dapper_events_failed_total", &labels),
                retried: counter!("dapper_events_retried_total", &labels),
                parked: counter!("dapper_events_parked_total", &labels),
                dead_lettered: counter!("dapper_events_dead_lettered_total", &labels),
                running: gauge!("dapper_process_runs", &labels),
                duration: histogram!("dapper_process_duration_seconds", &labels),
            }
        };
        let mut routes: Vec<(u32, (usize, usize))> = Vec::new();
        for (input, of_input) in plan.inputs.iter().enumerate() {
            routes.extend(
                of_input.routes.clone().map(|route| (route, (input, plan.routes[route as usize].process))),
            );
        }
        routes.sort_unstable();
        Self {
            routes: routes.into_iter().map(|(_, pair)| of(pair)).collect(),
            queued: gauge!("dapper_events_queued"),
        }
    }

    /// The counters of a route.
    pub(crate) fn route(&self, route: u32) -> &RouteMeter {
        &self.routes[route as usize]
    }

    /// A worker's own counts.
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { meter: self, routes: vec![Counts::default(); self.routes.len()], unwritten: 0 }
    }
}

impl Tally<'_> {
    /// A run begins: when, if it is one to be timed.
    pub(crate) fn begin(&mut self, route: u32) -> Option<Instant> {
        let counts = &mut self.routes[route as usize];
        match counts.timed_in.checked_sub(1) {
            Some(left) => {
                counts.timed_in = left;
                None
            }
            None => Some(Instant::now()),
        }
    }

    /// The run waits: when it began, as far as that is known. What was counted is written down meanwhile.
    pub(crate) fn waits(&mut self, route: u32, began: Option<Instant>) -> Instant {
        self.write();
        self.meter.route(route).running.increment(1.0);
        began.unwrap_or_else(Instant::now)
    }

    /// A run that waited has ended.
    pub(crate) fn waited(&mut self, route: u32, began: Instant) {
        let meter = self.meter.route(route);
        meter.running.decrement(1.0);
        meter.duration.record(began.elapsed().as_secs_f64());
    }

    /// A run has ended without waiting.
    pub(crate) fn ran(&mut self, route: u32, began: Option<Instant>) {
        let counts = &mut self.routes[route as usize];
        counts.untimed += 1;
        if let Some(began) = began {
            counts.last_seconds = began.elapsed().as_secs_f64();
            counts.timed_in = TIMED_ONE_IN - 1;
            let runs = std::mem::take(&mut counts.untimed) as usize;
            self.meter.routes[route as usize].duration.record_many(counts.last_seconds, runs);
        }
    }

    /// An event was handled.
    pub(crate) fn handled(&mut self, route: u32) {
        self.routes[route as usize].handled += 1;
        self.unwritten += 1;
        if self.unwritten >= WRITTEN_AT_ONCE {
            self.write_handled();
        }
    }

    /// Writes down what was counted. The next run is timed.
    pub(crate) fn write(&mut self) {
        if self.unwritten > 0 {
            self.write_handled();
        }
        for (counts, meter) in self.routes.iter_mut().zip(&self.meter.routes) {
            counts.timed_in = 0;
            let runs = std::mem::take(&mut counts.untimed) as usize;
            if runs > 0 {
                meter.duration.record_many(counts.last_seconds, runs);
            }
        }
    }

    fn write_handled(&mut self) {
        self.unwritten = 0;
        for (counts, meter) in self.routes.iter_mut().zip(&self.meter.routes) {
            let handled = std::mem::take(&mut counts.handled);
            if handled > 0 {
                meter.handled.increment(handled);
            }
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.write();
    }
}

impl InputMeter {
    pub(crate) fn new(input: &str) -> Self {
        let labels = [("input", input.to_owned())];
        Self {
            up: gauge!("dapper_input_up", &labels),
            restarts: counter!("dapper_input_restarts_total", &labels),
        }
    }
}

fn describe() {
    describe_counter!("dapper_events_handled_total", "Events that a process has handled.");
    describe_counter!("dapper_events_failed_total", "Runs of a process that failed or panicked.");
    describe_counter!(
        "dapper_events_retried_total",
        "Failed runs after which the event waits in memory for its next try."
    );
    describe_counter!(
        "dapper_events_parked_total",
        "Events that were parked for a process: it failed on them, or on an earlier one of their key."
    );
    describe_counter!("dapper_events_dead_lettered_total", "Events that became dead letters of a process.");
    describe_gauge!("dapper_process_runs", "Runs of a process that are waiting for something now.");
    describe_histogram!(
        "dapper_process_duration_seconds",
        Unit::Seconds,
        "How long a run of a process took; of those that never wait one in 64 is timed and stands for the others."
    );
    describe_gauge!("dapper_events_queued", "Events that could go to a process now and wait for a worker.");
    describe_gauge!("dapper_input_up", "1 while an input runs, 0 between its end and its restart.");
    describe_counter!(
        "dapper_input_restarts_total",
        "Ends of an input that nobody asked for; it is started again."
    );
}
