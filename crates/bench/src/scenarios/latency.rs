//! How long after the commit a process is called.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use crate::bench::{Bench, Kind};
use crate::case::{Bound, Case, percentile};
use crate::load::Load;
use crate::site::{Setup, Site, Way, caught_up};
use crate::sql;

const NAME: &str = "latency";
const WAYS: [Way; 4] = [Way::BareNotify, Way::Dapper, Way::Ancestor, Way::Polling];
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Ids that say nothing of when they were drawn, and that no other insert has.
const SCRIPT: &str = "\\set n :n + 1\n\\set id (:client_id + 1) * 100000000 + :n\n\
    INSERT INTO orders (id, note) VALUES (:id, 'x');\n";

struct Rate {
    name: &'static str,
    title: &'static str,
    per_second: f64,
    clients: u32,
    /// How many times as long as other turns, for enough events.
    turns: u32,
}

const RATES: [Rate; 3] = [
    Rate { name: "10", title: "10 events/s", per_second: 10.0, clients: 1, turns: 4 },
    Rate { name: "1000", title: "1,000 events/s", per_second: 1_000.0, clients: 4, turns: 1 },
    Rate { name: "10000", title: "10,000 events/s", per_second: 10_000.0, clients: 16, turns: 1 },
];

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    let rates = if bench.scale.is_quick { &RATES[1..2] } else { &RATES };
    for rate in rates.iter().filter(|rate| bench.wants(NAME, rate.name)) {
        at(bench, rate).await.with_context(|| format!("measuring {}", rate.title))?;
    }
    Ok(())
}

async fn at(bench: &Bench, rate: &Rate) -> Result<()> {
    let bare = Way::BareNotify.name();
    let mut case = Case::new(NAME, rate.name, format!("Commit to process at {}", rate.title));
    for (name, _) in PERCENTILES {
        case.metric(name, "ms", Some(bare));
    }
    case.metric("rate reached", "events/s", None);
    case.metric("lost", "events", None);
    let server = bench.server(Kind::Timed).await?;
    let mut sites = Vec::new();
    for way in WAYS {
        sites.push(Site::create_on(server, way, sql::ORDERS, Setup::default()).await?);
    }
    let seconds = bench.scale.seconds * if bench.scale.is_quick { 1 } else { rate.turns };
    let load = Load { rate: Some(rate.per_second), ..Load::saturating(SCRIPT, rate.clients, seconds) };
    for round in 0..bench.scale.rounds {
        for site in &sites {
            let name = site.way.name();
            let Turn { times, per_second, lost } = turn(site, &load).await?;
            let figures = PERCENTILES.map(|(_, share)| percentile(&times, share));
            bench.progress(
                &case.path(),
                round,
                &format!(
                    "{name}: {} ms at {per_second:.0}/s",
                    figures.map(|figure| format!("{figure:.2}")).join(" / ")
                ),
            );
            for ((metric, _), figure) in PERCENTILES.iter().zip(figures) {
                case.push(metric, name, figure);
            }
            case.push("rate reached", name, per_second);
            case.push("lost", name, lost as f64);
            ensure!(site.way != Way::Dapper || lost == 0, "dapper has lost {lost} events");
        }
    }
    targets(&mut case, rate);
    case.note(
        "From the time that the server writes into the commit record, so that the flush of the commit is part of it, to \
         the first instruction of the process, or of what stands in its place. Bare NOTIFY \
         and the ancestor's way lose what comes while nobody listens, the poller what commits out of the order of its column; \
         none of them claims an event before it hands it out, as dapper does with a flush of its own.",
    );
    bench.finish(&case)
}

fn targets(case: &mut Case, rate: &Rate) {
    let dapper = Way::Dapper.name();
    match rate.name {
        "10" => {
            let ratio = case.ratio("p50", dapper, Way::BareNotify.name());
            case.target("p50, dapper / bare LISTEN/NOTIFY", ratio, Bound::AtMost(1.5));
        }
        "1000" => {
            let (p50, p99) = (case.median("p50", dapper), case.median("p99", dapper));
            case.target("p50 of dapper, ms", p50, Bound::AtMost(1.0));
            case.target("p99 of dapper, ms", p99, Bound::AtMost(5.0));
        }
        _ => {}
    }
}

struct Turn {
    /// Milliseconds from commit to process, sorted.
    times: Vec<f64>,
    /// The rate that was reached.
    per_second: f64,
    /// Events that did not come.
    lost: u64,
}

/// One way's turn.
async fn turn(site: &Site, load: &Load<'_>) -> Result<Turn> {
    site.client.batch_execute("TRUNCATE orders").await?;
    site.client.batch_execute("CHECKPOINT").await?;
    let mut reader = site.reader().await?.context("there is a reader")?;
    reader.ask("keep").await?;
    let written = load.run(site.database.server(), &site.database.url()).await?;
    caught_up(&mut reader).await?;
    let answer = reader.ask("times").await?;
    site.stop(Some(reader)).await?;
    let handled: HashMap<i64, i64> =
        serde_json::from_value::<Vec<(i64, i64)>>(answer["times"].clone())?.into_iter().collect();
    let mut times = Vec::with_capacity(handled.len());
    for row in site.client.query(sql::COMMIT_TIMES, &[]).await? {
        let (id, committed): (i64, i64) = (row.get(0), row.get(1));
        if let Some(handled) = handled.get(&id) {
            times.push((handled - committed) as f64 / 1000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    let lost = written.transactions.saturating_sub(times.len() as u64);
    Ok(Turn { times, per_second: written.per_second, lost })
}
