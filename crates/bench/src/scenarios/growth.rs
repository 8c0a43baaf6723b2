//! What becomes of the cost of an event when there is more of everything. The cost is the processors' time of server and
//! replicas, which other programs on the machine disturb little.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::backlog;
use crate::bench::Bench;
use crate::case::{Bound, Case, Spread};
use crate::child::Child;
use crate::load::Load;
use crate::meter::Meter;
use crate::site::{Disk, Setup, Site, Way, caught_up};
use crate::sql;

const NAME: &str = "growth";
/// The most that any two points of a range may differ by.
const MOST: f64 = 1.5;
const SETTLE: Duration = Duration::from_millis(200);
const COST: &str = "added by capture and reading";
const ALL: &str = "with capture and reader";
const BARE: &str = "without";
const ONE_ROW: &str = "INSERT INTO orders (note) VALUES ('x');\n";

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    if bench.wants(NAME, "writers") {
        writers(bench).await?;
    }
    if bench.wants(NAME, "tables") {
        tables(bench).await?;
    }
    if bench.wants(NAME, "images") {
        images(bench).await?;
    }
    if bench.wants(NAME, "standbys") {
        standbys(bench).await?;
    }
    if bench.wants(NAME, "backlog") {
        backlogs(bench).await?;
    }
    Ok(())
}

async fn writers(bench: &Bench) -> Result<()> {
    let mut case = case("writers", "One-row inserts by more and more writers", "writers");
    let pair = Pair::create(bench, sql::ORDERS, "").await?;
    for round in 0..bench.scale.rounds {
        for &count in bench.some(&[1_u32, 4, 16, 64], 1) {
            let load = Load::saturating(ONE_ROW, count, bench.scale.seconds);
            pair.point(bench, &mut case, round, &count.to_string(), &load, 0).await?;
        }
    }
    finish(bench, case)
}

async fn tables(bench: &Bench) -> Result<()> {
    let mut case = case("tables", "One-row inserts into one of more and more tables, 8 writers", "tables");
    let mut pairs = Vec::new();
    for &count in bench.some(&[1_u32, 10, 100, 1_000], 1) {
        let more: String = (1..=count)
            .map(|n| format!("; CREATE TABLE orders_{n} (id bigserial PRIMARY KEY, note text NOT NULL)"))
            .collect();
        pairs.push((count, Pair::create(bench, &format!("{}{more}", sql::ORDERS), "").await?));
    }
    for round in 0..bench.scale.rounds {
        for (count, pair) in &pairs {
            let script = format!("\\set t random(1, {count})\nINSERT INTO orders_:t (note) VALUES ('x');\n");
            let load = Load { is_simple: true, ..Load::saturating(&script, 8, bench.scale.seconds) };
            pair.point(bench, &mut case, round, &count.to_string(), &load, 0).await?;
        }
    }
    finish(bench, case)
}

async fn images(bench: &Bench) -> Result<()> {
    let title = "One-row inserts of larger and larger rows with their images (0: keys only), 4 writers";
    let mut case = case("images", title, "bytes of the row");
    let mut pairs = Vec::new();
    for &bytes in bench.some(&[0_u32, 100, 1_000, 10_000], 2) {
        let options = if bytes == 0 { "" } else { "images = \"new\"" };
        pairs.push((bytes, Pair::create(bench, sql::ORDERS, options).await?));
    }
    for round in 0..bench.scale.rounds {
        for (bytes, pair) in &pairs {
            // What can't be compressed, made outside the server.
            let note: String = (0..*bytes).map(|n| char::from(b'a' + (n * n / 7 % 23) as u8)).collect();
            let script = format!("INSERT INTO orders (note) VALUES ('{note}');\n");
            let load = Load::saturating(&script, 4, bench.scale.seconds);
            pair.point(bench, &mut case, round, &bytes.to_string(), &load, 0).await?;
        }
    }
    case.note("A row's image is written, read and handed over as text: its bytes are what is paid for.");
    finish(bench, case)
}

async fn standbys(bench: &Bench) -> Result<()> {
    let mut case =
        case("standbys", "One-row inserts, 8 writers, with more and more replicas that stand by", "standbys");
    let pair = Pair::create(bench, sql::ORDERS, "").await?;
    for round in 0..bench.scale.rounds {
        for &count in bench.some(&[1_u32, 10, 50], 1) {
            let load = Load::saturating(ONE_ROW, 8, bench.scale.seconds);
            pair.point(bench, &mut case, round, &count.to_string(), &load, count).await?;
        }
    }
    finish(bench, case)
}

async fn backlogs(bench: &Bench) -> Result<()> {
    let mut case = Case::new(NAME, "backlog", "Draining larger and larger backlogs of one-row statements");
    case.axis = Some("change sets".to_owned());
    case.metric(COST, "CPU us per event", None);
    case.metric("rate", "events/s", None);
    let mut filled = Site::create(bench, Way::Dapper, sql::ORDERS, Setup::default()).await?;
    let mut events = 0;
    let largest = bench.scale.largest_backlog;
    for &wanted in bench.some(&[largest / 100, largest / 10, largest], 1) {
        events = backlog::fill(&filled, wanted - events.min(wanted), 1).await?;
        let name = events.to_string();
        for round in 0..bench.scale.rounds {
            let site = filled.copy().await?;
            let (cost, rate) = drain(&site, events).await?;
            bench.progress(&case.path(), round, &format!("{name}: {cost:.2} us, {rate:.0}/s"));
            case.push(COST, &name, cost);
            case.push("rate", &name, rate);
            site.remove().await?;
        }
    }
    filled.remove().await?;
    case.note(
        "The same backlog, which grows between the points; the rounds of one point follow one another.",
    );
    finish(bench, case)
}

/// Microseconds of the processors per event, and events a second.
async fn drain(site: &Site, events: u64) -> Result<(f64, f64)> {
    let mut reader = site.start()?;
    reader.ask("wait 1").await?;
    let first = reader.events().await?;
    let meter = Meter::start(site, [&reader])?;
    let started = std::time::Instant::now();
    reader.ask_long(&format!("wait {events}")).await?;
    let (taken, seconds) = (meter.read()?, started.elapsed().as_secs_f64());
    reader.stop().await?;
    // A backlog of a batch or two may be there at once.
    let drained = (events - first).max(1) as f64;
    Ok((taken.total() * 1e6 / drained, drained / seconds))
}

/// The same tables without and with capture.
struct Pair {
    bare: Site,
    captured: Site,
}

impl Pair {
    async fn create(bench: &Bench, tables: &str, options: &'static str) -> Result<Self> {
        let setup = Setup { options, disk: Disk::Ignored, ..Setup::default() };
        Ok(Self {
            bare: Site::create(bench, Way::Nothing, tables, setup).await?,
            captured: Site::create(bench, Way::Dapper, tables, setup).await?,
        })
    }

    /// Measures one point of a range, without and with capture, in turn.
    async fn point(
        &self,
        bench: &Bench,
        case: &mut Case,
        round: u32,
        name: &str,
        load: &Load<'_>,
        standbys: u32,
    ) -> Result<()> {
        let bare = turn(&self.bare, load, 0).await.context("without capture")?;
        let all = turn(&self.captured, load, standbys).await.context("with capture")?;
        bench.progress(&case.path(), round, &format!("{name}: {bare:.1} us without, {all:.1} us with"));
        case.push(COST, name, all - bare);
        case.push(ALL, name, all);
        case.push(BARE, name, bare);
        Ok(())
    }
}

/// Microseconds of the processors per transaction, until everything is read.
async fn turn(site: &Site, load: &Load<'_>, standbys: u32) -> Result<f64> {
    site.client.batch_execute("TRUNCATE orders; CHECKPOINT").await?;
    let mut reader = site.reader().await?;
    let mut others: Vec<Child> = Vec::new();
    for _ in 0..standbys {
        others.push(site.start()?);
    }
    // Until each has made its connections.
    for other in &mut others {
        other.events().await?;
    }
    tokio::time::sleep(Duration::from_millis(u64::from(standbys) * 40)).await;
    let meter = Meter::start(site, reader.iter().chain(&others))?;
    let written = load.run(site.database.server(), &site.database.url()).await?;
    if let Some(reader) = &mut reader {
        caught_up(reader).await?;
    }
    // What has ended is counted once its parent has seen it.
    tokio::time::sleep(SETTLE).await;
    let taken = meter.read()?;
    // The standbys first: no takeover is wanted.
    for other in others {
        other.stop().await?;
    }
    site.stop(reader).await?;
    Ok(taken.total() * 1e6 / written.transactions as f64)
}

fn case(name: &str, title: &str, axis: &str) -> Case {
    let mut case = Case::new(NAME, name, title);
    case.axis = Some(axis.to_owned());
    for metric in [COST, ALL, BARE] {
        case.metric(metric, "CPU us per event", None);
    }
    case
}

fn finish(bench: &Bench, mut case: Case) -> Result<()> {
    let medians = case.metrics[0].series.iter().filter_map(|series| Some(series.spread()?.median));
    let range = Spread::of(medians).map(|spread| spread.most / spread.least);
    case.target("costliest / cheapest point of the range", range, Bound::AtMost(MOST));
    bench.finish(&case)
}
