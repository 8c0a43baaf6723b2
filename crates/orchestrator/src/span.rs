//! The span of a delivery: what a log line in it, or a collector of spans, can say of the event.

use dapper_core::{Event, ProcessError, ProcessExitStatus, ProcessStatus};
use tracing::Span;
use tracing::field::Empty;

/// For one call of a process. Costs next to nothing unless somebody wants spans of level debug.
///
/// `traceparent` is what the writer gave; who exports spans makes it their parent.
pub(crate) fn of_delivery(process: &str, event: &Event) -> Span {
    tracing::debug_span!(
        target: "dapper::delivery",
        "deliver",
        process,
        input = &*event.trigger,
        location = &*event.location,
        operation = event.operation.as_str(),
        id = event.id,
        event_id = event.event_id,
        attempt = event.attempt,
        token = event.token,
        captured_at = event.captured_at.as_deref(),
        traceparent = event.traceparent,
        outcome = Empty,
    )
}

/// How the call ended; `None` for one that was cut off or has panicked.
pub(crate) fn end(span: &Span, result: Option<&Result<ProcessStatus, ProcessError>>) {
    let is_handled = matches!(result, Some(Ok(status)) if status.status != ProcessExitStatus::Fail);
    span.record("outcome", if is_handled { "handled" } else { "failed" });
}
