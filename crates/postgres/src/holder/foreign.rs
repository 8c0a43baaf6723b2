//! Notifications on the input's channel that are not the input's own.

use std::time::{Duration, Instant};

use super::Holder;
use crate::PostgresError;

/// They are reported at most this often.
const GARBAGE_REPORT_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Garbage {
    count: u64,
    last: Option<String>,
    reported: Option<Instant>,
}

impl Holder<'_> {
    /// Takes them in, and reports them when that is due. They change nothing.
    pub(super) fn report_foreign(&mut self, foreign: &mut tokio::sync::mpsc::Receiver<String>) {
        while let Ok(text) = foreign.try_recv() {
            self.garbage.count += 1;
            self.garbage.last = Some(text);
        }
        let due = self.garbage.reported.is_none_or(|reported| reported.elapsed() >= GARBAGE_REPORT_EVERY);
        if !due {
            return;
        }
        let Some(text) = self.garbage.last.take() else { return };
        let detail = match dapper_payload::parse(&text) {
            Ok(payload) => format!(
                "a change of {} in the form of the ancestor's triggers; are they still installed?",
                payload.location()
            ),
            Err(error) => error.to_string(),
        };
        let error = PostgresError::Garbage {
            channel: self.options.names.channel.clone(),
            count: std::mem::take(&mut self.garbage.count),
            detail,
        };
        self.garbage.reported = Some(Instant::now());
        self.sink.report(error.into_input_error(&self.options.name));
    }
}
