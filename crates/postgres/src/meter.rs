//! What is counted of an input, through the `metrics` facade: per batch at the most, and nothing where no recorder is
//! installed.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

/// What an input is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It connects, and installs what is missing.
    Starting,
    /// Another replica leads; this one could take over.
    StandingBy,
    /// It holds the lease.
    Leading,
}

/// The counters of one input.
pub(crate) struct InputMeter {
    states: [(State, Gauge); 3],
    pub(crate) sessions: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) token: Gauge,
}

/// The counters of a holder.
pub(crate) struct HolderMeter {
    delivered: Counter,
    redelivered: Counter,
    batch_events: Histogram,
    read: Histogram,
    claim: Histogram,
    settled: Counter,
    in_flight: Gauge,
    in_flight_batches: Gauge,
}

impl InputMeter {
    pub(crate) fn new(input: &str) -> Self {
        describe();
        let labels = [("input", input.to_owned())];
        let state =
            |state, name| (state, gauge!("dapper_input_state", "input" => input.to_owned(), "state" => name));
        Self {
            states: [
                state(State::Starting, "starting"),
                state(State::StandingBy, "standing_by"),
                state(State::Leading, "leading"),
            ],
            sessions: counter!("dapper_sessions_opened_total", &labels),
            takeovers: counter!("dapper_takeovers_total", &labels),
            token: gauge!("dapper_lease_token", &labels),
        }
    }

    /// The input does this from now on, or nothing.
    pub(crate) fn is(&self, now: Option<State>) {
        for (state, gauge) in &self.states {
            gauge.set(if Some(*state) == now { 1.0 } else { 0.0 });
        }
        if now != Some(State::Leading) {
            self.token.set(0.0);
        }
    }
}

impl HolderMeter {
    pub(crate) fn new(input: &str) -> Self {
        let labels = [("input", input.to_owned())];
        Self {
            delivered: counter!("dapper_events_delivered_total", &labels),
            redelivered: counter!("dapper_events_redelivered_total", &labels),
            batch_events: histogram!("dapper_batch_events", &labels),
            read: histogram!("dapper_read_duration_seconds", &labels),
            claim: histogram!("dapper_claim_duration_seconds", &labels),
            settled: counter!("dapper_batches_settled_total", &labels),
            in_flight: gauge!("dapper_events_in_flight", &labels),
            in_flight_batches: gauge!("dapper_batches_in_flight", &labels),
        }
    }

    /// A batch was read; how long that took.
    pub(crate) fn read(&self, began: Instant) {
        self.read.record(began.elapsed().as_secs_f64());
    }

    /// The cursor row was written; how long that took.
    pub(crate) fn claimed(&self, began: Instant) {
        self.claim.record(began.elapsed().as_secs_f64());
    }

    /// A batch of so many events was handed out, or will be.
    pub(crate) fn handed_out(&self, events: usize, is_repeat: bool) {
        self.delivered.increment(events as u64);
        if is_repeat {
            self.redelivered.increment(events as u64);
        }
        self.batch_events.record(events as f64);
        self.in_flight.increment(events as f64);
        self.in_flight_batches.increment(1.0);
    }

    /// A batch of so many events was handled.
    pub(crate) fn settled(&self, events: usize) {
        self.settled.increment(1);
        self.in_flight.decrement(events as f64);
        self.in_flight_batches.decrement(1.0);
    }
}

impl Drop for HolderMeter {
    fn drop(&mut self) {
        self.in_flight.set(0.0);
        self.in_flight_batches.set(0.0);
    }
}

fn describe() {
    describe_gauge!("dapper_input_state", "1 for what the input does: starting, standing_by or leading.");
    describe_gauge!("dapper_lease_token", "The fencing token while this replica leads, else 0.");
    describe_counter!("dapper_takeovers_total", "Leases that this replica acquired.");
    describe_counter!(
        "dapper_sessions_opened_total",
        "Sessions that the input opened to read by: more than one is a reconnect."
    );
    describe_counter!("dapper_events_delivered_total", "Events that were handed out.");
    describe_counter!(
        "dapper_events_redelivered_total",
        "Events of batches that a predecessor may have handed out already, in part."
    );
    describe_histogram!("dapper_batch_events", "Events in a batch.");
    describe_histogram!("dapper_read_duration_seconds", Unit::Seconds, "How long reading change sets took.");
    describe_histogram!(
        "dapper_claim_duration_seconds",
        Unit::Seconds,
        "How long writing the cursor row took, its flush to disk included."
    );
    describe_counter!("dapper_batches_settled_total", "Batches whose every event was handled or stored.");
    describe_gauge!(
        "dapper_events_in_flight",
        "Events that were handed out, in batches that are not settled yet."
    );
    describe_gauge!("dapper_batches_in_flight", "Batches that were handed out and are not settled yet.");
}
