//! How long a change of holder takes, and that nothing goes wrong meanwhile: real replicas, a real store, one fault at a
//! time, again and again. `docs/failover.md` says what is measured and how.

mod audit;
mod case;
mod output;
mod report;
mod stage;
mod standbys;
mod trickle;
mod trust;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub use case::{COMMIT_EVERY, Case, Locks};
pub use report::{CaseReport, History, Verdict, judge};
pub use stage::Round;
pub use standbys::{StandbysOptions, StandbysReport, measure_standbys};

use crate::{EtcdOptions, EtcdServer, Namespace, Server, ServerOptions, StopMode};
use stage::Stage;

/// Why a measurement could not be made. Not a verdict on what was to be measured.
pub type Failure = Box<dyn Error + Send + Sync>;

/// How to measure one case.
#[derive(Clone)]
pub struct FailoverOptions {
    /// The `dapper` program.
    pub program: PathBuf,
    /// Where the leases are.
    pub locks: Locks,
    /// The time to live of the lease.
    pub ttl: Duration,
    /// How often.
    pub runs: usize,
    /// How many groups of replicas, each on a database of its own, are disturbed at the same time. Cases in which
    /// milliseconds count have one, whatever this says.
    pub parallel: usize,
    /// Called after each run.
    pub after_run: Arc<dyn Fn() + Send + Sync>,
}

/// Connections that one group of replicas may have, those that are just being replaced included.
const CONNECTIONS_PER_GROUP: usize = 16;

impl fmt::Debug for FailoverOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, locks, ttl, runs, parallel, .. } = self;
        write!(f, "FailoverOptions({program:?}, {locks:?}, {ttl:?}, {runs} runs, {parallel} at once)")
    }
}

/// Measures one case on a server of its own.
///
/// # Errors
/// When a server, a replica or a fault does not come about, or no other replica takes over at all.
pub async fn measure(case: Case, options: &FailoverOptions) -> Result<CaseReport, Failure> {
    let groups =
        if case.is_quiet(options.locks) { 1 } else { options.parallel.clamp(1, options.runs.max(1)) };
    let server = start_server(groups, &["plpgsql"]).await?;
    let etcd = match options.locks {
        Locks::Postgres => None,
        Locks::Etcd => {
            let start = || EtcdServer::start(&EtcdOptions::default());
            Some(Arc::new(tokio::task::spawn_blocking(start).await??))
        }
    };
    let mut opening = JoinSet::new();
    for _ in 0..groups {
        opening.spawn(Stage::open(case, server.clone(), etcd.clone(), options.clone()));
    }
    let mut stages = Vec::new();
    while let Some(stage) = opening.join_next().await {
        stages.push(stage??);
    }
    let rounds = options.runs.div_ceil(groups);
    let (stages, taken) = match case.stop_mode() {
        Some(mode) => all_at_once(stages, rounds, &server, mode, options).await?,
        None => each_by_itself(stages, rounds, options).await?,
    };
    let mut report = CaseReport::new(case, options, taken);
    let mut closing = JoinSet::new();
    for stage in stages {
        closing.spawn(stage.close());
    }
    while let Some(history) = closing.join_next().await {
        report.add(judge(&history??));
    }
    tokio::task::spawn_blocking(move || drop((server, etcd))).await?;
    Ok(report)
}

/// Disturbs each group at moments of its own.
async fn each_by_itself(
    stages: Vec<Stage>,
    rounds: usize,
    options: &FailoverOptions,
) -> Result<(Vec<Stage>, Vec<Round>), Failure> {
    let mut running = JoinSet::new();
    for mut stage in stages {
        let after_run = Arc::clone(&options.after_run);
        running.spawn(async move {
            let mut taken = Vec::new();
            for _ in 0..rounds {
                let before = stage.settle().await?;
                let fault = stage.strike(before).await?;
                let round = stage.taken_over(fault).await?;
                stage.mend(fault).await?;
                taken.push(round);
                after_run();
            }
            Ok::<_, Failure>((stage, taken))
        });
    }
    let (mut stages, mut taken) = (Vec::new(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (stage, rounds) = done??;
        stages.push(stage);
        taken.extend(rounds);
    }
    Ok((stages, taken))
}

/// Restarts the server under all groups together; each is a run of its own.
async fn all_at_once(
    mut stages: Vec<Stage>,
    rounds: usize,
    server: &Server,
    mode: StopMode,
    options: &FailoverOptions,
) -> Result<(Vec<Stage>, Vec<Round>), Failure> {
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let mut settling = JoinSet::new();
        for mut stage in stages.drain(..) {
            settling.spawn(async move { stage.settle().await.map(|before| (stage, before)) });
        }
        let mut settled = Vec::new();
        while let Some(stage) = settling.join_next().await {
            settled.push(stage??);
        }
        let restarting = server.clone();
        tokio::task::spawn_blocking(move || {
            restarting.stop(mode)?;
            restarting.restart()
        })
        .await??;
        // How long the server is away is its own affair.
        let at = Instant::now();
        let mut following = JoinSet::new();
        for (mut stage, before) in settled {
            let after_run = Arc::clone(&options.after_run);
            following.spawn(async move {
                let round = stage.taken_over(stage::Fault { at, before }).await?;
                stage.replace_all().await?;
                after_run();
                Ok::<_, Failure>((stage, round))
            });
        }
        while let Some(done) = following.join_next().await {
            let (stage, round) = done??;
            stages.push(stage);
            taken.push(round);
        }
    }
    Ok((stages, taken))
}

/// A server for so many groups of replicas, with libraries loaded in advance.
async fn start_server(groups: usize, libraries: &[&str]) -> Result<Server, Failure> {
    let setting = |name: &str, value: String| (name.to_owned(), value);
    let options = ServerOptions {
        settings: vec![
            setting("max_connections", (groups * CONNECTIONS_PER_GROUP + 50).to_string()),
            // The first call of a trigger function in a session would otherwise load its language then.
            setting("shared_preload_libraries", libraries.join(",")),
        ],
        networks: vec![Namespace::ADDRESSES.to_owned()],
    };
    Ok(tokio::task::spawn_blocking(move || Server::start(&options)).await??)
}
