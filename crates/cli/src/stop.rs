//! Signals: the first asks for a graceful stop, the second does not ask.

use std::process;

use anyhow::Context;
use dapper_core::CancellationToken;
use tokio::signal::unix::{SignalKind, signal};

/// By custom 128 plus the number of the signal.
const EXIT_SIGINT: i32 = 130;
const EXIT_SIGTERM: i32 = 143;

/// A token that is cancelled by SIGTERM or SIGINT. Another signal after that ends the process on the spot.
pub(crate) fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminations = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        loop {
            let (name, code) = tokio::select! {
                _ = interrupts.recv() => ("SIGINT", EXIT_SIGINT),
                _ = terminations.recv() => ("SIGTERM", EXIT_SIGTERM),
            };
            if stopped.is_cancelled() {
                process::exit(code);
            }
            tracing::info!("{name}: stopping; once more ends it at once");
            stopped.cancel();
        }
    });
    Ok(stop)
}
