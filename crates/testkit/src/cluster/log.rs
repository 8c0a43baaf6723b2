//! The log of one replica: JSON lines, as `--log-format json` writes them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;

/// Older lines are forgotten; who held the lease is not.
const LINES_LIMIT: usize = 20_000;
const TAIL_LINES: usize = 15;
const ACQUIRED: &str = "lease acquired";

/// What a replica has logged so far.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
    count: watch::Sender<usize>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When it was read.
    pub at: Instant,
    /// As it was written.
    pub text: String,
    /// The same parsed; `Null` when it is no JSON.
    pub json: Value,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<LogLine>,
    held: Option<u64>,
}

impl LogLine {
    /// Its message; the whole line when it is no JSON.
    #[must_use]
    pub fn message(&self) -> &str {
        self.field("message").and_then(Value::as_str).unwrap_or(&self.text)
    }

    /// Its level.
    #[must_use]
    pub fn level(&self) -> Option<&str> {
        self.json.get("level")?.as_str()
    }

    /// One of its fields, whether the line is flat or has them in an object of their own.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.json.get("fields").unwrap_or(&self.json).get(name)
    }
}

impl Log {
    /// All lines, save the oldest of a very long log.
    #[must_use]
    pub fn lines(&self) -> Vec<LogLine> {
        self.lock().lines.iter().cloned().collect()
    }

    /// The token of the last lease that it said it acquired.
    #[must_use]
    pub fn held_token(&self) -> Option<u64> {
        self.lock().held
    }

    /// The last few lines, for a message.
    #[must_use]
    pub fn tail(&self) -> String {
        let state = self.lock();
        let skipped = state.lines.len().saturating_sub(TAIL_LINES);
        state.lines.iter().skip(skipped).map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    pub(super) fn push(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        let json = serde_json::from_str(&text).unwrap_or_default();
        let line = LogLine { at: Instant::now(), text, json };
        let mut state = self.lock();
        if line.message() == ACQUIRED {
            state.held = line.field("token").and_then(token).or(state.held);
        }
        if state.lines.len() == LINES_LIMIT {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
        drop(state);
        self.count.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logged as a number, or as text by way of `Display`.
fn token(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lease_counts() {
        let log = Log::default();
        assert_eq!(log.held_token(), None);
        for line in [
            r#"{"level":"INFO","message":"lease acquired","token":3}"#,
            r#"{"level":"INFO","fields":{"message":"lease acquired","token":"7"}}"#,
            r#"{"level":"WARN","fields":{"message":"something else","token":9}}"#,
            r#"{"level":"INFO","fields":{"message":"lease acquired"}}"#,
            "thread 'main' panicked",
        ] {
            log.push(line.as_bytes());
        }
        assert_eq!(log.held_token(), Some(7));
        let lines = log.lines();
        assert_eq!((lines[2].level(), lines[2].message()), (Some("WARN"), "something else"));
        assert_eq!((lines[4].level(), lines[4].message()), (None, "thread 'main' panicked"));
        assert!(log.tail().ends_with("thread 'main' panicked"));
    }

    #[test]
    fn a_long_log_is_bounded() {
        let log = Log::default();
        log.push(br#"{"fields":{"message":"lease acquired","token":3}}"#);
        (0..LINES_LIMIT).for_each(|_| log.push(b"x"));
        assert_eq!((log.lines().len(), log.held_token()), (LINES_LIMIT, Some(3)));
    }
}
