//! Keeps one input going.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dapper_core::{ErrorKind, EventSink, Input, InputError};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::dispatch::{Pool, panic_message};
use crate::error::OrchestratorError;
use crate::meter::InputMeter;
use crate::retry::Backoff;
use crate::ticket::InputRun;

const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// After running so long an input counts as well, and the next failure as the first.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// Deliveries that an input may send ahead.
const DELIVERIES_AHEAD: usize = 1;
/// Complaints that may wait to be passed on.
const COMPLAINTS_AHEAD: usize = 64;

/// How a run of an input ended.
enum End {
    Returned(Result<(), InputError>),
    Panicked(String),
}

/// Runs `input` until `stop`, starting it again whenever it ends before.
pub(crate) async fn supervise(
    input: Arc<dyn Input>,
    index: usize,
    most_outstanding: usize,
    pool: Arc<Pool>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
    let meter = InputMeter::new(input.id());
    while !stop.is_cancelled() {
        meter.up.set(1.0);
        let started = Instant::now();
        let run = Arc::new(InputRun::new(index, most_outstanding));
        let end = run_once(input.as_ref(), &run, &pool, stop.child_token()).await;
        meter.up.set(0.0);
        pool.abandon(&run);
        if stop.is_cancelled() {
            if !matches!(end, End::Returned(Ok(()))) {
                pool.reporter.report(ended(input.id(), end, None));
            }
            return;
        }
        if started.elapsed() >= WELL_AFTER {
            backoff.reset();
        }
        meter.restarts.increment(1);
        let permanent = matches!(&end, End::Returned(Err(error)) if error.kind() == ErrorKind::Permanent);
        let delay = if permanent { backoff.longest() } else { backoff.next() };
        pool.reporter.report(ended(input.id(), end, Some(delay)));
        tokio::select! {
            () = sleep(delay) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// One run of `handle`, beside the taking in of what it sends.
async fn run_once(input: &dyn Input, run: &Arc<InputRun>, pool: &Pool, stop: CancellationToken) -> End {
    let (delivery_sender, mut deliveries) = mpsc::channel(DELIVERIES_AHEAD);
    let (complaint_sender, mut complaints) = mpsc::channel(COMPLAINTS_AHEAD);
    let sink = EventSink::new(delivery_sender, complaint_sender);
    let mut handle = pin!(AssertUnwindSafe(async { input.handle(sink, stop).await }).catch_unwind());
    let end = loop {
        tokio::select! {
            end = &mut handle => break end,
            Some(delivery) = deliveries.recv(), if run.has_room() => pool.enter(run, delivery),
            () = run.room.notified(), if !run.has_room() => {}
            Some(source) = complaints.recv() => complain(input, pool, source),
        }
    };
    while let Ok(source) = complaints.try_recv() {
        complain(input, pool, source);
    }
    match end {
        Ok(result) => End::Returned(result),
        Err(panic) => End::Panicked(panic_message(panic.as_ref())),
    }
}

fn complain(input: &dyn Input, pool: &Pool, source: InputError) {
    pool.reporter.report(OrchestratorError::InputReported { input: input.id().to_owned(), source });
}

fn ended(input: &str, end: End, restart_in: Option<Duration>) -> OrchestratorError {
    let input = input.to_owned();
    match end {
        End::Returned(Err(source)) => OrchestratorError::InputFailed { input, restart_in, source },
        End::Returned(Ok(())) => OrchestratorError::InputEnded { input, restart_in },
        End::Panicked(message) => OrchestratorError::InputPanicked { input, restart_in, message },
    }
}
