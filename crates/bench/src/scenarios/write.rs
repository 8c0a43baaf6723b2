//! What capture takes from writers while its reader runs on the same machine.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::case::{BEARABLE, Bound, Case, bearable, percentile};
use crate::load::{Load, Written};
use crate::meter::Meter;
use crate::site::{Disk, Setup, Site, Way, caught_up};
use crate::sql;

const NAME: &str = "write";
const WAYS: [Way; 5] = [Way::Nothing, Way::Dapper, Way::Logical, Way::Journal, Way::Ancestor];

const SETTLE: Duration = Duration::from_millis(200);

const ONE_ROW: &str = "INSERT INTO orders (note) VALUES ('x');\n";
const LARGE: &str = "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 1000);\n";
const UPDATE: &str = "\\set id random(1, 100000)\nUPDATE items SET note = 'y' WHERE id = :id;\n";
const TPC_B: &str = "\\set account random(1, 200000)\n\\set teller random(1, 200)\n\\set branch random(1, 20)\n\
    \\set delta random(-5000, 5000)\nBEGIN;\n\
    UPDATE accounts SET balance = balance + :delta WHERE id = :account;\n\
    SELECT balance FROM accounts WHERE id = :account;\n\
    UPDATE tellers SET balance = balance + :delta WHERE id = :teller;\n\
    UPDATE branches SET balance = balance + :delta WHERE id = :branch;\n\
    INSERT INTO history (teller, branch, account, delta, at) VALUES (:teller, :branch, :account, :delta, now());\nEND;\n";

struct Workload {
    name: &'static str,
    title: &'static str,
    script: &'static str,
    tables: &'static str,
    clients: u32,
    disk: Disk,
    /// The least share of the rate without capture.
    least: Option<f64>,
    /// Whether dapper must not be below logical decoding.
    beats_logical: bool,
}

const EIGHT: Workload = Workload {
    name: "one-row-8",
    title: "One-row inserts, 8 writers",
    script: ONE_ROW,
    tables: sql::ORDERS,
    clients: 8,
    disk: Disk::Ignored,
    least: Some(0.80),
    beats_logical: true,
};

const WORKLOADS: [Workload; 7] = [
    EIGHT,
    Workload {
        name: "one-row-1",
        title: "One-row inserts, 1 writer",
        clients: 1,
        least: None,
        beats_logical: false,
        ..EIGHT
    },
    Workload {
        name: "one-row-32",
        title: "One-row inserts, 32 writers",
        clients: 32,
        least: Some(0.78),
        beats_logical: false,
        ..EIGHT
    },
    Workload {
        name: "one-row-8-flushed",
        title: "One-row inserts, 8 writers that wait for the disk",
        disk: Disk::Waits,
        least: None,
        beats_logical: false,
        ..EIGHT
    },
    Workload {
        name: "1000-rows",
        title: "1,000-row inserts, 2 writers",
        script: LARGE,
        clients: 2,
        least: Some(0.88),
        beats_logical: false,
        ..EIGHT
    },
    Workload {
        name: "updates",
        title: "One-row updates, 8 writers",
        script: UPDATE,
        tables: sql::ITEMS,
        least: None,
        beats_logical: false,
        ..EIGHT
    },
    Workload {
        name: "tpc-b",
        title: "TPC-B-like mix: three updates, a select and an insert, 8 writers",
        script: TPC_B,
        tables: sql::BANK,
        least: None,
        beats_logical: false,
        ..EIGHT
    },
];

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    let shown = if bench.scale.is_quick { 1 } else { WORKLOADS.len() };
    for workload in WORKLOADS.iter().take(shown).filter(|workload| bench.wants(NAME, workload.name)) {
        saturated(bench, workload).await.with_context(|| format!("measuring {}", workload.title))?;
    }
    if bench.wants(NAME, "half-rate") {
        half_rate(bench).await?;
    }
    Ok(())
}

async fn saturated(bench: &Bench, workload: &Workload) -> Result<()> {
    let mut case = Case::new(NAME, workload.name, workload.title);
    let nothing = Way::Nothing.name();
    case.metric(BEARABLE, "transactions/s", Some(nothing));
    case.metric("rate", "transactions/s", Some(nothing));
    case.metric("unread", "events left to the reader at the end", None);
    let sites = sites(bench, workload.tables, workload.disk).await?;
    let load = Load::saturating(workload.script, workload.clients, bench.scale.seconds);
    for round in 0..bench.scale.rounds {
        for site in &sites {
            let Turn { written, unread, bearable } = turn(site, &load).await?;
            let (name, rate) = (site.way.name(), written.per_second);
            bench.progress(&case.path(), round, &format!("{name}: {rate:.0}/s, bearable {bearable:.0}/s"));
            case.push(BEARABLE, name, bearable);
            case.push("rate", name, rate);
            if let Some(unread) = unread {
                case.push("unread", name, unread);
            }
        }
    }
    let dapper = case.ratio(BEARABLE, Way::Dapper.name(), nothing);
    if let Some(least) = workload.least {
        case.target("dapper / no capture", dapper, Bound::AtLeast(least));
    }
    if workload.beats_logical {
        let logical = case.ratio(BEARABLE, Way::Dapper.name(), Way::Logical.name());
        case.target("dapper / logical decoding", logical, Bound::AtLeast(1.0));
    }
    case.note(
        "Each way has a database of its own with the same tables; logical decoding has a server of its own with \
         wal_level = logical, and pg_recvlogical, which throws away what it gets, as its reader.",
    );
    case.note(
        "What the processors bear: their number, divided by what server, writers and reader together took of their time for \
         a transaction, until everything was read. That is the rate of a saturated machine that nobody shares, and what the \
         targets are judged by; the rate itself also depends on what else ran in a turn.",
    );
    case.note(match workload.disk {
        Disk::Ignored => "fsync is off, so that the processors are what is saturated, whatever the disk.",
        Disk::Waits => "Every commit waits for the disk, which is what bounds the rate.",
    });
    bench.finish(&case)
}

/// Half of what the machine bears without capture, at random times.
async fn half_rate(bench: &Bench) -> Result<()> {
    let mut case = Case::new(NAME, "half-rate", "One-row inserts, 8 writers at half the rate that saturates");
    let nothing = Way::Nothing.name();
    case.metric("rate", "transactions/s", Some(nothing));
    case.metric("p50", "ms", Some(nothing));
    case.metric("p99", "ms", Some(nothing));
    let sites = sites(bench, sql::ORDERS, Disk::Ignored).await?;
    let saturating = turn(&sites[0], &Load::saturating(ONE_ROW, 8, bench.scale.seconds)).await?;
    let rate = saturating.written.per_second / 2.0;
    let load = Load { rate: Some(rate), logged: true, ..Load::saturating(ONE_ROW, 8, bench.scale.seconds) };
    for round in 0..bench.scale.rounds {
        for site in &sites {
            let written = turn(site, &load).await?.written;
            let mut times: Vec<f64> =
                written.log.iter().map(|transaction| transaction.latency_us as f64 / 1000.0).collect();
            times.sort_by(f64::total_cmp);
            let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
            let name = site.way.name();
            bench.progress(
                &case.path(),
                round,
                &format!("{name}: {:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms", written.per_second),
            );
            case.push("rate", name, written.per_second);
            case.push("p50", name, p50);
            case.push("p99", name, p99);
        }
    }
    let ratio = |metric| case.ratio(metric, Way::Dapper.name(), nothing);
    let (kept, slower) = (ratio("rate"), ratio("p99"));
    case.target("rate, dapper / no capture", kept, Bound::AtLeast(0.97));
    case.target("p99, dapper / no capture", slower, Bound::AtMost(1.10));
    case.note(format!(
        "{rate:.0} transactions/s are asked for, at random times; a transaction's time counts from when it was due."
    ));
    bench.finish(&case)
}

async fn sites(bench: &Bench, tables: &str, disk: Disk) -> Result<Vec<Site>> {
    let mut sites = Vec::new();
    for way in WAYS {
        sites.push(Site::create(bench, way, tables, Setup { disk, ..Setup::default() }).await?);
    }
    Ok(sites)
}

/// What a way's turn has shown.
struct Turn {
    written: Written,
    /// How far behind its reader was at the end, where it can say so.
    unread: Option<f64>,
    /// See [`BEARABLE`].
    bearable: f64,
}

async fn turn(site: &Site, load: &Load<'_>) -> Result<Turn> {
    site.client.batch_execute("TRUNCATE orders").await?;
    // What earlier turns have left to write is not for this one's account.
    site.client.batch_execute("CHECKPOINT").await?;
    let mut reader = site.reader().await?;
    let meter = Meter::start(site, &reader)?;
    let written = load.run(site.database.server(), &site.database.url()).await?;
    let mut unread = None;
    if let Some(reader) = reader.as_mut().filter(|reader| reader.answers()) {
        let at_once = reader.events().await?;
        caught_up(reader).await?;
        unread = Some((reader.events().await? - at_once) as f64);
    }
    site.wait_for_logical_reader().await?;
    // What has ended is counted once its parent has seen it.
    tokio::time::sleep(SETTLE).await;
    let taken = meter.read()?.total() + written.client_seconds;
    site.stop(reader).await?;
    let bearable = bearable(written.transactions as f64, taken);
    Ok(Turn { written, unread, bearable })
}
