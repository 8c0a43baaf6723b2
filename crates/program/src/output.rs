//! What a program prints: line by line, without secrets, within bounds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A longer line is cut.
const MAX_LINE_CHARS: usize = 500;
/// How many lines of standard error are kept for the error.
const TAIL_LINES: usize = 10;
/// How much of them is shown.
const TAIL_CHARS: usize = 1_500;
/// How many lines may be logged at once after a quiet time.
const LINES_AT_ONCE: f64 = 100.0;
/// How many lines a second may be logged for longer.
const LINES_PER_SECOND: f64 = 20.0;
/// Shorter secrets are not looked for: they would match by chance.
const MIN_SECRET_BYTES: usize = 4;

/// Where the lines of all runs of one process go.
pub struct Log {
    process: String,
    /// Longest first, so that no part of one is left over.
    secrets: Vec<String>,
    budget: Mutex<Budget>,
}

struct Budget {
    lines: f64,
    at: Option<Instant>,
    /// How many lines were left out since the last one that was not.
    left_out: u64,
}

/// Takes lines out of what comes in pieces.
#[derive(Debug)]
pub struct Lines<'l> {
    log: &'l Log,
    stream: &'static str,
    line: Vec<u8>,
    /// The last lines, where they are wanted.
    tail: Option<&'l Tail>,
}

/// The last lines of a stream.
#[derive(Debug, Default)]
pub struct Tail(Mutex<VecDeque<String>>);

impl Log {
    /// For the process of that name, whose output must not show these secrets.
    pub fn new<'s>(process: &str, secrets: impl Iterator<Item = &'s str>) -> Self {
        // Lines are looked at one by one, so a secret of several is looked for by its lines.
        let mut secrets: Vec<String> = secrets.flat_map(str::lines).map(str::to_owned).collect();
        secrets.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let budget = Mutex::new(Budget { lines: LINES_AT_ONCE, at: None, left_out: 0 });
        Self { process: process.to_owned(), secrets, budget }
    }

    /// How many bytes of a line are kept: so many that a secret at the cut is whole, and found.
    fn line_bytes(&self) -> usize {
        4 * MAX_LINE_CHARS + self.secrets.first().map_or(0, String::len)
    }

    /// A line as it may be shown: without secrets and control characters, and cut.
    #[must_use]
    pub fn clean(&self, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line);
        let text = self.secrets.iter().fold(text.into_owned(), |text, secret| text.replace(secret, "***"));
        let mut shown: String = text
            .trim_end()
            .chars()
            .take(MAX_LINE_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.trim_end().chars().nth(MAX_LINE_CHARS).is_some() {
            shown.push('…');
        }
        shown
    }

    fn write(&self, stream: &'static str, line: &str) {
        let left_out = {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            match budget.take(Instant::now()) {
                Some(left_out) => left_out,
                None => return,
            }
        };
        let process = self.process.as_str();
        if left_out > 0 {
            tracing::warn!(process, "{left_out} lines of output were left out");
        }
        tracing::info!(process, stream, "{line}");
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Budget {
    /// The right to log one line, and how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let quiet = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.lines = (self.lines + quiet.as_secs_f64() * LINES_PER_SECOND).min(LINES_AT_ONCE);
        if self.lines < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<'l> Lines<'l> {
    /// The lines of a stream of that name; the last of them are kept in `tail`, where one is given.
    #[must_use]
    pub fn new(log: &'l Log, stream: &'static str, tail: Option<&'l Tail>) -> Self {
        Self { log, stream, line: Vec::new(), tail }
    }

    /// The next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = self.log.line_bytes().saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = self.log.clean(&self.line);
        self.line.clear();
        if line.is_empty() {
            return;
        }
        self.log.write(self.stream, &line);
        if let Some(tail) = self.tail {
            tail.push(line);
        }
    }
}

impl Drop for Lines<'_> {
    /// What comes before the end without the end of a line is one, too.
    fn drop(&mut self) {
        self.end_line();
    }
}

impl Tail {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last lines as one, after `: `; empty when there are none.
    #[must_use]
    pub fn said(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        let too_many = text.chars().count().saturating_sub(TAIL_CHARS);
        let (more, text): (&str, String) = ("…", text.chars().skip(too_many).collect());
        match (text.is_empty(), too_many > 0) {
            (true, _) => String::new(),
            (false, true) => format!(": {more}{text}"),
            (false, false) => format!(": {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(secrets: &[&str], pieces: &[&str]) -> String {
        let log = Log::new("run", secrets.iter().copied());
        let tail = Tail::default();
        let mut lines = Lines::new(&log, "stderr", Some(&tail));
        for piece in pieces {
            lines.push(piece.as_bytes());
        }
        drop(lines);
        tail.said()
    }

    #[test]
    fn lines_are_put_together_and_cleaned() {
        assert_eq!(tail(&[], &["a", "b\nc\r\n\n", "\u{1b}[1md"]), ": ab | c |  [1md");
        assert_eq!(tail(&[], &[]), "");
    }

    #[test]
    fn a_long_line_is_cut_and_the_last_lines_are_kept() {
        let long = "ä".repeat(3 * MAX_LINE_CHARS);
        assert_eq!(tail(&[], &[&long]), format!(": {}…", "ä".repeat(MAX_LINE_CHARS)));
        let many: Vec<String> = (0..50).map(|n| format!("{n}\n")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(tail(&[], &many), ": 40 | 41 | 42 | 43 | 44 | 45 | 46 | 47 | 48 | 49");
        let lines = format!("{}\n", "x".repeat(400)).repeat(9);
        assert_eq!(tail(&[], &[&lines]).chars().count(), TAIL_CHARS + 3);
    }

    #[test]
    fn no_secret_is_left_whole_or_in_part() {
        assert_eq!(tail(&["canary", "canary-long"], &["a can", "ary-long b canary\n"]), ": a *** b ***");
        assert_eq!(tail(&["first-line\nsecond-line"], &["first-line\nand second-line"]), ": *** | and ***");
        for before in MAX_LINE_CHARS - 8..MAX_LINE_CHARS + 8 {
            let said = tail(&["canary-canary"], &[&"x".repeat(before), "canary-canary"]);
            assert!(!said.contains("can"), "{said}");
        }
    }

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let log = Log::new("run", std::iter::empty());
        let mut budget = log.budget.lock().unwrap();
        let now = Instant::now();
        let written = (0..1_000).filter(|_| budget.take(now).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(budget.take(now + Duration::from_secs(1)), Some(900));
        let written = (0..1_000).filter(|_| budget.take(now + Duration::from_secs(1)).is_some()).count();
        assert_eq!(written, 19);
    }
}
