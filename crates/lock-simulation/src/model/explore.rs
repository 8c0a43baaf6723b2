//! Visits every state that can be reached, breadth first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;
use std::thread;

use super::Report;
use super::canon::{Scratch, fingerprint};
use super::state::{Rules, State, Step, Successor};
use crate::Violation;

/// How many states one round hands to the threads.
const ROUND: usize = 1 << 15;

/// How a state was reached first: from which, as which of its successors.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    ordinal: u16,
}

struct Candidate {
    state: State,
    fingerprint: u128,
    origin: Origin,
    found: Option<Violation>,
}

/// A fingerprint is its own hash.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are numbers")
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

type Visited = HashMap<u128, (), BuildHasherDefault<Identity>>;

pub(super) fn explore(rules: &Rules, progress: &mut dyn FnMut(&Report)) -> Report {
    let mut report = Report::default();
    let mut visited = Visited::default();
    let mut origins = vec![Origin { parent: 0, ordinal: 0 }];
    let initial = rules.initial();
    visited.insert(fingerprint(rules, &initial, &mut Scratch::default()), ());
    let mut level = vec![(0_u32, initial)];
    report.states = 1;
    while !level.is_empty() {
        let mut next = Vec::new();
        while !level.is_empty() {
            let round = level.split_off(level.len().saturating_sub(ROUND));
            for candidate in expand(rules, &round, &visited, &mut report.transitions) {
                let Candidate { state, fingerprint, origin, found } = candidate;
                if let Some(found) = found {
                    report.found = Some(found);
                    report.path = path(rules, &origins, origin);
                    return report;
                }
                if visited.insert(fingerprint, ()).is_none() {
                    next.push((
                        u32::try_from(origins.len()).expect("fewer than 2^32 states fit the memory"),
                        state,
                    ));
                    origins.push(origin);
                    report.states += 1;
                }
            }
            progress(&report);
        }
        report.depth += 1;
        level = next;
    }
    report
}

/// The unvisited successors of the states, in their order.
fn expand(
    rules: &Rules,
    states: &[(u32, State)],
    visited: &Visited,
    transitions: &mut u64,
) -> Vec<Candidate> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = states.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = states
            .chunks(share)
            .map(|states| scope.spawn(move || expand_share(rules, states, visited)))
            .collect();
        let mut candidates = Vec::new();
        for worker in workers {
            let (some, count) = worker.join().expect("a worker only panics on a bug");
            candidates.extend(some);
            *transitions += count;
        }
        candidates
    })
}

fn expand_share(rules: &Rules, states: &[(u32, State)], visited: &Visited) -> (Vec<Candidate>, u64) {
    let mut scratch = Scratch::default();
    let mut candidates = Vec::new();
    let mut successors: Vec<Successor> = Vec::new();
    let mut transitions = 0;
    for (parent, state) in states {
        rules.successors(state, &mut successors);
        transitions += successors.len() as u64;
        for (ordinal, (state, _, found)) in successors.drain(..).enumerate() {
            let fingerprint = fingerprint(rules, &state, &mut scratch);
            if found.is_some() || !visited.contains_key(&fingerprint) {
                let origin = Origin { parent: *parent, ordinal: ordinal as u16 };
                candidates.push(Candidate { state, fingerprint, origin, found });
            }
        }
    }
    (candidates, transitions)
}

/// The steps from the beginning to the state of that origin, done again.
fn path(rules: &Rules, origins: &[Origin], last: Origin) -> Vec<String> {
    let mut ordinals = vec![last.ordinal];
    let mut parent = last.parent;
    while parent != 0 {
        let origin = origins[parent as usize];
        ordinals.push(origin.ordinal);
        parent = origin.parent;
    }
    let mut state = rules.initial();
    let mut lines = Vec::new();
    for ordinal in ordinals.into_iter().rev() {
        let mut successors = Vec::new();
        rules.successors(&state, &mut successors);
        let (next, step, _) = successors.swap_remove(usize::from(ordinal));
        lines.push(line(&next, &step));
        state = next;
    }
    lines
}

fn line(after: &State, step: &Step) -> String {
    let valid: Vec<String> = after
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| Some(format!("node {index} holds {}", node.driver.valid(node.local)?)))
        .collect();
    let step = match step {
        Step::Tick { paused, missed } => {
            format!("a tick; paused {paused:03b}, clocks that miss it {missed:03b}")
        }
        Step::Node(node, event) => format!("node {node}: {event:?}"),
        Step::Delivered(message) => {
            format!("node {}.{}: arrives: {:?}", message.node, message.start, message.body)
        }
        Step::Restart(node) => format!("node {node} is killed and starts again"),
    };
    format!("{:>3}  {step}  [{}]", after.now, valid.join(", "))
}
