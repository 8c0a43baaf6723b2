//! The last minutes, bounded, so that a page that was just opened can show them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::source::Graph;

/// Samples that are kept: ten minutes, at one every two seconds.
const MOST_SAMPLES: usize = 300;
/// Events that are kept.
const MOST_NOTES: usize = 100;
/// The most time that samples and events are kept.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// Samples and events, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    notes: VecDeque<Note>,
}

/// The counters at one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// For each input its lag in seconds and in changes, and whether it is ready.
    pub(crate) inputs: Vec<(f64, u64, bool)>,
    /// For each route the events handled and the runs failed so far.
    pub(crate) routes: Vec<(u64, u64)>,
}

/// Something that happened.
#[derive(Debug)]
struct Note {
    at: Instant,
    input: String,
    kind: &'static str,
    text: String,
}

/// Which input's events come to which process.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) pairs: Vec<(String, String)>,
}

impl Routes {
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut pairs = Vec::new();
        for input in &graph.inputs {
            let mut reached: BTreeSet<&String> = BTreeSet::new();
            let mut look_at = vec![input];
            while let Some(node) = look_at.pop() {
                for (_, to) in graph.links.iter().filter(|(from, _)| from == node) {
                    if reached.insert(to) {
                        look_at.push(to);
                    }
                }
            }
            pairs.extend(reached.into_iter().map(|process| (input.clone(), process.clone())));
        }
        Self { pairs }
    }
}

impl History {
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.samples.len() == MOST_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(crate) fn note(&mut self, at: Instant, input: &str, kind: &'static str, text: String) {
        if self.notes.len() == MOST_NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at, input: input.to_owned(), kind, text });
    }

    /// Times are milliseconds ago: no wall clock has a part in it.
    pub(crate) fn to_json(&self, graph: &Graph, routes: &Routes, now: Instant) -> Value {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let samples: Vec<Value> = self
            .samples
            .iter()
            .filter(|sample| ago(sample.at) <= KEPT_FOR)
            .map(|Sample { at, inputs, routes }| {
                json!({ "ago_ms": ago(*at).as_millis() as u64, "inputs": inputs, "routes": routes })
            })
            .collect();
        let notes: Vec<Value> = self
            .notes
            .iter()
            .filter(|note| ago(note.at) <= KEPT_FOR)
            .map(|Note { at, input, kind, text }| {
                json!({ "ago_ms": ago(*at).as_millis() as u64, "input": input, "kind": kind, "text": text })
            })
            .collect();
        json!({
            "kept_for_ms": KEPT_FOR.as_millis() as u64,
            "inputs": graph.inputs,
            "routes": routes.pairs,
            "samples": samples,
            "events": notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_much_is_kept() {
        let (mut history, now) = (History::default(), Instant::now());
        for n in 0..2 * MOST_SAMPLES {
            history.push(Sample { at: now, inputs: Vec::new(), routes: vec![(n as u64, 0)] });
            history.note(now, "i", "takeover", n.to_string());
        }
        let json = history.to_json(&Graph::default(), &Routes { pairs: Vec::new() }, now);
        assert_eq!(json["samples"].as_array().unwrap().len(), MOST_SAMPLES);
        assert_eq!(json["samples"][0]["routes"][0][0], MOST_SAMPLES);
        assert_eq!(json["events"].as_array().unwrap().len(), MOST_NOTES);
        let later = history.to_json(&Graph::default(), &Routes { pairs: Vec::new() }, now + KEPT_FOR * 2);
        assert_eq!((later["samples"].clone(), later["events"].clone()), (json!([]), json!([])));
    }

    #[test]
    fn routes_lead_to_everything_behind_an_input() {
        let link = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let graph = Graph {
            inputs: vec!["i".into(), "j".into()],
            processes: vec!["a".into(), "b".into()],
            links: vec![link("i", "a"), link("a", "b"), link("j", "b")],
        };
        assert_eq!(Routes::of(&graph).pairs, [link("i", "a"), link("i", "b"), link("j", "b")]);
    }
}
