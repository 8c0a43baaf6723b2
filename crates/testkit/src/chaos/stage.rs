//! Everything that a run needs: PostgreSQL with its standby, the replicas, the receiver, the writers.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::ddl::Ddl;
use super::plan::Fault;
use super::sink::{Hook, Link};
use super::slot::{Claim, Notes, Settings, Slot};
use super::writers::{Pace, TABLES, Target};
use super::{ChaosOptions, Failure, HOOK_TIMEOUT, audit};
use crate::guardian::EndingSignal;
use crate::scratch::Scratch;
use crate::{Database, Proxy, Server, ServerOptions, StopMode, connect};

/// Of every replica.
const INPUTS: [&str; 2] = ["chaos", "effects"];
const START_LIMIT: Duration = Duration::from_secs(90);
/// Few enough that a fault can use them up.
const CONNECTIONS: u32 = 70;
/// What fails is parked after three tries. Whatever is given up would be missing, and nothing here deserves it: a process
/// fails for seconds, and programs are killed from without, far more often than chance would have it elsewhere.
const RETRY: &str =
    "[processes.retry]\nmax_backoff = \"500ms\"\nmax_attempts = 1000000\nmax_crashes = 1000000\n";
const SETTINGS: [(&str, &str); 5] = [
    // A standby that was cut off, or stopped for a while, goes on.
    ("wal_keep_size", "512MB"),
    ("max_wal_size", "1GB"),
    // What is committed asynchronously can be lost by a crash.
    ("wal_writer_delay", "400ms"),
    ("log_min_messages", "fatal"),
    ("shared_preload_libraries", "plpgsql"),
];

/// The stage, for as long as a run lasts.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) options: ChaosOptions,
    pub(super) slots: Vec<Arc<Slot>>,
    pub(super) settings: Arc<Settings>,
    pub(super) notes: Arc<Notes>,
    pub(super) link: Arc<Link>,
    pub(super) ddl: AsyncMutex<Ddl>,
    /// One fault of the receiver at a time.
    pub(super) mood: AsyncMutex<()>,
    /// One fault of the server at a time.
    pub(super) servers: AsyncMutex<Servers>,
    pub(super) target: watch::Sender<Target>,
    /// Faults injected, and points reached, by name.
    pub(super) injected: Mutex<BTreeMap<String, u64>>,
    _hook: Hook,
    _program: Scratch,
}

/// PostgreSQL.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) primary: Server,
    standby: Option<Standby>,
    database: String,
}

/// A standby, and the way by which it hears from its primary.
#[derive(Debug)]
struct Standby {
    server: Server,
    way: Proxy,
}

impl Stage {
    /// Starts PostgreSQL and the replicas, and waits until everything is covered.
    pub(super) async fn open(options: ChaosOptions) -> Result<(Arc<Self>, Arc<Pace>), Failure> {
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
        let settings = settings.chain([("max_connections".to_owned(), CONNECTIONS.to_string())]).collect();
        let server_options = ServerOptions { settings, ..ServerOptions::default() };
        let primary = spawn_blocking(move || Server::start(&server_options)).await??;
        let database = Database::create_on(&primary).await?;
        database.connect().await?.batch_execute(TABLES).await?;
        let link = Arc::new(Link::default());
        let hook = Hook::start(Arc::clone(&link)).await?;
        let (target, targets) = watch::channel(Target { url: database.url(), timeline: 0 });
        // Replicas are started for as long as the run lasts, and a build meanwhile must not change what is run.
        let folder = Scratch::create(EndingSignal::Kill)?;
        let program = folder.path().join("dapper");
        std::fs::copy(&options.program, &program)?;
        let settings = Arc::new(Settings {
            program,
            pipeline: pipeline(options.ttl, options.inbox),
            environment: vec![("HOOK_URL".to_owned(), hook.url())],
            broken: options.broken.map_or_else(String::new, |rule| format!("break={}", rule.name())),
            keep: options.keep.clone(),
        });
        let mut slots = Vec::new();
        for number in 0..options.replicas {
            let proxy = Proxy::start(primary.address()).await?;
            let url = database.url_via(proxy.address());
            slots.push(Slot::new(number, proxy, url));
        }
        let pace = Pace {
            target: targets,
            committed: 0.into(),
            stopping: false.into(),
            link: Arc::clone(&link),
            rate: options.rate(),
            due: Mutex::new(Instant::now()),
            forgiven: Mutex::default(),
        };
        let pace = Arc::new(pace);
        let stage = Arc::new(Self {
            ddl: AsyncMutex::new(Ddl::new(options.seed, Arc::clone(&pace))),
            options,
            slots,
            settings,
            notes: Arc::default(),
            link,
            mood: AsyncMutex::default(),
            servers: AsyncMutex::new(Servers {
                primary,
                standby: None,
                database: database.name().to_owned(),
            }),
            target,
            injected: Mutex::default(),
            _hook: hook,
            _program: folder,
        });
        stage.start_replicas().await?;
        Ok((stage, pace))
    }

    async fn start_replicas(self: &Arc<Self>) -> Result<(), Failure> {
        self.slots[0].start(&self.settings, &self.notes)?;
        let deadline = Instant::now() + START_LIMIT;
        let covered = |replica: &crate::Replica| {
            let lines = replica.log().lines();
            let covered = lines.iter().filter(|line| line.message() == "tables under capture");
            let inputs: HashSet<String> =
                covered.filter_map(|line| Some(line.field("input")?.as_str()?.to_owned())).collect();
            inputs.len() == INPUTS.len()
        };
        while self.slots[0].with(covered) != Some(true) {
            if Instant::now() > deadline {
                let tail = self.slots[0].with(|replica| replica.log().tail());
                return Err(format!("nothing is covered within {START_LIMIT:?}: {tail:?}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        let url = self.target.borrow().url.clone();
        audit::install(&connect(&url).await?).await?;
        for slot in &self.slots {
            if slot.number > 0 {
                slot.start(&self.settings, &self.notes)?;
            }
            tokio::spawn(Arc::clone(slot).supervise(Arc::clone(&self.settings), Arc::clone(&self.notes)));
        }
        Ok(())
    }

    /// Makes a standby unless there is one, by which the next promotion is possible. Takes as long as copying the data.
    pub(super) async fn make_standby(self: &Arc<Self>) {
        let mut servers = self.servers.lock().await;
        if servers.standby.is_some() || !self.options.kinds.contains(&Fault::Promote) {
            return;
        }
        match servers.make_standby().await {
            Ok(standby) => servers.standby = Some(standby),
            Err(error) => crate::say(&format!("no standby: {error}")),
        }
    }

    /// The place of the replica that holds the lease, as far as its log says; else any.
    pub(super) fn holder(&self, choice: u32) -> &Arc<Slot> {
        let terms = self.slots.iter().filter_map(|slot| Some((slot.leader()?.token, slot)));
        let any = &self.slots[choice as usize % self.slots.len()];
        terms.max_by_key(|(token, _)| *token).map_or(any, |(_, slot)| slot)
    }

    /// Mostly the holder's place, sometimes another, kept from other faults; `None` when all are taken.
    pub(super) fn claim(&self, choice: u32) -> Option<Claim> {
        let wanted = if choice.is_multiple_of(4) {
            &self.slots[choice as usize / 4 % self.slots.len()]
        } else {
            self.holder(choice)
        };
        wanted.claim().or_else(|| self.slots.iter().find_map(Slot::claim))
    }

    pub(super) fn count(&self, name: &str) {
        let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        *injected.entry(name.to_owned()).or_default() += 1;
    }

    /// Makes all well again.
    pub(super) async fn heal(&self) {
        self.link.set_mood(super::sink::Mood::Fine);
        for slot in &self.slots {
            slot.arm("");
            slot.proxy.heal();
            slot.with(|replica| replica.thaw().is_ok());
        }
    }

    /// Sets free whoever a fault stopped too late to notice.
    pub(super) fn thaw_strays(&self) {
        for slot in &self.slots {
            if let Some(claim) = slot.claim()
                && claim.is_stopped()
            {
                claim.with(|replica| replica.thaw().is_ok());
            }
        }
    }

    /// Ends everything, in order.
    pub(super) async fn close(self: Arc<Self>) {
        let stops = self.slots.iter().map(|slot| {
            let (slot, settings, notes) =
                (Arc::clone(slot), Arc::clone(&self.settings), Arc::clone(&self.notes));
            tokio::spawn(async move { slot.stop(&settings, &notes).await })
        });
        for stop in stops.collect::<Vec<_>>() {
            let _ = stop.await;
        }
    }

    pub(super) fn restarts(&self) -> u64 {
        self.notes.started.load(Ordering::Relaxed).saturating_sub(self.slots.len() as u64)
    }
}

impl Servers {
    async fn make_standby(&self) -> Result<Standby, Failure> {
        let primary = self.primary.clone();
        let server = spawn_blocking({
            let primary = primary.clone();
            move || Server::standby_of(&primary)
        })
        .await??;
        let way = Proxy::start(primary.address()).await?;
        let conninfo = primary.url_via("postgres", way.address());
        let client = connect(&server.url(&self.database)).await?;
        let sql = format!("ALTER SYSTEM SET primary_conninfo = '{}'", conninfo.replace('\'', "''"));
        client.batch_execute(&sql).await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(Standby { server, way })
    }

    /// Stops the primary and starts it again.
    pub(super) async fn restart(&self, mode: StopMode, down: Duration) -> Result<(), Failure> {
        let primary = self.primary.clone();
        spawn_blocking(move || {
            primary.stop(mode)?;
            std::thread::sleep(down);
            primary.restart()
        })
        .await??;
        Ok(())
    }

    /// Lets the standby fall behind, crashes the primary, and makes the standby the primary of everybody; false when
    /// there is no standby.
    pub(super) async fn promote(&mut self, stage: &Stage, behind: Duration) -> Result<bool, Failure> {
        let Some(Standby { server, way }) = self.standby.take() else { return Ok(false) };
        way.set(crate::Faults::SILENT);
        sleep(behind).await;
        let old = self.primary.clone();
        spawn_blocking(move || old.stop(StopMode::Immediate)).await??;
        way.reset();
        drop(way);
        let promoted = server.clone();
        spawn_blocking(move || promoted.promote()).await??;
        for slot in &stage.slots {
            slot.proxy.lead_to(server.address());
            slot.proxy.reset();
        }
        let old = std::mem::replace(&mut self.primary, server);
        let url = self.primary.url(&self.database);
        stage.target.send_modify(|target| *target = Target { url, timeline: target.timeline + 1 });
        spawn_blocking(move || drop(old)).await?;
        Ok(true)
    }

    pub(super) async fn close(self) {
        let Self { primary, standby, .. } = self;
        let _ = spawn_blocking(move || drop((standby, primary))).await;
    }
}

/// What every replica runs. All changes go to the webhook; few, since each is a transaction, through the inbox, by an input of
/// their own.
fn pipeline(ttl: Duration, inbox: bool) -> String {
    format!(
        "[lock]\nbackend = \"postgres\"\nttl = \"{}ms\"\n\n\
         [[inputs]]\nname = \"chaos\"\ntype = \"postgres\"\nconnection_string = \"${{DATABASE_URL}}\"\n\
         retention = \"1s\"\n\n\
         [[processes]]\nname = \"hook\"\ntype = \"webhook\"\n[processes.execution_context]\n\
         url = \"${{HOOK_URL}}\"\ntimeout = \"{}ms\"\n{RETRY}\n\
         [[links]]\ninput = \"chaos\"\nprocess = \"hook\"\n\n\
         [[inputs]]\nname = \"effects\"\ntype = \"postgres\"\nconnection_string = \"${{DATABASE_URL}}\"\n\
         tables = [\"public.counters\", \"public.followups\"]\nretention = \"1s\"\n\n\
         [[processes]]\nname = \"effect\"\ntype = \"sql\"\n[processes.execution_context]\n\
         connection_string = \"${{DATABASE_URL}}\"\ntimeout = \"3s\"\ninbox = \"{inbox}\"\n\
         statement = \"INSERT INTO effects.effects VALUES (:event_id, :location, :id)\"\n\
         {RETRY}\n\
         [[links]]\ninput = \"effects\"\nprocess = \"effect\"\n",
        ttl.as_millis(),
        HOOK_TIMEOUT.as_millis()
    )
}
