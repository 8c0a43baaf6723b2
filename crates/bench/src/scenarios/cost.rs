//! What an event costs: bytes of the write-ahead log, statements, processors' time, allocations.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::{Bench, Kind};
use crate::case::Case;
use crate::load::Load;
use crate::meter::Meter;
use crate::site::{Setup, Site, Way, caught_up};
use crate::sql;

const NAME: &str = "cost";
const SETTLE: Duration = Duration::from_millis(200);
const METRICS: [(&str, &str); 5] = [
    ("log", "bytes of WAL"),
    ("statements", "statements of the replica"),
    ("server", "CPU us of the server"),
    ("replica", "CPU us of the replica"),
    ("allocations", "allocations of the replica"),
];

struct Kindness {
    name: &'static str,
    script: &'static str,
    rows: f64,
    clients: u32,
    rate: Option<f64>,
}

const LOADS: [Kindness; 4] = [
    Kindness { name: "one-row, 8 writers saturating", script: ONE_ROW, rows: 1.0, clients: 8, rate: None },
    Kindness { name: "one-row, 1,000/s", script: ONE_ROW, rows: 1.0, clients: 4, rate: Some(1_000.0) },
    Kindness { name: "one-row, 10/s", script: ONE_ROW, rows: 1.0, clients: 1, rate: Some(10.0) },
    Kindness {
        name: "1,000 rows, 2 writers saturating",
        script: LARGE,
        rows: 1_000.0,
        clients: 2,
        rate: None,
    },
];
const ONE_ROW: &str = "INSERT INTO orders (note) VALUES ('x');\n";
const LARGE: &str = "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 1000);\n";

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    if !bench.wants(NAME, "event") {
        return Ok(());
    }
    let mut case = Case::new(NAME, "event", "What an event adds to what its row costs anyway");
    for (name, unit) in METRICS {
        case.metric(name, unit, None);
    }
    let server = bench.server(Kind::Counted).await?;
    let monitor = dapper_testkit::connect(&server.url("postgres")).await?;
    monitor.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    let bare = Site::create_on(server, Way::Nothing, sql::ORDERS, Setup::default()).await?;
    let counted = Setup { is_counted: true, ..Setup::default() };
    let captured = Site::create_on(server, Way::Dapper, sql::ORDERS, counted).await?;
    for round in 0..bench.scale.rounds {
        for load in bench.some(&LOADS, 2) {
            let without = turn(bench, &bare, load, &monitor).await?;
            let with = turn(bench, &captured, load, &monitor).await?;
            let added: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
            bench.progress(&case.path(), round, &format!("{}: {added:.2?}", load.name));
            for ((metric, _), figure) in METRICS.iter().zip(added) {
                case.push(metric, load.name, figure);
            }
        }
    }
    case.note(
        "Per event, less what the same row costs without capture. The processor's time of a replica that counts what it \
         allocates is a little higher than that of one that does not.",
    );
    bench.finish(&case)
}

/// The metrics, per row.
async fn turn(
    bench: &Bench,
    site: &Site,
    load: &Kindness,
    monitor: &tokio_postgres::Client,
) -> Result<[f64; 5]> {
    site.client.batch_execute("TRUNCATE orders; CHECKPOINT").await?;
    let mut reader = site.reader().await?;
    let name = site.database.name();
    let mut allocated = 0.0;
    if let Some(reader) = &mut reader {
        allocated = reader.number("events", "allocations").await?;
    }
    let calls: f64 = monitor.query_one(sql::CALLS, &[&name]).await?.get(0);
    let log: f64 = monitor.query_one(sql::LOG, &[]).await?.get(0);
    let meter = Meter::start(site, reader.as_ref())?;
    let running =
        Load { rate: load.rate, ..Load::saturating(load.script, load.clients, bench.scale.seconds) };
    let written = running.run(site.database.server(), &site.database.url()).await?;
    if let Some(reader) = &mut reader {
        caught_up(reader).await?;
        allocated = reader.number("events", "allocations").await? - allocated;
    }
    // What has ended is counted once its parent has seen it.
    tokio::time::sleep(SETTLE).await;
    let taken = meter.read()?;
    let calls: f64 = monitor.query_one(sql::CALLS, &[&name]).await?.get::<_, f64>(0) - calls;
    let log: f64 = monitor.query_one(sql::LOG, &[]).await?.get::<_, f64>(0) - log;
    site.stop(reader).await.context("cannot stop the reader")?;
    let rows = written.transactions as f64 * load.rows;
    let own = calls - written.transactions as f64;
    Ok([log, own, taken.server * 1e6, taken.readers * 1e6, allocated].map(|figure| figure / rows))
}
