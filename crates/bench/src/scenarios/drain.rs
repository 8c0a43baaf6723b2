//! How fast a backlog is worked off.

use std::path::Path;

use anyhow::{Context, Result};

use crate::backlog;
use crate::bench::Bench;
use crate::case::{BEARABLE, Bound, Case, bearable};
use crate::child::Child;
use crate::meter::Meter;
use crate::site::{Setup, Site, Way};
use crate::sql;

const NAME: &str = "drain";
/// What the process of the last case does, and how many events it does it for at a time.
const WORK_US: u32 = 1_000;
const CONCURRENCY: u16 = 64;
const BARE_SETS: &str = "bare SELECT of the change sets";
const BARE_ROWS: &str = "bare SELECT of the rows";

struct Backlog {
    name: &'static str,
    title: &'static str,
    /// Rows in a statement.
    rows: u64,
    /// The part of the whole backlog that is taken.
    share: f64,
    work_us: u32,
    least: Option<f64>,
    bare: &'static str,
}

const BACKLOGS: [Backlog; 3] = [
    Backlog {
        name: "large",
        title: "from statements of 1,000 rows, to a process that does nothing",
        rows: 1_000,
        share: 1.0,
        work_us: 0,
        least: Some(1_000_000.0),
        bare: BARE_ROWS,
    },
    Backlog {
        name: "one-row",
        title: "from one-row statements, to a process that does nothing",
        rows: 1,
        share: 1.0,
        work_us: 0,
        least: Some(300_000.0),
        bare: BARE_SETS,
    },
    Backlog {
        name: "work",
        title: "from one-row statements, to a process that works for 1 ms, 64 at a time",
        rows: 1,
        share: 0.05,
        work_us: WORK_US,
        least: None,
        bare: BARE_SETS,
    },
];

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    for backlog in BACKLOGS.iter().filter(|backlog| bench.wants(NAME, backlog.name)) {
        drain(bench, backlog).await.with_context(|| format!("draining {}", backlog.title))?;
    }
    Ok(())
}

async fn drain(bench: &Bench, backlog: &Backlog) -> Result<()> {
    let wanted = (bench.scale.backlog as f64 * backlog.share) as u64;
    let concurrency = (backlog.work_us > 0).then_some(CONCURRENCY);
    let setup = Setup { work_us: backlog.work_us, concurrency, ..Setup::default() };
    let mut filled = Site::create(bench, Way::Dapper, sql::ORDERS, setup).await?;
    let changes = backlog::fill(&filled, wanted, backlog.rows).await?;
    let mut case = Case::new(NAME, backlog.name, format!("A backlog of {changes} changes {}", backlog.title));
    case.metric("rate", "events/s", Some(Way::Dapper.name()));
    case.metric(BEARABLE, "events/s", Some(Way::Dapper.name()));
    for round in 0..bench.scale.rounds {
        let tell = |name: &str, rate: f64| {
            bench.progress(&case_path(backlog), round, &format!("{name}: {rate:.0}/s"));
        };
        let site = filled.copy().await?;
        let replica = site.start()?;
        let meter = Meter::start(&site, [&replica])?;
        let (rate, taken) = drained(replica, changes, &meter).await?;
        tell(Way::Dapper.name(), rate);
        case.push("rate", Way::Dapper.name(), rate);
        case.push(BEARABLE, Way::Dapper.name(), bearable(changes as f64, taken));
        site.remove().await?;
        if backlog.work_us == 0 {
            let site = filled.copy().await?;
            for (name, statement) in [(BARE_SETS, sql::BARE_SELECT), (BARE_ROWS, sql::BARE_ROWS)] {
                let meter = Meter::of(&site, vec![std::process::id()])?;
                let rate = changes as f64 / backlog::read(&site.client, statement).await?.as_secs_f64();
                tell(name, rate);
                case.push("rate", name, rate);
                case.push(BEARABLE, name, bearable(changes as f64, meter.read()?.total()));
            }
            site.remove().await?;
            let rate = ancestor(bench, changes.min(bench.scale.backlog / 5)).await?;
            tell(Way::Ancestor.name(), rate);
            case.push("rate", Way::Ancestor.name(), rate);
        }
        for rival in bench.rivals() {
            let events = rival_events(bench, backlog);
            let rate = rivals(bench, rival, backlog.work_us, events).await?;
            tell(rival, rate);
            case.push("rate", rival, rate);
        }
    }
    filled.remove().await?;
    finish(bench, backlog, case)
}

fn case_path(backlog: &Backlog) -> String {
    format!("{NAME}/{}", backlog.name)
}

fn finish(bench: &Bench, backlog: &Backlog, mut case: Case) -> Result<()> {
    let dapper = Way::Dapper.name();
    if let Some(least) = backlog.least {
        let rate = case.median("rate", dapper);
        case.target("events/s of dapper", rate, Bound::AtLeast(least));
        let ratio = case.ratio("rate", dapper, backlog.bare);
        case.target(format!("rate, dapper / {}", backlog.bare), ratio, Bound::AtLeast(0.5));
        let rate = case.median(BEARABLE, dapper);
        case.target("events/s that the processors bear", rate, Bound::AtLeast(least));
        let ratio = case.ratio(BEARABLE, dapper, backlog.bare);
        case.target(format!("what they bear, dapper / {}", backlog.bare), ratio, Bound::AtLeast(0.5));
    }
    case.note(
        "From the first event to the last; every way has a database of its own, dapper and the bare reads a copy of the \
         same one. The bare reads parse nothing, claim nothing and record nothing.",
    );
    if backlog.work_us == 0 {
        case.note(
            "The ancestor has no backlog: what is counted is one transaction of a fifth of the rows, which its listener hears \
             of at the commit, and which is lost if it does not listen then.",
        );
    }
    if !bench.rivals().is_empty() {
        case.note(format!(
            "graphile_worker and pgmq are queues: the application fills them by itself, a job or message for each change, \
             here {} of them; nothing captures what others write, and nothing keeps the changes of one row in order. \
             graphile_worker locks, runs and removes its jobs, pgmq hands out 100 messages at a time and deletes them \
             together when they were worked on.",
            rival_events(bench, backlog)
        ));
    }
    bench.finish(&case)
}

/// The rate of a reader that was just started, and the seconds that the meter has counted at its last event.
async fn drained(mut reader: Child, events: u64, meter: &Meter) -> Result<(f64, f64)> {
    let rate = reader.rate(0, events).await?;
    let taken = meter.read()?.total();
    reader.stop().await?;
    Ok((rate, taken))
}

/// What the ancestor's listener makes of one transaction of so many rows.
async fn ancestor(bench: &Bench, rows: u64) -> Result<f64> {
    let site = Site::create(bench, Way::Ancestor, sql::ORDERS, Setup::default()).await?;
    let mut reader = site.reader().await?.context("there is a reader")?;
    let ready = reader.events().await?;
    let insert = format!("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, {rows})");
    // After those by which it was found ready.
    let (_, rate) = tokio::try_join!(
        async { site.client.batch_execute(&insert).await.context("cannot write") },
        reader.rate(ready, ready + rows),
    )?;
    reader.stop().await?;
    site.remove().await?;
    Ok(rate)
}

fn rival_events(bench: &Bench, backlog: &Backlog) -> u64 {
    let most = if backlog.work_us > 0 { 20_000 } else { 100_000 };
    bench.scale.backlog.min(most)
}

/// A queue of the registry, filled and worked off by the package beside this one.
async fn rivals(bench: &Bench, rival: &str, work_us: u32, events: u64) -> Result<f64> {
    let program: &Path = bench.scale.rivals.as_deref().context("there is a program of rivals")?;
    let database =
        dapper_testkit::Database::create_on(bench.server(crate::bench::Kind::Plain).await?).await?;
    let arguments = [rival.to_owned(), events.to_string(), work_us.to_string(), CONCURRENCY.to_string()];
    let arguments: Vec<_> = arguments.iter().map(Into::into).collect();
    let mut reader = Child::start(program, &arguments, &[("DATABASE_URL", database.url())])?;
    // It fills its queue before anything comes.
    let rate = reader.rate(0, events).await?;
    reader.stop().await?;
    Ok(rate)
}
