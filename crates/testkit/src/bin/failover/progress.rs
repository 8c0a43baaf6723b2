//! How far it has come.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use dapper_testkit::failover::{Case, CaseReport};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal, a line now and then elsewhere; on stderr, since the result goes to stdout.
pub(crate) struct Progress {
    case: Case,
    bar: ProgressBar,
    started: Instant,
    last_line: Mutex<Instant>,
}

impl Progress {
    pub(crate) fn new(case: Case, runs: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(runs as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg:18} {bar:40} {pos} of {len}, {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(case.name());
        let started = Instant::now();
        Self { case, bar, started, last_line: Mutex::new(started) }
    }

    /// One more run is done.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
            eprintln!("{:18} {done} of {all} runs, {} s", self.case.name(), self.started.elapsed().as_secs());
        }
    }

    pub(crate) fn end(&self, report: &CaseReport) {
        self.bar.finish_and_clear();
        eprintln!(
            "{:18} {} runs in {} s, takeover p50 {:.1} ms",
            self.case.name(),
            report.rounds.len(),
            self.started.elapsed().as_secs(),
            report.percentile(50).as_secs_f64() * 1e3
        );
    }
}
