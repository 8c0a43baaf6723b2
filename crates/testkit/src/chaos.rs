//! Many faults, many events, one checker: real replicas and a real PostgreSQL, disturbed at random and at every named
//! point of the program, while writers and receivers remember what they did and saw.
//!
//! The `dapper` program must have the feature `failpoints`. What a webhook may assume, and what is therefore counted as a
//! violation: it refuses every token lower than the highest it has seen, and of what it takes then nothing is lost,
//! nothing repeated without saying so, and nothing out of order for its key.

mod audit;
mod ddl;
mod inject;
mod ledger;
mod plan;
mod sink;
mod slot;
mod stage;
mod verdict;
mod writers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use dapper_failpoints::Rule;
pub use plan::Fault;
pub use verdict::Verdict;

use crate::connect;
use crate::failover::Failure;
use ledger::Ledger;
use stage::Stage;
use writers::Pace;

/// How long the webhook waits for an answer.
const HOOK_TIMEOUT: Duration = Duration::from_millis(1500);
/// Faults at work at once.
const AT_ONCE: usize = 3;
/// The wait for outstanding events ends when none has come for so long.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// The same where something is to be missing.
const DRAIN_LIMIT_BROKEN: Duration = Duration::from_secs(8);
/// The wait ends in any case.
const DRAIN_LIMIT_ALL: Duration = Duration::from_secs(900);
/// Time for events that should not come at all.
const AFTERMATH: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_secs(1);
/// How long most faults wait for new events since the last one: what disturbs nothing shows nothing, and a machine that is
/// too slow for the schedule must not come to a standstill.
const FLOW_LIMIT: Duration = Duration::from_secs(20);
/// New events that count as a flow.
const FLOW: u64 = 20;
/// How often the application does what a process of its own would.
const FOLLOW_UP_EVERY: Duration = Duration::from_millis(150);
/// Changes per second when their number is not given.
const DEFAULT_RATE: f64 = 800.0;

/// What to run.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// The `dapper` program, with the feature `failpoints`.
    pub program: PathBuf,
    /// How many replicas.
    pub replicas: usize,
    /// How many writers.
    pub writers: u32,
    /// The time to live of the lease.
    pub ttl: Duration,
    /// Faults to inject; as many as fit when not given.
    pub faults: Option<usize>,
    /// Changes to commit; as many as fit when not given.
    pub events: Option<u64>,
    /// Changes per second that the writers try to make, when not as many as are wanted in that time.
    pub rate: Option<f64>,
    /// How long, at most, the rest of the events afterwards aside.
    pub limit: Duration,
    /// The average time between the beginnings of two faults.
    pub apart: Option<Duration>,
    /// Fixes what the writers do and the schedule of the faults, as far as that goes.
    pub seed: u64,
    /// Which faults.
    pub kinds: Vec<Fault>,
    /// A rule that the replicas break, to see whether it is noticed.
    pub broken: Option<Rule>,
    /// Whether effects go through the inbox. Without, they must come twice, which shows that it would be noticed.
    pub inbox: bool,
    /// A folder for the logs of all replicas.
    pub keep: Option<PathBuf>,
    /// Whether to say each second how far it has come, on standard error.
    pub progress: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct ChaosReport {
    /// As it was run.
    pub options: ChaosOptions,
    /// How long it took, from the first write to the last event.
    pub took: Duration,
    /// Faults injected, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Points at which a replica was killed or stopped, by name.
    pub points: BTreeMap<String, u64>,
    /// Faults that could not be injected at the moment, such as a point that was not reached.
    pub skipped: u64,
    /// Replicas started in the place of others.
    pub restarts: u64,
    /// Starts that failed because PostgreSQL could not be used.
    pub failed_starts: u64,
    /// Promotions, and how many warnings of the replicas said so.
    pub promotions: (u64, u64),
    /// What the server calls itself.
    pub server: String,
    /// What was wrong.
    pub verdict: Verdict,
}

impl ChaosOptions {
    /// Changes per second that the writers try to make.
    fn rate(&self) -> f64 {
        let seconds = self.limit.as_secs_f64().max(1.0);
        let wanted = self.events.map(|events| events as f64 / (seconds * 0.7));
        self.rate.or(wanted).unwrap_or(DEFAULT_RATE).max(20.0)
    }

    /// Whether something is to be found.
    fn is_broken(&self) -> bool {
        self.broken.is_some() || !self.inbox
    }

    fn schedule(&self) -> Vec<plan::Planned> {
        let seconds = self.limit.as_secs_f64();
        let wanted = self.faults.unwrap_or(usize::MAX);
        let fits = self.faults.map_or(1.5, |faults| seconds * 0.65 / faults.max(1) as f64);
        let apart = self.apart.unwrap_or(Duration::from_secs_f64(fits));
        // Some can't be injected when their time has come, so there are more than are wanted.
        let count = (seconds * 1.5 / apart.as_secs_f64().max(0.01)).ceil() as usize;
        plan::schedule(self.seed, &self.kinds, count.max(wanted.saturating_mul(2).min(100_000)), apart)
    }
}

impl ChaosReport {
    /// Faults injected, all kinds together.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.faults.values().sum()
    }

    /// What was wanted and not reached, in words.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let mut short = Vec::new();
        let faults = self.options.faults.unwrap_or(0) as u64;
        if self.injected() < faults {
            short.push(format!("{} faults, not {faults}", self.injected()));
        }
        let events = self.options.events.unwrap_or(0);
        if self.verdict.committed < events {
            short.push(format!("{} events, not {events}", self.verdict.committed));
        }
        let (promotions, noticed) = self.promotions;
        if promotions > 0 && noticed == 0 {
            short.push(format!("{promotions} promotions, and no replica said so"));
        }
        short
    }
}

/// Runs it.
///
/// # Errors
/// When a server, a replica or the receiver does not come about. Not a verdict on what was to be tried.
pub async fn run(options: ChaosOptions) -> Result<ChaosReport, Failure> {
    let schedule = options.schedule();
    let (stage, pace) = Stage::open(options).await?;
    let started = Instant::now();
    let writers = writers::start(stage.options.writers, stage.options.seed, &pace);
    let followups = tokio::spawn(follow_up(Arc::clone(&pace)));
    tokio::spawn({
        let stage = Arc::clone(&stage);
        async move { stage.make_standby().await }
    });
    disturb(&stage, &pace, schedule, started).await;
    pace.stopping.store(true, Ordering::Relaxed);
    stage.heal().await;
    let _ = followups.await;
    let mut ledger = collect(writers).await;
    stage.heal().await;
    ledger.extend(
        std::mem::replace(&mut *stage.ddl.lock().await, ddl::Ddl::new(0, Arc::clone(&pace))).into_ledger(),
    );
    let (verdict, server) = drain(&stage, &ledger, started).await?;
    let took = started.elapsed();
    let report_stage = Arc::clone(&stage);
    stage.close().await;
    Ok(report(report_stage, verdict, server, took).await)
}

/// Injects faults until there were enough, and events enough, or time is up, or what was to be noticed was.
async fn disturb(stage: &Arc<Stage>, pace: &Arc<Pace>, schedule: Vec<plan::Planned>, started: Instant) {
    // Who is to take over must not be disturbed, too.
    let at_once = if stage.options.is_broken() { 1 } else { AT_ONCE };
    let slots = Arc::new(Semaphore::new(at_once));
    let mut running = JoinSet::new();
    let mut schedule = schedule.into_iter();
    let mut next = schedule.next();
    let mut due = started + Duration::from_secs(2);
    let mut tick = started;
    let (mut events, mut last) = (0, started);
    while started.elapsed() < stage.options.limit && !is_enough(stage, pace) {
        if Instant::now() >= tick {
            tick = Instant::now() + TICK;
            stage.thaw_strays();
            progress(stage, pace, started, at_once - slots.available_permits());
            if stage.options.is_broken() && is_red(stage).await {
                break;
            }
        }
        while running.try_join_next().is_some() {}
        let wanted = stage.options.faults.is_none_or(|faults| injected(stage) < faults as u64);
        // One in four comes on top of those that are not overcome yet.
        let flows = |planned: &plan::Planned| {
            planned.length.is_multiple_of(4)
                || stage.link.counts().events >= events + FLOW
                || last.elapsed() > FLOW_LIMIT
                || stage.options.is_broken()
        };
        if let Some(planned) = next.filter(|planned| wanted && Instant::now() >= due && flows(planned))
            && let Ok(permit) = Arc::clone(&slots).try_acquire_owned()
        {
            (events, last) = (stage.link.counts().events, Instant::now());
            let stage = Arc::clone(stage);
            running.spawn(async move {
                inject::inject(stage, planned).await;
                drop(permit);
            });
            next = schedule.next();
            due = Instant::now() + next.map_or(TICK, |planned| planned.after);
        }
        sleep(Duration::from_millis(5)).await;
    }
    // What is under way is undone.
    while running.join_next().await.is_some() {}
}

fn is_enough(stage: &Stage, pace: &Pace) -> bool {
    let faults = stage.options.faults.is_some_and(|faults| injected(stage) >= faults as u64);
    let events = stage.options.events.is_some_and(|events| {
        stage.link.counts().events.min(pace.committed.load(Ordering::Relaxed)) >= events
    });
    match (stage.options.faults, stage.options.events) {
        (None, None) => false,
        (Some(_), None) => faults,
        (None, Some(_)) => events,
        (Some(_), Some(_)) => faults && events,
    }
}

fn injected(stage: &Stage) -> u64 {
    let injected = stage.injected.lock().unwrap_or_else(PoisonError::into_inner);
    injected.iter().filter(|(name, _)| name.parse::<Fault>().is_ok()).map(|(_, count)| count).sum()
}

/// Whether something is wrong that can be seen while it runs.
async fn is_red(stage: &Stage) -> bool {
    let counts = stage.link.counts();
    if counts.repeats_unmarked + counts.out_of_order > 0 {
        return true;
    }
    let url = stage.target.borrow().url.clone();
    let stale = async { audit::stale(&connect(&url).await?).await };
    timeout(TICK, stale).await.is_ok_and(|stale| stale.is_ok_and(|count| count > 0))
}

fn progress(stage: &Stage, pace: &Pace, started: Instant, at_work: usize) {
    if !stage.options.progress {
        return;
    }
    let counts = stage.link.counts();
    eprintln!(
        "{:5} s  committed {:8}  received {:8}  faults {:5} ({} now)  token {:5}  unmarked {}  out of order {}",
        started.elapsed().as_secs(),
        pace.committed.load(Ordering::Relaxed),
        counts.events,
        injected(stage),
        at_work,
        counts.token,
        counts.repeats_unmarked,
        counts.out_of_order,
    );
}

/// What a process does that writes to a captured table itself.
async fn follow_up(pace: Arc<Pace>) {
    while !pace.stopping.load(Ordering::Relaxed) {
        let url = pace.target.borrow().url.clone();
        if let Ok(client) = connect(&url).await {
            while !pace.stopping.load(Ordering::Relaxed)
                && client.execute("INSERT INTO followups (note) VALUES ('by a process')", &[]).await.is_ok()
            {
                sleep(FOLLOW_UP_EVERY).await;
            }
        }
        sleep(FOLLOW_UP_EVERY).await;
    }
}

async fn collect(mut writers: JoinSet<Ledger>) -> Ledger {
    let mut all = Ledger::default();
    while let Some(one) = writers.join_next().await {
        match one {
            Ok(ledger) => all.extend(ledger),
            Err(error) => all.failed_statements.push(format!("a writer ended: {error}")),
        }
    }
    all
}

/// Waits until everything has come, or nothing comes any more; judges it.
async fn drain(stage: &Stage, ledger: &Ledger, started: Instant) -> Result<(Verdict, String), Failure> {
    let target = stage.target.borrow().clone();
    let client = connect(&target.url).await?;
    // Whatever was still being committed when its writer lost it has ended by then.
    sleep(AFTERMATH).await;
    let mut truth = audit::read(&client, target.timeline).await?;
    let server: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    let begun = Instant::now();
    loop {
        audit::effects(&client, &mut truth).await?;
        audit::kept(&client, &mut truth).await?;
        let verdict = verdict::judge(ledger, &truth, &stage.link.keys(), &stage.link.counts());
        if stage.options.progress {
            let (lost, seconds) = (verdict.lost + verdict.effects_missing, started.elapsed().as_secs());
            let parked = verdict.parked_left;
            eprintln!("{seconds:5} s  no more faults; {lost} events still to come, {parked} parked");
        }
        let quiet = stage.link.quiet_for().min(begun.elapsed());
        let limit = if stage.options.is_broken() { DRAIN_LIMIT_BROKEN } else { DRAIN_LIMIT };
        let done = verdict.lost + verdict.effects_missing + verdict.parked_left == 0 && quiet > AFTERMATH;
        if done || quiet > limit || begun.elapsed() > DRAIN_LIMIT_ALL {
            break;
        }
        sleep(TICK).await;
    }
    // Follow-ups of the reading transaction itself may have been written since.
    let truth = audit::read(&client, target.timeline).await?;
    sleep(AFTERMATH).await;
    let mut verdict = verdict::judge(ledger, &truth, &stage.link.keys(), &stage.link.counts());
    verdict.findings.extend(stage.link.findings());
    Ok((verdict, server))
}

async fn report(stage: Arc<Stage>, mut verdict: Verdict, server: String, took: Duration) -> ChaosReport {
    verdict.broken_replicas = stage.notes.broken.load(Ordering::Relaxed);
    verdict.findings.extend(stage.notes.findings());
    let injected = stage.injected.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let faults = injected.iter().filter_map(|(name, count)| Some((name.parse().ok()?, *count))).collect();
    let points =
        injected.iter().filter_map(|(name, count)| Some((name.strip_prefix("at ")?.to_owned(), *count)));
    let noticed = stage.notes.promotions_noticed.load(Ordering::Relaxed);
    let report = ChaosReport {
        options: stage.options.clone(),
        took,
        faults,
        points: points.collect(),
        skipped: injected.get("not possible at the moment").copied().unwrap_or(0),
        restarts: stage.restarts(),
        failed_starts: stage.notes.failed_starts.load(Ordering::Relaxed),
        promotions: (injected.get(Fault::Promote.name()).copied().unwrap_or(0), noticed),
        server,
        verdict,
    };
    if let Ok(stage) = Arc::try_unwrap(stage) {
        stage.servers.into_inner().close().await;
    }
    report
}
