//! What counting costs a pipeline at full rate: events through a process that does nothing, counted and not counted in
//! turns, within one run. `cargo run --release -p dapper-http --example overhead`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dapper_core::{
    CancellationToken, Event, EventSink, Input, InputError, Operation, Process, ProcessError, ProcessStatus,
};
use dapper_http::Registry;
use dapper_orchestrator::Orchestrator;

const EVENTS: usize = 600_000;
const BATCH: usize = 1_000;
const ROUNDS: usize = 15;

/// Sends everything, and stops the graph.
struct Flood(CancellationToken);

struct Nothing;

#[async_trait]
impl Input for Flood {
    fn id(&self) -> &str {
        "flood"
    }

    async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
        let mut receipts = VecDeque::new();
        for batch in 0..EVENTS / BATCH {
            let event =
                |n: usize| Event::new("orders", Operation::Create, (batch * BATCH + n).to_string(), "flood");
            let closed = |_| InputError::SinkClosed { input: "flood".to_owned() };
            receipts.push_back(sink.send_events((0..BATCH).map(event).collect()).await.map_err(closed)?);
            if receipts.len() > 2
                && let Some(receipt) = receipts.pop_front()
            {
                receipt.await;
            }
        }
        for receipt in receipts {
            receipt.await;
        }
        self.0.cancel();
        stop.cancelled().await;
        Ok(())
    }
}

#[async_trait]
impl Process for Nothing {
    fn id(&self) -> &str {
        "nothing"
    }

    async fn run(&self, _: &Event) -> Result<ProcessStatus, ProcessError> {
        Ok(ProcessStatus::default())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let round = |registry: Option<&Registry>| -> Result<Duration, Box<dyn std::error::Error>> {
        let stop = CancellationToken::new();
        let builder =
            Orchestrator::builder().add_input(Arc::new(Flood(stop.clone()))).add_process(Arc::new(Nothing));
        let graph = builder.add_link("flood", "nothing").build()?;
        let began = Instant::now();
        match registry {
            // The counters are made where the graph is started, which is on this thread.
            Some(registry) => metrics::with_local_recorder(registry, || runtime.block_on(graph.run(stop)))?,
            None => runtime.block_on(graph.run(stop))?,
        }
        Ok(began.elapsed())
    };
    let registry = Registry::default();
    let mut ratios = Vec::new();
    for number in 0..=ROUNDS {
        // Each comes first as often as the other.
        let (plain, counted) = if number % 2 == 0 {
            let plain = round(None)?;
            (plain, round(Some(&registry))?)
        } else {
            let counted = round(Some(&registry))?;
            (round(None)?, counted)
        };
        let ratio = plain.as_secs_f64() / counted.as_secs_f64();
        println!("{:.0}/s counted, {:.3} of not counted", EVENTS as f64 / counted.as_secs_f64(), ratio);
        // The first warms up.
        if number > 0 {
            ratios.push(ratio);
        }
    }
    ratios.sort_by(f64::total_cmp);
    let labels = [("input", "flood"), ("process", "nothing")];
    let handled = registry.value("dapper_events_handled_total", &labels).unwrap_or_default();
    assert_eq!(handled as usize, EVENTS * (ROUNDS + 1), "every event is counted");
    let (low, median, high) = (ratios[ROUNDS / 4], ratios[ROUNDS / 2], ratios[ROUNDS * 3 / 4]);
    println!(
        "throughput while counting, of that without: median {median:.3}, quartiles {low:.3} and {high:.3}"
    );
    Ok(())
}
