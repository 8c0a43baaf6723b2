//! Processes that run scripts, and what became of what these start.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dapper_command::{CommandProcess, KIND};
use dapper_core::{Event, Operation, ProcessConfig};
use tempfile::TempDir;
use tracing::subscriber::DefaultGuard;

/// Nothing here takes nearly as long, not even on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn config(context: &[(&str, &str)]) -> ProcessConfig {
    let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    ProcessConfig { name: "run".into(), kind: KIND.into(), execution_context }
}

pub(crate) fn process(context: &[(&str, &str)]) -> CommandProcess {
    CommandProcess::new(config(context)).unwrap()
}

/// A process that has the shell run `script` in `folder`.
pub(crate) fn script(folder: &TempDir, script: &str, more: &[(&str, &str)]) -> CommandProcess {
    let directory = folder.path().to_str().unwrap();
    let context = [&[("command", script), ("shell", "true"), ("directory", directory)], more].concat();
    process(&context)
}

pub(crate) fn event() -> Event {
    Event::new("orders", Operation::Delete, "42", "orders_input")
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn read(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap()
}

/// An error and all its causes, as a log would show them, and as a panic would.
pub(crate) fn whole_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    format!("{}\n{error:?}", causes.collect::<Vec<_>>().join(": "))
}

/// The process ids in a file, one a line, once there are so many.
pub(crate) async fn pids(file: &Path, count: usize) -> Vec<u32> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if pids.len() == count && text.ends_with('\n') {
            return pids;
        }
        assert!(start.elapsed() < LIMIT, "{text:?} are not {count} process ids");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the process is there and has not ended; one that only its parent has not noticed yet has.
pub(crate) fn lives(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits until none of them lives.
pub(crate) async fn all_end(pids: &[u32]) {
    let start = Instant::now();
    while pids.iter().any(|&pid| lives(pid)) {
        assert!(start.elapsed() < LIMIT, "of {pids:?} some live on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
