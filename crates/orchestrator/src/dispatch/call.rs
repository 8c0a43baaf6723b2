//! One call of a process, and what follows from how it ends.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;

use dapper_core::{Fate, ProcessExitStatus, ProcessStatus};
use futures::FutureExt;
use tracing::Instrument;

use super::{Outcome, Pool};
use crate::builder::ProcessNode;
use crate::error::{FailureCause, OrchestratorError, one_line};
use crate::meter::Tally;
use crate::retry::Verdict;
use crate::span;
use crate::ticket::{Job, Retry};

/// How much of a failure's text is stored with an event.
const MOST_ERROR_CHARACTERS: usize = 2_000;

impl Pool {
    pub(super) async fn run(&self, job: Job, tally: &mut Tally<'_>) -> Outcome {
        if !job.ticket.is_valid() {
            return Outcome::Abandoned(job);
        }
        let node = self.node(&job);
        if job.retry.is_none()
            && self.is_held(&job, node)
            && self.store(&job, Fate::Untried { suspect: false })
        {
            return Outcome::Stored(job);
        }
        reach!(BeforeCall);
        let span = span::of_delivery(node.process.id(), job.event());
        let began = tally.begin(job.route);
        let result = {
            let call = AssertUnwindSafe(async { node.process.run(job.event()).await }).catch_unwind();
            let mut call = pin!(call.instrument(span.clone()));
            match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
                Poll::Ready(result) => {
                    tally.ran(job.route, began);
                    Some(result)
                }
                Poll::Pending => {
                    let began = tally.waits(job.route, began);
                    let result = tokio::select! {
                        biased;
                        result = call => Some(result),
                        () = self.cut_off.cancelled() => None,
                    };
                    tally.waited(job.route, began);
                    result
                }
            }
        };
        reach!(AfterCall);
        span::end(&span, result.as_ref().and_then(|result| result.as_ref().ok()));
        let (status, cause) = match result {
            None => return Outcome::Abandoned(job),
            Some(Ok(Ok(status))) if status.status == ProcessExitStatus::Fail => {
                (status, FailureCause::Status)
            }
            Some(Ok(Ok(status))) => {
                for line in &status.logs {
                    tracing::info!(process = node.process.id(), "{line}");
                }
                tally.handled(job.route);
                return Outcome::Handled(job);
            }
            Some(Ok(Err(error))) => (ProcessStatus::default(), FailureCause::Error(error)),
            Some(Err(panic)) => {
                (ProcessStatus::default(), FailureCause::Panicked(panic_message(panic.as_ref())))
            }
        };
        self.failed(job, node, status.logs, cause)
    }

    fn failed(&self, mut job: Job, node: &ProcessNode, logs: Vec<String>, source: FailureCause) -> Outcome {
        let meter = self.meter.route(job.route);
        meter.failed.increment(1);
        let attempt = job.event().attempt.unwrap_or(1).max(1);
        let error = failure_text(&logs, &source);
        let pause = match &source {
            FailureCause::Error(error) => error.retry_after(),
            FailureCause::Status | FailureCause::Panicked(_) => None,
        };
        let resumed = job.ticket.resumed_at(job.route);
        let tries = match resumed {
            Some(at) => at.tries,
            None => job.retry.as_ref().map_or(0, |retry| retry.failures).saturating_add(1),
        };
        let keeping = self.keeping(&job);
        let verdict = node.policy.verdict(tries, pause, keeping, fastrand::f64());
        let event = &job.ticket.event;
        self.reporter.report(OrchestratorError::ProcessFailed {
            process: node.process.id().to_owned(),
            location: event.location.to_string(),
            id: event.id.clone(),
            event_id: event.event_id.clone(),
            attempt,
            exhausted: node.policy.is_exhausted(tries),
            logs,
            source,
        });
        if !job.ticket.is_valid() {
            return Outcome::Abandoned(job);
        }
        let fate = match verdict {
            Verdict::Dead => Fate::Dead { tries, error },
            Verdict::Park(after) => Fate::Retry { tries, after, error },
            Verdict::Hold(delay) => {
                let mut event =
                    job.retry.take().map_or_else(|| job.ticket.event.clone(), |retry| retry.event);
                event.attempt = Some(attempt.saturating_add(1));
                meter.retried.increment(1);
                job.retry = Some(Box::new(Retry { event, failures: tries, error }));
                return Outcome::Failed(job, delay);
            }
        };
        if self.store(&job, fate) { Outcome::Stored(job) } else { Outcome::Abandoned(job) }
    }
}

/// What is kept of how a run failed.
fn failure_text(logs: &[String], cause: &FailureCause) -> String {
    let text = match (cause, logs.last()) {
        (FailureCause::Status, Some(last)) => last.clone(),
        (FailureCause::Error(error), _) => one_line(error),
        (cause, _) => cause.to_string(),
    };
    text.chars().take(MOST_ERROR_CHARACTERS).collect()
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
