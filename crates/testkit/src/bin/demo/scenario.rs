//! What the demo does, from the empty database to the counts.

use std::collections::HashSet;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dapper_testkit::history::{check, takeover};
use dapper_testkit::{
    Cluster, ClusterOptions, Database, EtcdOptions, EtcdServer, Leader, Memory, Receiver, TABLES, Workload,
    WorkloadOptions,
};
use tokio::time::sleep;

use crate::arguments::{Arguments, Backend};
use crate::progress::{Progress, Standing};
use crate::summary::{Summary, Takeovers};

const TICK: Duration = Duration::from_millis(50);
/// A first start installs triggers; on a busy machine that takes its time.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longer than a lease lasts, so that even the slowest takeover fits.
const LEADER_LIMIT: Duration = Duration::from_secs(30);
const EXIT_LIMIT: Duration = Duration::from_secs(30);
/// The wait for outstanding events ends when none has come for so long.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Time for events that should not come at all.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Plays the demo.
pub(crate) async fn play(arguments: &Arguments) -> Result<Summary> {
    let progress = Progress::new(arguments.duration(), arguments.json);
    let database = Database::create().await?;
    progress.say(&format!("\nA database with these tables:\n{TABLES}"));
    Workload::create_tables(&database.url()).await?;
    let receiver = Receiver::remembering(Memory::Deliveries).await.context("cannot start the receiver")?;
    // Lives for as long as the replicas.
    let etcd = match arguments.backend {
        Backend::Etcd => Some(EtcdServer::start(&EtcdOptions::default())?),
        Backend::Postgres | Backend::Memory => None,
    };
    let pipeline = pipeline(arguments.backend, &receiver.url());
    progress.say(&format!("The pipeline file of every replica:\n\n{pipeline}"));
    let mut cluster = start(arguments, &database, etcd.as_ref(), pipeline)?;
    let leader = cluster_ready(&cluster, &database, &progress).await?;
    if !arguments.takes_over() {
        progress.say(
            "A lease in a replica's memory keeps no other replica from reading: there is one, and none takes over.",
        );
    }
    progress.say(&format!(
        "Replicas: {}; replica {} leads. Writing {} changes per second for {} s.\n",
        arguments.replica_count(),
        leader.replica,
        arguments.rate,
        arguments.seconds
    ));
    let stage = Stage { database, receiver, received: HashSet::new(), looked_at: 0, progress };
    stage.write_and_disturb(arguments, &mut cluster).await
}

/// Everything around the replicas.
struct Stage {
    database: Database,
    receiver: Receiver,
    received: HashSet<String>,
    looked_at: usize,
    progress: Progress,
}

/// What was done to a leader, and when.
struct Fault {
    at: Instant,
    leader: Leader,
}

impl Stage {
    async fn write_and_disturb(mut self, arguments: &Arguments, cluster: &mut Cluster) -> Result<Summary> {
        let options = WorkloadOptions { rate: Some(arguments.rate.into()), ..WorkloadOptions::default() };
        let workload = Workload::start(&self.database.url(), options).await?;
        let start = Instant::now();
        let mut faults = None;
        let mut exits = Vec::new();
        if arguments.takes_over() {
            let third = arguments.duration() / 3;
            self.watch(start, third, &workload, cluster).await;
            let killed = self.disturb(cluster, 0, "kill -9").await?;
            self.watch(start, third * 2, &workload, cluster).await;
            let stopped = self.disturb(cluster, killed.leader.token, "SIGTERM").await?;
            self.watch(start, arguments.duration(), &workload, cluster).await;
            let exit = cluster.replicas()[stopped.leader.replica].wait(EXIT_LIMIT).await;
            exits.push(exit.context("the replica that SIGTERM was sent to")?);
            faults = Some((killed, stopped));
        } else {
            self.watch(start, arguments.duration(), &workload, cluster).await;
        }
        let writes = workload.stop().await;
        self.progress.say("No more changes; waiting for the last events.");
        self.drain(writes.committed()).await;
        self.progress.end();
        exits.extend(stop_all(cluster).await?);
        let deliveries = self.receiver.deliveries();
        Ok(Summary {
            report: check(&writes, &deliveries),
            takeovers: faults.map(|(killed, stopped)| Takeovers {
                after_kill: takeover(&deliveries, killed.at),
                after_stop: takeover(&deliveries, stopped.at),
            }),
            exits: exits.into_iter().map(describe).collect(),
        })
    }

    /// Lets it run until so long after the start.
    async fn watch(&mut self, start: Instant, until: Duration, workload: &Workload, cluster: &Cluster) {
        while start.elapsed() < until {
            self.look();
            let standing = Standing {
                committed: workload.committed(),
                received: self.received.len(),
                leader: cluster.leader(),
            };
            self.progress.show(start.elapsed(), standing);
            sleep(TICK).await;
        }
    }

    /// Kills or stops the leader of a later term than `after`.
    async fn disturb(&self, cluster: &Cluster, after: u64, how: &str) -> Result<Fault> {
        let leader = cluster.wait_for_leader(after, LEADER_LIMIT).await?;
        let replica = &cluster.replicas()[leader.replica];
        let at = Instant::now();
        if how == "kill -9" { replica.kill_9() } else { replica.terminate() }
            .with_context(|| format!("cannot send {how}"))?;
        let pid = replica.pid();
        self.progress.say(&format!("*** {how} to the leader: replica {}, process {pid}", leader.replica));
        Ok(Fault { at, leader })
    }

    async fn drain(&mut self, committed: usize) {
        let mut last = (self.received.len(), Instant::now());
        while self.received.len() < committed && last.1.elapsed() < DRAIN_LIMIT {
            sleep(TICK).await;
            self.look();
            if self.received.len() > last.0 {
                last = (self.received.len(), Instant::now());
            }
        }
        sleep(AFTERMATH).await;
    }

    /// Takes note of the events that came since the last look.
    fn look(&mut self) {
        let news = self.receiver.deliveries_from(self.looked_at);
        self.looked_at += news.len();
        self.received.extend(news.into_iter().filter_map(|delivery| delivery.event_id));
    }
}

fn start(
    arguments: &Arguments,
    database: &Database,
    etcd: Option<&EtcdServer>,
    pipeline: String,
) -> Result<Cluster> {
    let mut environment = vec![
        ("DATABASE_URL".to_owned(), database.url()),
        // The receiver is on this machine, whatever proxy the shell is set up for.
        ("NO_PROXY".to_owned(), "127.0.0.1".to_owned()),
    ];
    environment.extend(etcd.map(|etcd| ("LOCK_URL".to_owned(), etcd.url())));
    let program = arguments.dapper.clone();
    let mut cluster = Cluster::new(ClusterOptions { program, pipeline, environment, ..Default::default() })
        .context("cannot write the pipeline file")?;
    for _ in 0..arguments.replica_count() {
        cluster.start_replica().with_context(|| format!("cannot run {}", arguments.dapper.display()))?;
    }
    Ok(cluster)
}

/// Waits until someone leads and every table is captured; a change made before that is nobody's.
async fn cluster_ready(cluster: &Cluster, database: &Database, progress: &Progress) -> Result<Leader> {
    progress.say("Waiting for a leader, and for the triggers.");
    let start = Instant::now();
    let leader = cluster.wait_for_leader(0, START_LIMIT).await?;
    let client = database.connect().await?;
    // 28: for INSERT (4), DELETE (8) and UPDATE (16).
    let uncaptured = "SELECT count(*) FROM pg_class AS t WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
         AND (SELECT coalesce(bit_or(tgtype), 0) & 28 <> 28 FROM pg_trigger WHERE tgrelid = t.oid AND NOT tgisinternal)";
    loop {
        let left: i64 =
            client.query_one(uncaptured, &[]).await.context("cannot look for the triggers")?.get(0);
        if left == 0 {
            return Ok(leader);
        }
        if start.elapsed() > START_LIMIT {
            bail!("{left} tables have no triggers after {} s", START_LIMIT.as_secs());
        }
        sleep(TICK).await;
    }
}

/// Asks all that still run to stop.
async fn stop_all(cluster: &Cluster) -> Result<Vec<ExitStatus>> {
    let running: Vec<_> = cluster.replicas().iter().filter(|replica| replica.is_running()).collect();
    for replica in &running {
        replica.terminate().context("cannot send SIGTERM")?;
    }
    let mut exits = Vec::new();
    for replica in running {
        exits.push(replica.wait(EXIT_LIMIT).await?);
    }
    Ok(exits)
}

fn describe(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| code.to_string())
}

fn pipeline(backend: Backend, url: &str) -> String {
    let lock = match backend {
        Backend::Postgres => "",
        // A killed holder is followed when its time to live has passed: so that the demo need not be long.
        Backend::Etcd => "[lock]\nbackend = \"etcd\"\nconnection_string = \"${LOCK_URL}\"\nttl = \"3s\"\n\n",
        Backend::Memory => "[lock]\nbackend = \"memory\"\n\n",
    };
    format!(
        r#"{lock}[[inputs]]
name = "demo-input"
type = "postgres"
connection_string = "${{DATABASE_URL}}"
tables = ["public.*"]

[[processes]]
name = "receiver"
type = "webhook"
[processes.execution_context]
url = "{url}"
method = "POST"

[[links]]
input = "demo-input"
process = "receiver"
"#
    )
}
