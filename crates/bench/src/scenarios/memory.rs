//! What a replica keeps in memory.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::backlog;
use crate::bench::Bench;
use crate::case::{Bound, Case};
use crate::child::Child;
use crate::load::Load;
use crate::machine;
use crate::site::{Disk, Setup, Site, Way, caught_up};
use crate::sql;

const NAME: &str = "memory";
const PEAK: &str = "highest";
const NOW: &str = "at the end";
const IDLE: &str = "idle";
const ONE_ROW: &str = "8 writers, one-row inserts";
const LARGE: &str = "2 writers, 1,000-row inserts";
const BACKLOG_ONE_ROW: &str = "draining one-row statements";
const BACKLOG_LARGE: &str = "draining statements of 1,000 rows";

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    if !bench.wants(NAME, "replica") {
        return Ok(());
    }
    let mut case = Case::new(NAME, "replica", "Resident memory of a replica");
    case.metric(PEAK, "MiB", None);
    case.metric(NOW, "MiB", None);
    let site =
        Site::create(bench, Way::Dapper, sql::ORDERS, Setup { disk: Disk::Ignored, ..Setup::default() })
            .await?;
    let seconds = bench.scale.seconds;
    for round in 0..bench.scale.rounds {
        let replica = site.reader().await?.context("there is a reader")?;
        tokio::time::sleep(Duration::from_secs(u64::from(seconds) * 2)).await;
        record(bench, &mut case, round, IDLE, replica).await?;
        for (name, script, clients) in [
            (ONE_ROW, "INSERT INTO orders (note) VALUES ('x');\n", 8),
            (LARGE, "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 1000);\n", 2),
        ] {
            let mut replica = site.reader().await?.context("there is a reader")?;
            let load = Load::saturating(script, clients, seconds);
            load.run(site.database.server(), &site.database.url()).await?;
            caught_up(&mut replica).await?;
            record(bench, &mut case, round, name, replica).await?;
        }
        for (name, rows) in [(BACKLOG_ONE_ROW, 1), (BACKLOG_LARGE, 1_000)] {
            backlog::fill(&site, bench.scale.backlog / 10 * rows.min(10), rows).await?;
            let mut replica = site.start()?;
            replica.ask("wait 1").await?;
            caught_up(&mut replica).await?;
            record(bench, &mut case, round, name, replica).await?;
        }
    }
    let idle = case.median(NOW, IDLE);
    case.target("idle, MiB", idle, Bound::AtMost(32.0));
    for name in [ONE_ROW, LARGE, BACKLOG_ONE_ROW, BACKLOG_LARGE] {
        let peak = case.median(PEAK, name);
        case.target(format!("{name}, highest, MiB"), peak, Bound::AtMost(128.0));
    }
    bench.finish(&case)
}

async fn record(bench: &Bench, case: &mut Case, round: u32, name: &str, replica: Child) -> Result<()> {
    let (now, peak) = machine::resident(replica.pid().context("the replica ended")?)?;
    bench.progress(&case.path(), round, &format!("{name}: {now:.1} MiB, at most {peak:.1} MiB"));
    case.push(PEAK, name, peak);
    case.push(NOW, name, now);
    replica.stop().await
}
