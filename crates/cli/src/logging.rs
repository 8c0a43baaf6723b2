//! Structured logs on standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::arguments::{Filter, LogFormat};

/// Starts logging; to be called once, before anything is logged.
pub(crate) fn start(format: LogFormat, Filter(filter): Filter) {
    let logs = tracing_subscriber::fmt().with_writer(stderr).with_env_filter(EnvFilter::new(filter));
    match format {
        LogFormat::Text => logs.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
