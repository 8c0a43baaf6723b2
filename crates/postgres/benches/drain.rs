//! Drains a backlog through the real input and orchestrator into a process that does nothing, and reads the same rows bare
//! in the same run.
//!
//! `cargo bench -p dapper-postgres --bench drain -- [ROWS IN A STATEMENT] [EVENTS] [ROUNDS]`

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dapper_core::{CancellationToken, Event, InputConfig, Process, ProcessError, ProcessStatus};
use dapper_lock::{LeaseConfig, LockManager, MemoryStore};
use dapper_orchestrator::Orchestrator;
use dapper_postgres::{PostgresInput, install};
use dapper_testkit::{Database, Server, ServerOptions};
use futures::StreamExt;
use tokio_postgres::Client;

type Failure = Box<dyn Error>;

const LIMIT: Duration = Duration::from_secs(300);

struct Nothing(Arc<AtomicU64>);

#[async_trait]
impl Process for Nothing {
    fn id(&self) -> &'static str {
        "nothing"
    }

    async fn run(&self, _event: &Event) -> Result<ProcessStatus, ProcessError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(ProcessStatus::default())
    }
}

fn main() -> Result<(), Failure> {
    // Cargo adds `--bench`.
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let of = |place: usize, otherwise| numbers.get(place).copied().unwrap_or(otherwise);
    let rows = of(0, 1_000);
    let (events, rounds) = (of(1, if rows == 1 { 300_000 } else { 5_000_000 }), of(2, 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(rows, events, rounds))
}

async fn measure(rows: u64, events: u64, rounds: u64) -> Result<(), Failure> {
    let settings = [("max_wal_size", "4GB"), ("shared_buffers", "512MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let server = Server::start(&ServerOptions { settings, ..ServerOptions::default() })?;
    let database = Database::create_on(&server).await?;
    let client = database.connect().await?;
    client.batch_execute("CREATE UNLOGGED TABLE t (id bigint PRIMARY KEY)").await?;
    let config = InputConfig {
        name: "drain".into(),
        connection_string: database.url().into(),
        ..InputConfig::default()
    };
    install(&config).await?;
    fill(&client, rows, events).await?;
    println!("{events} changes, {rows} to a statement");
    for _ in 0..rounds {
        let bare_sets =
            bare(&client, "SELECT seq, id, captured_at, payload FROM dapper_drain.change_sets").await?;
        let bare_rows = bare(&client, "SELECT id FROM public.t").await?;
        let drained = drain(&client, &config, events).await?;
        let rate = |time: Duration| events as f64 / time.as_secs_f64() / 1_000.0;
        println!(
            "{:7.0}k events/s; bare change sets {:7.0}k/s, ratio {:.2}; bare rows {:7.0}k/s, ratio {:.2}; us of CPU per event: ours {:.2}, server {:.2}; resident {} MiB at most; {} cursor writes",
            rate(drained.time),
            rate(bare_sets),
            bare_sets.as_secs_f64() / drained.time.as_secs_f64(),
            rate(bare_rows),
            bare_rows.as_secs_f64() / drained.time.as_secs_f64(),
            drained.ours * 1e6 / events as f64,
            drained.server * 1e6 / events as f64,
            drained.resident,
            drained.writes,
        );
    }
    Ok(())
}

async fn fill(client: &Client, rows: u64, events: u64) -> Result<(), Failure> {
    client.batch_execute("SET synchronous_commit = off").await?;
    let body = format!(
        "DO $$ BEGIN FOR n IN 0 .. {} LOOP
            INSERT INTO public.t SELECT generate_series(n * {rows}, n * {rows} + {rows} - 1); COMMIT; END LOOP; END $$",
        events / rows - 1
    );
    client.batch_execute(&body).await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// How long it takes to read these rows and look at nothing.
async fn bare(client: &Client, sql: &str) -> Result<Duration, Failure> {
    let started = Instant::now();
    let statement = client.prepare(sql).await?;
    let mut rows = pin!(client.query_raw(&statement, std::iter::empty::<i32>()).await?);
    while let Some(row) = rows.next().await {
        row?;
    }
    Ok(started.elapsed())
}

struct Drained {
    time: Duration,
    ours: f64,
    server: f64,
    resident: u64,
    writes: i64,
}

async fn drain(client: &Client, config: &InputConfig, events: u64) -> Result<Drained, Failure> {
    client
        .batch_execute(
            "UPDATE dapper_drain.cursors SET prev = '1:1:', target = NULL, done = 0, claimed = NULL, claimed_seq = 0,
                                             attempt = 0, crashes = 0, token = 0, lock_store = NULL, version = 0",
        )
        .await?;
    let locks =
        LockManager::new(Arc::new(MemoryStore::new()), LeaseConfig::from_ttl(Duration::from_secs(10))?);
    let input = Arc::new(PostgresInput::new(config.clone(), Arc::new(locks)).await?);
    let handled = Arc::new(AtomicU64::new(0));
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(Arc::new(Nothing(Arc::clone(&handled))))
        .add_link("drain", "nothing")
        .build()?;
    let (stop, before) = (CancellationToken::new(), own_cpu()?);
    let running = tokio::spawn(orchestrator.run(stop.clone()));
    let limit = Instant::now() + LIMIT;
    while handled.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let started = Instant::now();
    while handled.load(Ordering::Relaxed) < events {
        if Instant::now() > limit {
            return Err("the backlog was not drained".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let time = started.elapsed();
    let ours = own_cpu()? - before;
    let backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'dapper drain'";
    let mut server = 0.0;
    for row in client.query(backends, &[]).await? {
        server += cpu(&row.get::<_, i32>(0).to_string())?;
    }
    let version = "SELECT version FROM dapper_drain.cursors";
    let writes = client.query_one(version, &[]).await?.get(0);
    stop.cancel();
    running.await??;
    Ok(Drained { time, ours, server, resident: resident()?, writes })
}

fn own_cpu() -> Result<f64, Failure> {
    cpu("self")
}

/// Seconds of user and system time of a process.
fn cpu(process: &str) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|&field| fields.get(field)?.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

/// The most memory this process has had resident, in MiB.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024)
}
