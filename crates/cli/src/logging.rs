//! Structured logs on standard error, and, with the feature `otlp`, spans to a collector.

mod flood;
#[cfg(feature = "otlp")]
mod otlp;

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::thread;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::arguments::{Filter, LogFormat};
use flood::{Flood, Gate};

/// What has to be brought to an end when the program ends. Dropping it does that.
pub(crate) struct Logging {
    flood: Arc<Flood>,
    #[cfg(feature = "otlp")]
    _spans: Option<otlp::Exporter>,
}

/// Starts logging; to be called once, before anything is logged.
///
/// # Errors
/// What is wrong with the settings of the collector.
pub(crate) fn start(format: LogFormat, Filter(filter): Filter) -> anyhow::Result<Logging> {
    let flood = Arc::new(Flood::default());
    let gate = Arc::clone(&flood);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(stderr().is_terminal());
            Box::new(lines.map_event_format(|format| Gate { format, flood: gate }))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            Box::new(lines.map_event_format(|format| Gate { format, flood: gate }))
        }
    };
    let lines = lines.with_filter(EnvFilter::new(filter));
    #[cfg(feature = "otlp")]
    let _spans = {
        let (layer, exporter) = otlp::start(&|name| std::env::var(name).ok())?.unzip();
        tracing_subscriber::registry().with(lines).with(layer).init();
        exporter
    };
    #[cfg(not(feature = "otlp"))]
    tracing_subscriber::registry().with(lines).init();

    let summed_up = Arc::clone(&flood);
    thread::Builder::new().name("dapper-logs".to_owned()).spawn(move || {
        loop {
            thread::sleep(flood::LOOK_EVERY);
            summed_up.sum_up(std::time::Instant::now());
        }
    })?;
    Ok(Logging {
        flood,
        #[cfg(feature = "otlp")]
        _spans,
    })
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.flood.finish();
    }
}
