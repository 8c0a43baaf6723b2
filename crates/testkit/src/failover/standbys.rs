//! What many standbys cost the database they wait on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use super::trickle::{TABLE, Trickle};
use super::{Failure, start_server};
use crate::{Cluster, ClusterOptions, Database, ReplicaOptions};

const LIMIT: Duration = Duration::from_secs(120);
/// Connections that one standby may have.
const CONNECTIONS: usize = 6;
/// The last of them to start has settled.
const SETTLE: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const COMMIT_EVERY: Duration = Duration::from_millis(20);
/// Of `/proc/PID/stat`, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// How to measure.
#[derive(Clone, Debug)]
pub struct StandbysOptions {
    /// The `dapper` program.
    pub program: PathBuf,
    /// The time to live of the lease.
    pub ttl: Duration,
    /// How many replicas stand by, besides the one that holds.
    pub standbys: usize,
    /// How long to watch them while nothing happens, and again so long while rows are written.
    pub watch: Duration,
}

/// What was measured, of the standbys alone: they connect as a role of their own, and so does the holder.
#[derive(Clone, Debug, PartialEq)]
pub struct StandbysReport {
    /// How many stood by.
    pub standbys: usize,
    /// How long each part was.
    pub watch: Duration,
    /// Statements that one standby sent per second while nothing happened, by `pg_stat_statements`.
    pub statements_per_second: f64,
    /// Connections that one standby had.
    pub connections: f64,
    /// Of a core, all standbys together, while nothing happened.
    pub standby_cpu: f64,
    /// Of a core, the whole server, while nothing happened; what the holder and the measuring cost included.
    pub server_cpu: f64,
    /// The longest time for which one standby's session showed one `backend_xmin` while transaction ids went on.
    pub longest_backend_xmin: Duration,
    /// How often any showed one.
    pub backend_xmins_seen: usize,
}

impl StandbysReport {
    /// What is wrong, in words; nothing when all is well.
    #[must_use]
    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.statements_per_second >= 1.0 {
            broken.push(format!(
                "a standby sends {:.2} statements per second, not less than 1",
                self.statements_per_second
            ));
        }
        if self.longest_backend_xmin >= Duration::from_secs(2) {
            broken.push(format!(
                "a standby held one backend_xmin for {:?}, not less than 2 s",
                self.longest_backend_xmin
            ));
        }
        broken
    }
}

/// Measures.
///
/// # Errors
/// When a server or a replica does not come about, or the server lacks `pg_stat_statements`.
pub async fn measure_standbys(options: &StandbysOptions) -> Result<StandbysReport, Failure> {
    let groups = (options.standbys * CONNECTIONS).div_ceil(super::CONNECTIONS_PER_GROUP);
    let server = start_server(groups, &["plpgsql", "pg_stat_statements"]).await?;
    let database = Database::create_on(&server).await?;
    let admin = database.connect().await?;
    admin.batch_execute(&format!("CREATE EXTENSION pg_stat_statements; {TABLE}")).await?;
    let mut cluster = Cluster::new(ClusterOptions {
        program: options.program.clone(),
        pipeline: super::stage::pipeline(super::Locks::Postgres, options.ttl),
        ..ClusterOptions::default()
    })?;
    start(&mut cluster, &admin, &database, "holder", 1).await?;
    cluster.wait_for_leader(0, LIMIT).await?;
    start(&mut cluster, &admin, &database, "standby", options.standbys).await?;
    for replica in cluster.replicas().iter().skip(1) {
        replica.wait_for_line(LIMIT, |line| line.message() == "standing by").await?;
    }
    sleep(SETTLE).await;

    let idle = Idle::watch(&admin, &cluster, server.pid(), options.watch).await?;
    let trickle = Trickle::start(database.url(), COMMIT_EVERY);
    let (longest_backend_xmin, backend_xmins_seen) = watch_horizons(&admin, options.watch).await?;
    trickle.stop().await?;
    let leader = cluster.leader().map(|leader| leader.replica);
    if leader != Some(0) {
        return Err(format!("the holder changed while it was measured: {leader:?}").into());
    }
    let standbys = options.standbys as f64;
    let report = StandbysReport {
        standbys: options.standbys,
        watch: options.watch,
        statements_per_second: idle.statements as f64 / options.watch.as_secs_f64() / standbys,
        connections: idle.connections as f64 / standbys,
        standby_cpu: idle.standby_cpu,
        server_cpu: idle.server_cpu,
        longest_backend_xmin,
        backend_xmins_seen,
    };
    tokio::task::spawn_blocking(move || drop((cluster, database, server))).await?;
    Ok(report)
}

/// Starts replicas that connect as `role`, which may do everything, as the role of a first replica must.
async fn start(
    cluster: &mut Cluster,
    admin: &Client,
    database: &Database,
    role: &str,
    count: usize,
) -> Result<(), Failure> {
    admin.batch_execute(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{role}'")).await?;
    let url = ("DATABASE_URL".to_owned(), database.url_as(role, role));
    let own = ReplicaOptions { environment: vec![url], ..ReplicaOptions::default() };
    for _ in 0..count {
        cluster.start_replica_with(&own)?;
    }
    Ok(())
}

/// What there was while nothing happened.
struct Idle {
    statements: i64,
    connections: i64,
    standby_cpu: f64,
    server_cpu: f64,
}

impl Idle {
    async fn watch(
        admin: &Client,
        cluster: &Cluster,
        postmaster: Option<u32>,
        time: Duration,
    ) -> Result<Self, Failure> {
        let standbys: Vec<u32> = cluster.replicas().iter().skip(1).map(crate::Replica::pid).collect();
        let server = |pid, parent| Some(parent) == postmaster || Some(pid) == postmaster;
        let cpu = || (cpu_seconds(|pid, _| standbys.contains(&pid)), cpu_seconds(server));
        let (before, start) = (statements(admin).await?, Instant::now());
        let cpu_before = cpu();
        sleep(time).await;
        let cpu_after = cpu();
        let (after, elapsed) = (statements(admin).await?, start.elapsed().as_secs_f64());
        let connections =
            admin.query_one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'standby'", &[]).await?;
        Ok(Self {
            statements: after - before,
            connections: connections.get(0),
            standby_cpu: (cpu_after.0 - cpu_before.0) / elapsed,
            server_cpu: (cpu_after.1 - cpu_before.1) / elapsed,
        })
    }
}

/// How many statements the standbys have sent so far. Those within a function or a block count as none.
async fn statements(admin: &Client) -> Result<i64, Failure> {
    let query = "SELECT coalesce(sum(s.calls), 0)::bigint FROM pg_stat_statements s \
                 JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = 'standby'";
    Ok(admin.query_one(query, &[]).await?.get(0))
}

/// The longest time for which one session of a standby showed one `backend_xmin`, and how many were seen.
async fn watch_horizons(admin: &Client, time: Duration) -> Result<(Duration, usize), Failure> {
    let query = "SELECT pid, backend_xmin::text FROM pg_stat_activity \
                 WHERE usename = 'standby' AND backend_xmin IS NOT NULL";
    let mut held: HashMap<(i32, String), Instant> = HashMap::new();
    let (mut longest, mut seen) = (Duration::ZERO, 0);
    let start = Instant::now();
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while start.elapsed() < time {
        ticks.tick().await;
        let rows = admin.query(query, &[]).await?;
        let now = Instant::now();
        let current: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        seen += current.len();
        held.retain(|key, _| current.contains(key));
        for key in current {
            let since = *held.entry(key).or_insert(now);
            // It may have held it since just after the sample before, in which it did not show.
            longest = longest.max(now - since + SAMPLE_EVERY);
        }
    }
    Ok((longest, seen))
}

/// What the processes that `wanted` accepts, by process id and parent, have used so far, in seconds of one core.
fn cpu_seconds(wanted: impl Fn(u32, u32) -> bool) -> f64 {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0.0 };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let used = pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name, in parentheses; it may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u32>().ok();
        wanted(pid, number(1)?).then_some(())?;
        // Its own time and that of those it has reaped, such as the sessions of a server that have ended.
        (11..=14).map(|index| number(index).map(f64::from)).sum::<Option<f64>>()
    });
    used.sum::<f64>() / TICKS_PER_SECOND
}
