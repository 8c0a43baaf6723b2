//! What every reader does with an event, and how the driver asks it: the same few instructions for all that are compared.
//!
//! The driver writes a command in a line to the reader's standard input, and gets a line of JSON for it.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a waiting command looks.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// Counts events; keeps the time of each only when told to.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    events: AtomicU64,
    keeps_times: AtomicBool,
    /// By id, in microseconds since 1970.
    times: Mutex<BTreeMap<u64, u64>>,
}

impl Probe {
    /// An event has come.
    pub(crate) fn hit(&self, id: &str) {
        if self.keeps_times.load(Ordering::Relaxed) {
            let micros = now_us();
            if let Ok(id) = id.parse() {
                self.times.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(micros);
            }
        }
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers the driver until it goes away, on a thread of its own.
    pub(crate) fn serve(self: &Arc<Self>) {
        let probe = Arc::clone(self);
        thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let answer = probe.answer(&line);
                let mut out = std::io::stdout().lock();
                if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
                    break;
                }
            }
        });
    }

    fn answer(&self, line: &str) -> serde_json::Value {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match command {
            "events" => {
                serde_json::json!({ "events": self.count(), "allocations": crate::allocations::count() })
            }
            "wait" => {
                self.wait(number());
                serde_json::json!({ "events": self.count() })
            }
            "drain" => self.drain(number(), number()),
            "keep" => {
                self.times.lock().unwrap_or_else(PoisonError::into_inner).clear();
                self.keeps_times.store(true, Ordering::Relaxed);
                serde_json::json!({})
            }
            "times" => {
                self.keeps_times.store(false, Ordering::Relaxed);
                let times = std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner));
                let pairs: Vec<(u64, u64)> = times.into_iter().collect();
                serde_json::json!({ "times": pairs })
            }
            _ => serde_json::json!({ "error": format!("what is {command:?}?") }),
        }
    }

    fn count(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Until there were so many; the driver bounds it by killing the reader.
    fn wait(&self, events: u64) {
        while self.count() < events {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// How long it took from the first event after `from` to the last, `to`, and how many that were.
    fn drain(&self, from: u64, to: u64) -> serde_json::Value {
        self.wait(from + 1);
        let (started, first) = (Instant::now(), self.count());
        self.wait(to);
        let seconds = started.elapsed().as_secs_f64();
        serde_json::json!({ "events": self.count() - first, "seconds": seconds })
    }
}

#[expect(clippy::disallowed_methods, reason = "pgbench writes down the wall clock of this very machine")]
fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_keeps_the_first_time_of_each_id() {
        let probe = Probe::default();
        probe.hit("7");
        assert_eq!(probe.answer("keep"), serde_json::json!({}));
        probe.hit("8");
        probe.hit("8");
        assert_eq!(probe.answer("wait 3"), serde_json::json!({ "events": 3 }));
        let times = probe.answer("times");
        assert_eq!(times["times"].as_array().map(Vec::len), Some(1));
        assert_eq!(times["times"][0][0], 8);
        assert_eq!(probe.answer("drain 2 3")["events"], 0);
        assert!(probe.answer("dance").get("error").is_some());
    }
}
