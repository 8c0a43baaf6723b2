//! `bench-rivals QUEUE EVENTS WORK_US CONCURRENCY`: fills a queue of the registry with small jobs, and works them off with
//! a handler that does what the process of dapper's replica does. The driver asks it what it asks every reader.
//!
//! What it does not do: nothing here captures changes. The database is the one in `DATABASE_URL`; it may be changed freely.

mod allocations;
// The very instructions that all readers run for an event.
#[path = "../../src/probe.rs"]
mod probe;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions,
};
use serde::{Deserialize, Serialize};

use probe::Probe;

/// Jobs or messages that one statement adds.
const CHUNK: u64 = 1_000;
/// Messages that are handed out at a time, and how long they are kept from others.
const BATCH: i32 = 100;
const HIDDEN_SECONDS: i32 = 300;

/// What every handler does; it is given no state of its own.
static HANDLER: OnceLock<(Arc<Probe>, Duration)> = OnceLock::new();

#[derive(Clone, Serialize, Deserialize)]
struct Change {
    tbl: String,
    id: u64,
    op: String,
}

impl Change {
    fn new(id: u64) -> Self {
        Self { tbl: "orders".to_owned(), id, op: "insert".to_owned() }
    }
}

async fn handle(change: &Change) {
    let Some((probe, work)) = HANDLER.get() else { return };
    if !work.is_zero() {
        tokio::time::sleep(*work).await;
    }
    probe.hit(&change.id.to_string());
}

impl TaskHandler for Change {
    const IDENTIFIER: &'static str = "change";

    async fn run(self, _context: WorkerContext) -> impl IntoTaskHandlerResult {
        handle(&self).await;
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [queue, events, work_us, concurrency] = &arguments[..] else {
        bail!("bench-rivals QUEUE EVENTS WORK_US CONCURRENCY");
    };
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let (events, concurrency) = (events.parse()?, concurrency.parse()?);
    let probe = Arc::new(Probe::default());
    let _ = HANDLER.set((Arc::clone(&probe), Duration::from_micros(work_us.parse()?)));
    probe.serve();
    match queue.as_str() {
        "graphile_worker" => graphile_worker(&url, events, concurrency).await,
        "pgmq" => pgmq(&url, events, concurrency).await,
        other => bail!("there is no queue {other:?}"),
    }
}

/// With its local queue, which takes jobs by the batch: the fastest of its ways.
async fn graphile_worker(url: &str, events: u64, concurrency: usize) -> Result<()> {
    let worker = WorkerOptions::default()
        .database_url(url)
        .concurrency(concurrency)
        .schema("graphile_worker")
        .define_job::<Change>()
        .local_queue(LocalQueueConfig::default().with_size(500))
        .init()
        .await?;
    let (utils, spec) = (worker.create_utils(), JobSpec::default());
    for start in (0..events).step_by(CHUNK as usize) {
        let jobs: Vec<_> = (start..events.min(start + CHUNK)).map(|id| (Change::new(id), &spec)).collect();
        utils.add_jobs::<Change>(&jobs).await?;
    }
    worker.run().await?;
    Ok(())
}

/// Two consumers, which read, work and delete by the batch.
async fn pgmq(url: &str, events: u64, concurrency: usize) -> Result<()> {
    let queue = ::pgmq::PGMQueueExt::new(url.to_owned(), 4).await?;
    queue.install_sql_from_embedded().await?;
    queue.create("changes").await?;
    for start in (0..events).step_by(CHUNK as usize) {
        let messages: Vec<Change> = (start..events.min(start + CHUNK)).map(Change::new).collect();
        queue.send_batch("changes", &messages).await?;
    }
    let consume = async || -> Result<()> {
        loop {
            let messages = queue.read_batch::<Change>("changes", HIDDEN_SECONDS, BATCH).await?;
            if messages.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            for part in messages.chunks(concurrency) {
                let handled = part.iter().map(|message| {
                    let change = message.message.clone();
                    tokio::spawn(async move { handle(&change).await })
                });
                for handled in handled.collect::<Vec<_>>() {
                    handled.await?;
                }
            }
            let ids: Vec<i64> = messages.iter().map(|message| message.msg_id).collect();
            queue.delete_batch("changes", &ids).await?;
        }
    };
    tokio::try_join!(consume(), consume())?;
    Ok(())
}
