//! Watches the inputs of a replica: looks at their databases and at the counters again and again, and remembers the last
//! minutes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dapper_core::CancellationToken;
use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::history::{History, Routes, Sample};
use crate::ready::{FAILING_AFTER, Role, Seen, judge};
use crate::registry::Registry;
use crate::source::{Graph, Observation, Source, SourceError};

/// How often the database of an input is looked at.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// How long such a look may take.
const OBSERVE_LIMIT: Duration = Duration::from_secs(5);
/// How often the counters are looked at.
const COUNT_EVERY: Duration = Duration::from_millis(500);
/// Of so many looks at the counters one is remembered.
const REMEMBER_ONE_IN: u64 = 4;
/// How much of an error's text is kept.
const MOST_ERROR_CHARACTERS: usize = 500;

/// What is known of the inputs and processes of this replica. Shared by its tasks and all requests.
pub struct Watch {
    pub(crate) graph: Graph,
    pub(crate) registry: Registry,
    pub(crate) source: Arc<dyn Source>,
    routes: Routes,
    stop: CancellationToken,
    pub(crate) started: Instant,
    state: Mutex<State>,
}

struct State {
    inputs: HashMap<String, Watched>,
    processes: HashMap<String, Failures>,
    history: History,
}

/// What was seen of one input.
struct Watched {
    role: Role,
    last_error: Option<String>,
    /// Whether there is a database to look at.
    observed: bool,
    observation: Option<Observation>,
    meter: Meter,
    answered: Instant,
    said: Option<String>,
    /// When the cursor last moved, or had nothing to do.
    moved: Instant,
    settled: f64,
    /// When a batch was last settled, or none was there.
    settled_at: Instant,
    reason: Option<String>,
}

/// What the last look at the database found, for `/metrics`.
struct Meter {
    lag_changes: Gauge,
    lag_seconds: Gauge,
    parked_keys: Gauge,
    dead_letters: Gauge,
    missed: Counter,
}

/// The runs of one process that failed since the last that did not.
#[derive(Default)]
struct Failures {
    since_success: u64,
    handled: f64,
    failed: f64,
    last_error: Option<String>,
}

/// An input as requests see it.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct InputView {
    pub(crate) id: String,
    pub(crate) role: Role,
    pub(crate) ready: bool,
    pub(crate) reason: Option<String>,
    pub(crate) in_flight: u64,
    pub(crate) cursor: Option<Observation>,
    /// Age of `cursor`.
    pub(crate) observed_ms_ago: Option<u64>,
}

/// A process as requests see it.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ProcessView {
    pub(crate) id: String,
    pub(crate) handled: u64,
    pub(crate) failed: u64,
    /// Runs that failed since the last that did not.
    pub(crate) failures: u64,
    pub(crate) failing: bool,
    pub(crate) last_error: Option<String>,
}

impl Watch {
    /// A watch over `graph`, which has seen nothing yet. `stop` is what stops the pipeline.
    pub fn new(
        graph: Graph,
        registry: Registry,
        source: Arc<dyn Source>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let now = Instant::now();
        let inputs = graph.inputs.iter().map(|id| (id.clone(), Watched::new(id, now))).collect();
        let processes = graph.processes.iter().map(|id| (id.clone(), Failures::default())).collect();
        let routes = Routes::of(&graph);
        let state = State { inputs, processes, history: History::default() };
        Arc::new(Self { graph, registry, source, routes, stop, started: now, state: Mutex::new(state) })
    }

    /// Remembers what an input ended with. The text must hold no secret.
    pub fn input_failed(&self, input: &str, error: &str) {
        if let Some(watched) = self.lock().inputs.get_mut(input) {
            watched.last_error = Some(shortened(error));
        }
    }

    /// Remembers how a process last failed. The text must hold no secret.
    pub fn process_failed(&self, process: &str, error: &str) {
        if let Some(failures) = self.lock().processes.get_mut(process) {
            failures.last_error = Some(shortened(error));
        }
    }

    /// Watches until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for input in self.graph.inputs.clone() {
            tasks.spawn(Arc::clone(&self).observe(input));
        }
        let mut ticks = interval(COUNT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0_u64;
        loop {
            ticks.tick().await;
            self.count(looks.is_multiple_of(REMEMBER_ONE_IN));
            looks += 1;
        }
    }

    /// Every input as it is now.
    pub(crate) fn inputs(&self) -> Vec<InputView> {
        let state = self.lock();
        self.graph.inputs.iter().map(|id| self.input(&state, id)).collect()
    }

    /// Every process as it is now.
    pub(crate) fn processes(&self) -> Vec<ProcessView> {
        let state = self.lock();
        let view = |id: &String| {
            let failures = &state.processes[id];
            ProcessView {
                id: id.clone(),
                handled: failures.handled as u64,
                failed: failures.failed as u64,
                failures: failures.since_success,
                failing: failures.since_success >= FAILING_AFTER,
                last_error: failures.last_error.clone(),
            }
        };
        self.graph.processes.iter().map(view).collect()
    }

    /// The last minutes.
    pub(crate) fn history(&self) -> Value {
        self.lock().history.to_json(&self.graph, &self.routes, Instant::now())
    }

    async fn observe(self: Arc<Self>, input: String) {
        let mut ticks = interval(OBSERVE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let slow = || SourceError(format!("no answer within {} s", OBSERVE_LIMIT.as_secs_f64()));
        loop {
            ticks.tick().await;
            let look = timeout(OBSERVE_LIMIT, self.source.observe(&input)).await;
            let observed = look.unwrap_or_else(|_| Err(slow()));
            self.observed(&input, observed);
        }
    }

    fn observed(&self, input: &str, observed: Result<Option<Observation>, SourceError>) {
        let now = Instant::now();
        let mut state = self.lock();
        let State { inputs, history, .. } = &mut *state;
        let Some(watched) = inputs.get_mut(input) else { return };
        match observed {
            Ok(None) => watched.observed = false,
            Ok(Some(seen)) => {
                (watched.answered, watched.said) = (now, None);
                watched.meter.write(&seen);
                let before = watched.observation.replace(seen.clone());
                if seen.lag_changes == 0
                    || seen.paused
                    || before.as_ref().is_none_or(|before| before.handled != seen.handled)
                {
                    watched.moved = now;
                }
                let ours = self.registry.value("dapper_lease_token", &[("input", input)]);
                let is_another =
                    |before: &Observation| before.token != seen.token && ours != Some(seen.token as f64);
                if let Some(before) = before.filter(is_another) {
                    let text = format!("a takeover: token {} follows {}", seen.token, before.token);
                    history.note(now, input, "takeover", text);
                }
            }
            Err(SourceError(text)) => watched.said = Some(shortened(&text)),
        }
    }

    /// Looks at the counters.
    fn count(&self, remember: bool) {
        let now = Instant::now();
        let mut state = self.lock();
        for id in &self.graph.processes {
            let sum = |name| {
                let of = |input: &String| self.registry.value(name, &[("input", input), ("process", id)]);
                self.graph.inputs.iter().filter_map(of).sum::<f64>()
            };
            let (handled, failed) = (sum("dapper_events_handled_total"), sum("dapper_events_failed_total"));
            if let Some(failures) = state.processes.get_mut(id) {
                failures.saw(handled, failed);
            }
        }
        for id in &self.graph.inputs {
            self.count_input(&mut state, id, now);
        }
        if remember {
            let sample = self.sample(&state, now);
            state.history.push(sample);
        }
    }

    fn count_input(&self, state: &mut State, id: &str, now: Instant) {
        let value = |name| self.registry.value(name, &[("input", id)]);
        let in_flight = value("dapper_events_in_flight").unwrap_or(0.0);
        let settled = value("dapper_batches_settled_total").unwrap_or(0.0);
        let role = self.role(id);
        let State { inputs, history, .. } = state;
        let Some(watched) = inputs.get_mut(id) else { return };
        if in_flight == 0.0 || settled != watched.settled {
            (watched.settled, watched.settled_at) = (settled, now);
        }
        if role != watched.role {
            watched.role = role;
            let (kind, text) = match role {
                Role::Leading => {
                    // What happened before it led was nobody's fault here.
                    (watched.moved, watched.settled_at) = (now, now);
                    let token = value("dapper_lease_token").unwrap_or(0.0);
                    ("leading", format!("this replica leads, token {token}"))
                }
                Role::StandingBy => ("standing_by", "this replica stands by".to_owned()),
                Role::Failed => ("failed", "the input ended here and is started again".to_owned()),
                Role::Draining => ("draining", "this replica is stopping".to_owned()),
                Role::Starting | Role::Running => ("starting", "the input starts here".to_owned()),
            };
            history.note(now, id, kind, text);
        }
        let view = self.input(state, id);
        let State { inputs, history, .. } = state;
        let Some(watched) = inputs.get_mut(id) else { return };
        // Its sentence changes as the seconds pass; that it is there at all is what happened.
        match (&watched.reason, &view.reason) {
            (None, Some(reason)) if role == Role::Leading || role == Role::StandingBy => {
                history.note(now, id, "not_ready", format!("not ready: {reason}"));
            }
            (Some(_), None) => history.note(now, id, "ready", "ready".to_owned()),
            _ => {}
        }
        watched.reason = view.reason;
    }

    fn role(&self, input: &str) -> Role {
        let is = |state| {
            self.registry.value("dapper_input_state", &[("input", input), ("state", state)]) == Some(1.0)
        };
        let has_states =
            self.registry.value("dapper_input_state", &[("input", input), ("state", "leading")]).is_some();
        if self.stop.is_cancelled() {
            Role::Draining
        } else if is("leading") {
            Role::Leading
        } else if is("standing_by") {
            Role::StandingBy
        } else {
            match self.registry.value("dapper_input_up", &[("input", input)]) {
                Some(0.0) => Role::Failed,
                Some(_) if !has_states => Role::Running,
                _ => Role::Starting,
            }
        }
    }

    fn input(&self, state: &State, id: &str) -> InputView {
        let watched = &state.inputs[id];
        let now = Instant::now();
        let in_flight =
            self.registry.value("dapper_events_in_flight", &[("input", id)]).unwrap_or(0.0) as u64;
        let seen = watched.observation.as_ref();
        let failing = self.graph.processes.iter().filter_map(|process| {
            let failures = &state.processes[process];
            let labels = [("input", id), ("process", process)];
            self.registry.value("dapper_events_handled_total", &labels)?;
            (failures.since_success >= FAILING_AFTER)
                .then(|| (process.clone(), failures.since_success, failures.last_error.clone()))
        });
        let role = self.role(id);
        let reason = judge(&Seen {
            role,
            last_error: watched.last_error.clone(),
            answered: watched.observed.then(|| (now - watched.answered, watched.said.clone())),
            ever_answered: seen.is_some(),
            in_flight,
            unsettled_for: now - watched.settled_at,
            lag_changes: seen.map_or(0, |seen| seen.lag_changes),
            unmoved_for: now - watched.moved,
            paused: seen.is_some_and(|seen| seen.paused),
            parked_keys: seen.map_or(0, |seen| seen.parked_keys),
            failing: failing.collect(),
        });
        InputView {
            id: id.to_owned(),
            role,
            ready: reason.is_none(),
            reason,
            in_flight,
            cursor: seen.cloned(),
            observed_ms_ago: seen.map(|_| (now - watched.answered).as_millis() as u64),
        }
    }

    fn sample(&self, state: &State, now: Instant) -> Sample {
        let inputs = self.graph.inputs.iter().map(|id| {
            let view = self.input(state, id);
            let cursor = view.cursor.unwrap_or_default();
            (cursor.lag_seconds, cursor.lag_changes, view.ready)
        });
        let routes = self.routes.pairs.iter().map(|(input, process)| {
            let labels = [("input", input.as_str()), ("process", process.as_str())];
            let count = |name| self.registry.value(name, &labels).unwrap_or(0.0) as u64;
            (count("dapper_events_handled_total"), count("dapper_events_failed_total"))
        });
        Sample { at: now, inputs: inputs.collect(), routes: routes.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn new(id: &str, now: Instant) -> Self {
        Self {
            role: Role::Starting,
            last_error: None,
            observed: true,
            observation: None,
            meter: Meter::of(id),
            answered: now,
            said: None,
            moved: now,
            settled: 0.0,
            settled_at: now,
            reason: None,
        }
    }
}

impl Meter {
    fn of(input: &str) -> Self {
        describe();
        let labels = [("input", input.to_owned())];
        Self {
            lag_changes: gauge!("dapper_cursor_lag_changes", &labels),
            lag_seconds: gauge!("dapper_cursor_lag_seconds", &labels),
            parked_keys: gauge!("dapper_parked_keys", &labels),
            dead_letters: gauge!("dapper_dead_letters", &labels),
            missed: counter!("dapper_statements_missed_total", &labels),
        }
    }

    fn write(&self, seen: &Observation) {
        self.lag_changes.set(seen.lag_changes as f64);
        self.lag_seconds.set(seen.lag_seconds);
        self.parked_keys.set(seen.parked_keys as f64);
        self.dead_letters.set(seen.dead_letters as f64);
        self.missed.absolute(seen.missed);
    }
}

fn describe() {
    describe_gauge!(
        "dapper_cursor_lag_seconds",
        Unit::Seconds,
        "Age of the oldest change that is not handled, by the database's clock; 0 when there is none."
    );
    describe_gauge!(
        "dapper_cursor_lag_changes",
        "Changes that are not handled; reckoned where there are thousands."
    );
    describe_gauge!("dapper_parked_keys", "Keys that are parked, each at a process.");
    describe_gauge!("dapper_dead_letters", "Dead letters.");
    describe_counter!(
        "dapper_statements_missed_total",
        "Statements that passed unrecorded, since the installation."
    );
}

impl Failures {
    fn saw(&mut self, handled: f64, failed: f64) {
        if handled > self.handled {
            self.since_success = 0;
        } else if failed > self.failed {
            self.since_success += (failed - self.failed) as u64;
        }
        (self.handled, self.failed) = (handled, failed);
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MOST_ERROR_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("graph", &self.graph).finish_non_exhaustive()
    }
}
