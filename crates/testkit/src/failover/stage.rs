//! One group of replicas on a database of its own, and what is done to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Client;

use super::audit;
use super::case::{COMMIT_EVERY, Case, Locks};
use super::output::Output;
use super::report::History;
use super::trickle::{TABLE, Trickle};
use super::{FailoverOptions, Failure, trust};
use crate::{
    Cluster, ClusterOptions, Database, EtcdServer, Faults, Flow, Leader, Namespace, Proxy, Replica,
    ReplicaOptions, Server,
};

/// Longer than anything takes that is not to be measured.
const LIMIT: Duration = Duration::from_secs(60);
/// How long after a takeover a silent network stays so: the new holder is well under way when the old one is heard again.
const SILENT_AFTER_TAKEOVER: Duration = Duration::from_secs(1);
/// How long a holder whose session was ended may show what it does then.
const AFTERMATH: Duration = Duration::from_millis(200);

/// How long before and after a fault commits come close together.
const HURRY: Duration = Duration::from_millis(100);
const ONE_WAY: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(20);
const STANDING_BY: &str = "standing by";
/// What a replica logs when its standing changes.
const STANDINGS: [&str; 3] = [STANDING_BY, "lease acquired", "lease given up"];

/// A group of replicas, a holder among them, and what they work on.
pub(super) struct Stage {
    case: Case,
    locks: Locks,
    etcd: Option<Arc<EtcdServer>>,
    ttl: Duration,
    // Dropped first: the replicas go before the paths that they use.
    cluster: Cluster,
    paths: HashMap<usize, NetworkPath>,
    killed: HashMap<usize, Duration>,
    bad_exits: Vec<String>,
    output: Output,
    trickle: Trickle,
    admin: Client,
    database: Database,
}

/// How a replica reaches the server, and etcd where there is one.
enum NetworkPath {
    Proxied(Vec<Proxy>),
    Apart(Namespace),
}

/// What was done, when, to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) at: Instant,
    pub(super) before: Leader,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// From the fault to the first event that a later term handled; where the server was restarted, from when it was
    /// there again.
    pub takeover: Duration,
    /// From the fault until the old holder had given the lease back, when it did.
    pub released: Option<Duration>,
    /// From the fault until the next one had the lease.
    pub granted: Option<Duration>,
}

impl Stage {
    /// Starts everything, and waits until events flow.
    pub(super) async fn open(
        case: Case,
        server: Server,
        etcd: Option<Arc<EtcdServer>>,
        options: FailoverOptions,
    ) -> Result<Self, Failure> {
        let database = Database::create_on(&server).await?;
        let admin = database.connect().await?;
        admin.batch_execute(TABLE).await?;
        let mut cluster = Cluster::new(ClusterOptions {
            program: options.program,
            pipeline: pipeline(options.locks, options.ttl),
            environment: [
                ("DATABASE_URL".to_owned(), database.url()),
                ("ETCD_URL".to_owned(), etcd.as_ref().map_or_else(String::new, |etcd| etcd.url())),
            ]
            .into(),
            arguments: ["--log-level", "info,dapper_lock=debug"].map(str::to_owned).into(),
        })?;
        let output = Output::read(cluster.collect_output()?);
        let mut paths = HashMap::new();
        start_replica(case, &database, etcd.as_deref(), &mut cluster, &mut paths).await?;
        cluster.replicas()[0].wait_for_line(LIMIT, |line| line.message() == "tables under capture").await?;
        audit::install(&admin).await?;
        let trickle = Trickle::start(database.url(), case.pause_between_commits(options.locks));
        let mut stage = Self {
            case,
            locks: options.locks,
            etcd,
            ttl: options.ttl,
            cluster,
            paths,
            killed: HashMap::new(),
            bad_exits: Vec::new(),
            output,
            trickle,
            admin,
            database,
        };
        stage.fill_up().await?;
        Ok(stage)
    }

    /// Starts replicas until there are as many as there are to be.
    async fn fill_up(&mut self) -> Result<(), Failure> {
        while self.running().len() < self.case.replicas(self.locks) {
            let etcd = self.etcd.as_deref();
            start_replica(self.case, &self.database, etcd, &mut self.cluster, &mut self.paths).await?;
        }
        Ok(())
    }

    fn running(&self) -> Vec<usize> {
        let replicas = self.cluster.replicas().iter();
        replicas.filter(|replica| replica.is_running()).map(Replica::number).collect()
    }

    /// Waits until one replica handles events and all others stand by, and then for a moment that nothing sets; says
    /// who holds the lease.
    pub(super) async fn settle(&mut self) -> Result<Leader, Failure> {
        let leader = self.cluster.wait_for_leader(0, LIMIT).await?;
        let deadline = Instant::now() + LIMIT;
        while let Some(number) = self.not_standing_by(leader) {
            if Instant::now() > deadline {
                let tail = self.cluster.replicas()[number].log().tail();
                return Err(format!("replica {number} does not stand by within {LIMIT:?}:\n{tail}").into());
            }
            sleep(POLL).await;
        }
        let news = self.output.count();
        let flows = self.output.wait_for(news, LIMIT, |event| event.token == Some(leader.token)).await;
        flows.ok_or_else(|| format!("no event by the holder of token {} within {LIMIT:?}", leader.token))?;
        let (least, most) =
            if self.case.is_quiet(self.locks) { (200, 600) } else { (200, millis(self.ttl / 3).max(400)) };
        sleep(Duration::from_millis(fastrand::u64(least..most))).await;
        self.trickle.commit_every(COMMIT_EVERY);
        sleep(HURRY).await;
        Ok(leader)
    }

    /// A replica that runs and, by its log, neither is the leader nor stands by.
    fn not_standing_by(&self, leader: Leader) -> Option<usize> {
        let stands_by = |number: &usize| {
            let lines = self.cluster.replicas()[*number].log().lines();
            let last =
                lines.iter().rev().map(crate::LogLine::message).find(|message| STANDINGS.contains(message));
            last == Some(STANDING_BY)
        };
        self.running().into_iter().find(|number| *number != leader.replica && !stands_by(number))
    }

    /// Does to the holder what the case is about.
    pub(super) async fn strike(&mut self, before: Leader) -> Result<Fault, Failure> {
        let replica = &self.cluster.replicas()[before.replica];
        let mut at = Instant::now();
        match self.case {
            Case::Stop => replica.terminate()?,
            Case::StopStart => {
                replica.terminate()?;
                self.ends_well(before.replica).await?;
                self.fill_up().await?;
            }
            Case::Kill => {
                replica.kill_9()?;
                self.killed.insert(before.replica, trust::now());
            }
            Case::Freeze => replica.freeze()?,
            Case::Terminated => at = terminate_session(&self.admin).await?,
            Case::SilentProxy | Case::SilentLink => match self.paths.get(&before.replica) {
                Some(NetworkPath::Proxied(proxies)) => {
                    // First the one way, so that more often than not a statement of the holder's is caught in the
                    // proxy, from where it reaches the server when another holds the lease.
                    proxies.iter().for_each(|proxy| proxy.set(Faults::to_server(Flow::SILENT)));
                    sleep(ONE_WAY).await;
                    proxies.iter().for_each(|proxy| proxy.set(Faults::SILENT));
                }
                Some(NetworkPath::Apart(namespace)) => namespace.cut()?,
                None => return Err("the holder has no network of its own".into()),
            },
            Case::RestartFast | Case::RestartImmediate => {
                return Err("this fault is not the group's own".into());
            }
        }
        Ok(Fault { at, before })
    }

    /// Waits until a later term has handled an event.
    pub(super) async fn taken_over(&mut self, fault: Fault) -> Result<Round, Failure> {
        sleep(HURRY).await;
        self.trickle.commit_every(self.case.pause_between_commits(self.locks));
        let limit = self.ttl * 2 + LIMIT;
        let after = fault.before.token;
        let later = self.output.wait_for(0, limit, |event| event.token > Some(after)).await;
        let Some(first) = later else {
            let described = self.cluster.wait_for_leader(u64::MAX, Duration::ZERO).await;
            let logs = described.err().map(|error| error.to_string()).unwrap_or_default();
            return Err(format!("nobody took over from token {after} within {limit:?}: {logs}").into());
        };
        let since = |number: usize, message: &str, token: u64| {
            let lines = self.cluster.replicas().get(number)?.log().lines();
            let line = lines.into_iter().rfind(|line| {
                line.message() == message
                    && line.field("token").and_then(serde_json::Value::as_u64) == Some(token)
            })?;
            line.at.checked_duration_since(fault.at)
        };
        let token = first.token.unwrap_or_default();
        let granted = self.running().into_iter().find_map(|number| since(number, "lease granted", token));
        Ok(Round {
            takeover: first.at.saturating_duration_since(fault.at),
            released: since(fault.before.replica, "lease released", after),
            granted,
        })
    }

    /// Undoes the fault, and brings the group back to its number.
    pub(super) async fn mend(&mut self, fault: Fault) -> Result<(), Failure> {
        let number = fault.before.replica;
        match self.case {
            Case::Stop => self.ends_well(number).await?,
            Case::Freeze => {
                sleep((self.ttl * 3).saturating_sub(fault.at.elapsed())).await;
                self.cluster.replicas()[number].thaw()?;
            }
            Case::SilentProxy | Case::SilentLink => {
                sleep(SILENT_AFTER_TAKEOVER).await;
                match self.paths.get(&number) {
                    Some(NetworkPath::Proxied(proxies)) => proxies.iter().for_each(Proxy::heal),
                    Some(NetworkPath::Apart(namespace)) => namespace.heal()?,
                    None => {}
                }
            }
            Case::Terminated => {
                // It comes back by itself, later each time; a new one is there sooner.
                sleep(AFTERMATH).await;
                self.kill(number).await?;
            }
            Case::StopStart | Case::Kill | Case::RestartFast | Case::RestartImmediate => {}
        }
        self.fill_up().await
    }

    /// Waits until a replica has ended after SIGTERM, as it should with 0.
    async fn ends_well(&mut self, number: usize) -> Result<(), Failure> {
        let status = self.cluster.replicas()[number].wait(LIMIT).await?;
        if status.code() != Some(0) {
            self.bad_exits.push(format!("replica {number} ended after SIGTERM with {status}"));
        }
        Ok(())
    }

    /// Puts new replicas in the place of all, whose pauses between tries have grown.
    pub(super) async fn replace_all(&mut self) -> Result<(), Failure> {
        sleep(AFTERMATH).await;
        self.admin = self.database.connect().await?;
        for number in self.running() {
            self.kill(number).await?;
        }
        self.fill_up().await
    }

    async fn kill(&mut self, number: usize) -> Result<(), Failure> {
        let replica = &self.cluster.replicas()[number];
        replica.kill_9()?;
        self.killed.insert(number, trust::now());
        replica.wait(LIMIT).await?;
        Ok(())
    }

    /// Ends the trickle, waits for its last events, ends the replicas, and says what there was.
    pub(super) async fn close(self) -> Result<History, Failure> {
        let Self { ttl, cluster, paths, killed, bad_exits, output, trickle, admin, database, .. } = self;
        let writes = trickle.stop().await?;
        // Rows are numbered, and few are on their way at once: when the last has come, so have the others, or never will.
        let last = writes.transactions.iter().rfind(|one| one.outcome == crate::history::Outcome::Committed);
        let last = last.and_then(|one| one.changes.first()).map(|change| change.key.clone());
        output.wait_for(0, ttl * 2 + LIMIT, |event| Some(&event.key) == last.as_ref()).await;
        sleep(AFTERMATH).await;
        let trust = cluster.replicas().iter();
        let trust = trust.flat_map(|replica| trust::terms(replica, killed.get(&replica.number()).copied()));
        let trust = trust.collect();
        let audit = audit::read(&admin).await?;
        let deliveries = output.deliveries();
        tokio::task::spawn_blocking(move || drop((cluster, paths, database))).await?;
        Ok(History {
            writes,
            deliveries,
            trust,
            row_writes: audit.writes,
            refused_writes: audit.refused,
            bad_exits,
        })
    }
}

async fn start_replica(
    case: Case,
    database: &Database,
    etcd: Option<&EtcdServer>,
    cluster: &mut Cluster,
    paths: &mut HashMap<usize, NetworkPath>,
) -> Result<(), Failure> {
    let mut own = ReplicaOptions::default();
    let path = match case {
        Case::SilentProxy => {
            let proxy = Proxy::start(database.server().address()).await?;
            let url = database.url_via(proxy.address());
            own.environment.push(("DATABASE_URL".to_owned(), url));
            let mut proxies = vec![proxy];
            if let Some(etcd) = etcd {
                let proxy = Proxy::start(("127.0.0.1".to_owned(), etcd.port())).await?;
                own.environment.push(("ETCD_URL".to_owned(), format!("http://{}", proxy.address())));
                proxies.push(proxy);
            }
            Some(NetworkPath::Proxied(proxies))
        }
        Case::SilentLink => {
            let namespace = tokio::task::spawn_blocking(Namespace::create).await??;
            let (_, port) = database.server().address();
            let url = database.url_via((namespace.outside(), port).into());
            own.environment.push(("DATABASE_URL".to_owned(), url));
            own.launcher = namespace.launcher();
            Some(NetworkPath::Apart(namespace))
        }
        _ => None,
    };
    let number = cluster.start_replica_with(&own)?.number();
    paths.extend(path.map(|path| (number, path)));
    Ok(())
}

pub(super) fn pipeline(locks: Locks, ttl: Duration) -> String {
    let etcd = "backend = \"etcd\"\nconnection_string = \"${ETCD_URL}\"\n";
    let place = if locks == Locks::Etcd { etcd } else { "" };
    format!(
        "[lock]\n{place}ttl = \"{}ms\"\n\n[[inputs]]\nname = \"ticks\"\ntype = \"postgres\"\n\
         connection_string = \"${{DATABASE_URL}}\"\n\n[[processes]]\nname = \"print\"\ntype = \"log\"\n\n\
         [[links]]\ninput = \"ticks\"\nprocess = \"print\"\n",
        ttl.as_millis()
    )
}

/// Ends the session in which the holder has its lease.
async fn terminate_session(admin: &Client) -> Result<Instant, Failure> {
    let find = "SELECT backend FROM dapper_ticks.leases WHERE resource <> ''";
    let backend: i32 = admin.query_one(find, &[]).await?.get(0);
    let at = Instant::now();
    let ended: bool = admin.query_one("SELECT pg_terminate_backend($1)", &[&backend]).await?.get(0);
    if ended { Ok(at) } else { Err(format!("the holder's session {backend} is gone already").into()) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
