//! Tells of errors: all of them on the error stream, a bearable number of them in the logs.

use std::collections::HashMap;
use std::mem::{self, Discriminant};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::OrchestratorError;
use crate::error::one_line;

/// Where all errors go.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    stream: Option<mpsc::Sender<OrchestratorError>>,
    dropped: AtomicU64,
    repeats: Mutex<HashMap<(String, Discriminant<OrchestratorError>), Repeats>>,
}

impl Reporter {
    pub(crate) fn new(stream: Option<mpsc::Sender<OrchestratorError>>) -> Self {
        Self { stream, ..Self::default() }
    }

    /// Logs the error unless its like was logged just now, and puts it on the error stream. Never waits.
    pub(crate) fn report(&self, error: OrchestratorError) {
        self.log(&error);
        let Some(stream) = &self.stream else { return };
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && stream.try_send(OrchestratorError::ErrorsDropped { count: dropped }).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
            return;
        }
        if stream.try_send(error).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn log(&self, error: &OrchestratorError) {
        let kind = (error.node().unwrap_or_default().to_owned(), mem::discriminant(error));
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = repeats.entry(kind).or_default().observe(Instant::now());
        drop(repeats);
        let Some(left_out) = verdict else { return };
        let mut line = one_line(error);
        if left_out > 0 {
            line.push_str(&format!(" (and {left_out} more like it since)"));
        }
        if error.is_grave() {
            tracing::error!("{line}");
        } else {
            tracing::warn!("{line}");
        }
    }
}

/// Decides which of a row of like errors are logged: the first two, then one per interval, which doubles.
#[derive(Debug, Default)]
struct Repeats {
    logged: u32,
    left_out: u64,
    last: Option<Instant>,
}

impl Repeats {
    const FIRST_INTERVAL: Duration = Duration::from_secs(1);
    const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
    const UNCONDITIONAL: u32 = 2;

    /// `Some` when this one is to be logged, with the number of those left out since the last.
    fn observe(&mut self, now: Instant) -> Option<u64> {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        let doublings = self.logged.saturating_sub(Self::UNCONDITIONAL).min(6);
        let interval = (Self::FIRST_INTERVAL * (1 << doublings)).min(Self::LONGEST_INTERVAL);
        if since.is_some_and(|since| since >= 2 * Self::LONGEST_INTERVAL) {
            self.logged = 0;
        } else if self.logged >= Self::UNCONDITIONAL && since.is_some_and(|since| since < interval) {
            self.left_out += 1;
            return None;
        }
        self.logged = self.logged.saturating_add(1);
        self.last = Some(now);
        Some(mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_errors_is_logged_ever_less_often() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        let logged: Vec<u64> = (0..3000)
            .map(|tick| tick * 100)
            .filter(|&ms| repeats.observe(start + Duration::from_millis(ms)).is_some())
            .collect();
        let expected = [0, 100, 1100, 3100, 7100, 15100, 31100, 63100, 123_100, 183_100, 243_100];
        assert_eq!(logged, expected);
        let later = start + Duration::from_secs(1000);
        assert_eq!(repeats.observe(later), Some(568), "all that were left out are counted");
        assert_eq!(repeats.observe(later), Some(0), "after a quiet time it starts over");
    }

    #[test]
    fn errors_that_find_no_room_are_counted() {
        let (sender, mut stream) = mpsc::channel(2);
        let reporter = Reporter::new(Some(sender));
        let error = || OrchestratorError::InputEnded { input: "i".into(), restart_in: None };
        for _ in 0..5 {
            reporter.report(error());
        }
        assert!(matches!(stream.try_recv(), Ok(OrchestratorError::InputEnded { .. })));
        assert!(matches!(stream.try_recv(), Ok(OrchestratorError::InputEnded { .. })));
        reporter.report(error());
        assert!(matches!(stream.try_recv(), Ok(OrchestratorError::ErrorsDropped { count: 3 })));
        assert!(matches!(stream.try_recv(), Ok(OrchestratorError::InputEnded { .. })));
    }
}
