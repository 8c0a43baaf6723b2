//! What a replica does when nothing happens.

use std::time::Duration;

use anyhow::Result;

use crate::bench::{Bench, Kind};
use crate::case::{Bound, Case};
use crate::child::Child;
use crate::machine;
use crate::site::{Setup, Site, Way};
use crate::sql;

const NAME: &str = "idle";
/// How long a replica has to come to rest.
const REST: Duration = Duration::from_secs(10);
/// A turn is so many times as long as that of other scenarios: little is to be counted.
const TURNS: u32 = 4;

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    if !bench.wants(NAME, "replicas") {
        return Ok(());
    }
    let mut case = Case::new(NAME, "replicas", "Nothing happens");
    case.axis = Some("replicas".to_owned());
    case.metric("queries", "per second and replica", None);
    case.metric("replica", "% of a processor, each", None);
    case.metric("server", "% of a processor, each replica's sessions", None);
    let server = bench.server(Kind::Counted).await?;
    let monitor = dapper_testkit::connect(&server.url("postgres")).await?;
    monitor.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    let mut reasons = String::new();
    for round in 0..bench.scale.rounds {
        for &count in bench.some(&[1_u32, 3], 1) {
            let site = Site::create_on(server, Way::Dapper, sql::ORDERS, Setup::default()).await?;
            let mut replicas: Vec<Child> = site.reader().await?.into_iter().collect();
            for _ in 1..count {
                replicas.push(site.start()?);
            }
            let rest = if bench.scale.is_quick { REST / 10 } else { REST };
            tokio::time::sleep(rest).await;
            let figures = watch(bench, &site, &replicas, &monitor).await?;
            bench.progress(&case.path(), round, &format!("{count}: {figures:.3?}"));
            if count == 1 {
                reasons = statements(&site, &monitor, watched_seconds(bench)).await?;
            }
            for (metric, figure) in ["queries", "replica", "server"].iter().zip(figures) {
                case.push(metric, &count.to_string(), figure / f64::from(count));
            }
            for replica in replicas.into_iter().rev() {
                replica.stop().await?;
            }
            site.remove().await?;
        }
    }
    for count in ["1", "3"] {
        let (queries, replica) = (case.median("queries", count), case.median("replica", count));
        case.target(format!("queries/s of each of {count}"), queries, Bound::AtMost(1.0));
        case.target(format!("% of a processor of each of {count}"), replica, Bound::AtMost(0.1));
    }
    case.note(
        "Queries are all statements that pg_stat_statements counts in the database, those of the lease included; one replica \
         of several holds the lease, the others stand by. All figures are per replica.",
    );
    case.note(format!("What one replica runs most often, per second: {reasons}."));
    bench.finish(&case)
}

fn watched_seconds(bench: &Bench) -> u32 {
    bench.scale.seconds * if bench.scale.is_quick { 1 } else { TURNS }
}

/// The statements that were run most often since the count was last reset, with their calls per second.
async fn statements(site: &Site, monitor: &tokio_postgres::Client, seconds: u32) -> Result<String> {
    let rows = monitor.query(sql::MOST_CALLED, &[&site.database.name()]).await?;
    let listed = rows.iter().map(|row| {
        let (calls, text): (i64, &str) = (row.get(0), row.get(1));
        format!("{:.2} `{}`", calls as f64 / f64::from(seconds), text.replace('|', " "))
    });
    Ok(listed.collect::<Vec<_>>().join(", "))
}

/// Queries a second, and the processor's time of replicas and of their sessions, in percent.
async fn watch(
    bench: &Bench,
    site: &Site,
    replicas: &[Child],
    monitor: &tokio_postgres::Client,
) -> Result<[f64; 3]> {
    let name = site.database.name();
    let mut backends = Vec::new();
    for row in monitor.query(sql::BACKENDS, &[&name]).await? {
        backends.extend(u32::try_from(row.get::<_, i32>(0)));
    }
    let looked = async || -> Result<[f64; 3]> {
        let calls: f64 = monitor.query_one(sql::CALLS, &[&name]).await?.get(0);
        let mut own = 0.0;
        for pid in replicas.iter().filter_map(Child::pid) {
            own += machine::process_cpu(pid)?;
        }
        // One that has ended meanwhile took what it took before.
        let theirs: f64 = backends.iter().filter_map(|&pid| machine::process_cpu(pid).ok()).sum();
        Ok([calls, own * 100.0, theirs * 100.0])
    };
    monitor.batch_execute("SELECT pg_stat_statements_reset()").await?;
    let before = looked().await?;
    let seconds = watched_seconds(bench);
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    let after = looked().await?;
    Ok([0, 1, 2].map(|place| (after[place] - before[place]) / f64::from(seconds)))
}
