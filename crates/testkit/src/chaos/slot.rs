//! The places of the replicas: each has a way to PostgreSQL of its own, and whoever dies in it is followed by another.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Failure;
use crate::{Cluster, ClusterOptions, Leader, LogLine, Proxy, ReplicaOptions};

/// Whose lease is meant by that of a replica.
const INPUT: &str = "chaos";
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// How long whoever watches over replicas takes to start the next one.
const RESTART_AFTER: Duration = Duration::from_millis(100);
const EXIT_LIMIT: Duration = Duration::from_secs(60);
const FINDINGS: usize = 20;

/// What the replicas of all places are to run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) program: PathBuf,
    pub(super) pipeline: String,
    pub(super) environment: Vec<(String, String)>,
    /// For `DAPPER_FAILPOINTS`, besides the control file.
    pub(super) broken: String,
    /// Where logs are kept.
    pub(super) keep: Option<PathBuf>,
}

/// What happened to replicas besides what was done to them.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) started: AtomicU64,
    /// Ended before they stood by, because PostgreSQL could not be used; started again.
    pub(super) failed_starts: AtomicU64,
    /// Warnings that the server was promoted.
    pub(super) promotions_noticed: AtomicU64,
    pub(super) broken: AtomicU64,
    findings: Mutex<Vec<String>>,
}

/// One place.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: usize,
    pub(super) proxy: Proxy,
    url: String,
    state: Mutex<State>,
    /// A fault is at work here.
    busy: AtomicBool,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    cluster: Option<Cluster>,
    incarnation: u32,
    /// It has been or will be killed: its end is no surprise.
    doomed: bool,
    /// It was asked to stop, and nothing else was done to it: it must end with 0.
    asked: bool,
}

/// Keeps other faults away from a place while it lives.
#[derive(Debug)]
pub(super) struct Claim(Arc<Slot>);

impl Notes {
    pub(super) fn find(&self, finding: String) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < FINDINGS {
            findings.push(finding);
        }
    }

    pub(super) fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Slot {
    pub(super) fn new(number: usize, proxy: Proxy, url: String) -> Arc<Self> {
        Arc::new(Self {
            number,
            proxy,
            url,
            state: Mutex::default(),
            busy: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// Unless another fault is at work here.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Claim> {
        let free = self.busy.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).is_ok();
        free.then(|| Claim(Arc::clone(self)))
    }

    /// Starts a replica here.
    pub(super) fn start(&self, settings: &Settings, notes: &Notes) -> Result<(), Failure> {
        let mut environment = settings.environment.clone();
        environment.push(("DATABASE_URL".to_owned(), self.url.clone()));
        let mut cluster = Cluster::new(ClusterOptions {
            program: settings.program.clone(),
            pipeline: settings.pipeline.clone(),
            environment,
            ..ClusterOptions::default()
        })?;
        let control = control_file(&cluster);
        let failpoints = format!("control={};{}", control.display(), settings.broken);
        let own = ReplicaOptions {
            environment: vec![("DAPPER_FAILPOINTS".to_owned(), failpoints)],
            launcher: Vec::new(),
        };
        cluster.start_replica_with(&own)?;
        notes.started.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let incarnation = state.incarnation + 1;
        *state = State { cluster: Some(cluster), incarnation, ..State::default() };
        Ok(())
    }

    /// The term that the replica here was granted last, as far as it runs.
    pub(super) fn leader(&self) -> Option<Leader> {
        self.with(|replica| {
            let lines = replica.log().lines();
            let granted = lines.iter().rev().find(|line| {
                line.message() == "lease acquired" && line.field("input").is_some_and(|input| input == INPUT)
            });
            Some(Leader { replica: self.number, token: granted?.field("token")?.as_u64()? })
        })?
    }

    /// Does something to the replica here; nothing when there is none.
    pub(super) fn with<T>(&self, what: impl FnOnce(&crate::Replica) -> T) -> Option<T> {
        let state = self.lock();
        let replica = state.cluster.as_ref()?.replicas().first()?;
        replica.is_running().then(|| what(replica))
    }

    /// The replica here will be killed: its end is no surprise.
    pub(super) fn doom(&self) {
        self.lock().doomed = true;
    }

    pub(super) fn kill(&self) -> bool {
        self.doom();
        self.with(|replica| replica.kill_9().is_ok()).unwrap_or(false)
    }

    pub(super) fn terminate(&self) -> bool {
        self.lock().asked = true;
        self.with(|replica| replica.terminate().is_ok()).unwrap_or(false)
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.lock().incarnation
    }

    /// Has the replica here do `action` when it reaches a point; an empty one takes that back.
    pub(super) fn arm(&self, action: &str) -> bool {
        let state = self.lock();
        state.cluster.as_ref().is_some_and(|cluster| {
            let file = control_file(cluster);
            // Renamed into place, so that a half-written line is never read.
            let draft = file.with_extension("draft");
            fs::write(&draft, action).and_then(|()| fs::rename(&draft, &file)).is_ok()
        })
    }

    /// Whether the replica here is stopped by SIGSTOP.
    pub(super) fn is_stopped(&self) -> bool {
        self.with(|replica| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", replica.pid())).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
        .unwrap_or(false)
    }

    /// Starts the next replica whenever one has ended, until [`stop`](Self::stop).
    pub(super) async fn supervise(self: Arc<Self>, settings: Arc<Settings>, notes: Arc<Notes>) {
        while !self.stopping.load(Ordering::Relaxed) {
            sleep(LOOK_EVERY).await;
            let Some((cluster, status, doomed, asked)) = self.take_ended() else { continue };
            self.judge_end(&cluster, status, (doomed, asked), &notes);
            self.bury(cluster, &settings, &notes).await;
            sleep(RESTART_AFTER).await;
            if !self.stopping.load(Ordering::Relaxed)
                && let Err(error) = self.start(&settings, &notes)
            {
                notes.find(format!("replica {} could not be started: {error}", self.number));
                return;
            }
        }
    }

    /// Asks the replica here to stop, and waits until it has.
    pub(super) async fn stop(&self, settings: &Settings, notes: &Notes) {
        self.stopping.store(true, Ordering::Relaxed);
        self.terminate();
        let deadline = Instant::now() + EXIT_LIMIT;
        loop {
            if let Some((cluster, status, doomed, asked)) = self.take_ended() {
                self.judge_end(&cluster, status, (doomed, asked), notes);
                self.bury(cluster, settings, notes).await;
                return;
            }
            if self.lock().cluster.is_none() {
                return;
            }
            if Instant::now() > deadline {
                notes.find(format!("replica {} did not stop within {EXIT_LIMIT:?}", self.number));
                let cluster = self.lock().cluster.take();
                if let Some(cluster) = cluster {
                    self.bury(cluster, settings, notes).await;
                }
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn take_ended(&self) -> Option<(Cluster, ExitStatus, bool, bool)> {
        let mut state = self.lock();
        let status = state.cluster.as_ref()?.replicas().first()?.status().ok()??;
        let cluster = state.cluster.take()?;
        Some((cluster, status, state.doomed, state.asked))
    }

    fn judge_end(&self, cluster: &Cluster, status: ExitStatus, (doomed, asked): (bool, bool), notes: &Notes) {
        let Some(replica) = cluster.replicas().first() else { return };
        let lines = replica.log().lines();
        let stood_by = lines.iter().any(|line| line.message() == "standing by");
        let panicked = lines.iter().find(|line| line.text.contains("panicked at"));
        if let Some(line) = panicked {
            notes.find(format!("replica {} panicked: {}", self.number, line.text));
        } else if doomed || (asked && status.code() == Some(0)) {
        } else if !stood_by && status.code() == Some(1) {
            notes.failed_starts.fetch_add(1, Ordering::Relaxed);
        } else {
            let signal = status.signal().map_or_else(String::new, |signal| format!(", signal {signal}"));
            let tail = replica.log().tail();
            notes.find(format!("replica {} ended by itself: {status}{signal}:\n{tail}", self.number));
        }
    }

    /// Keeps the log, as far as it is wanted, and lets go of everything else.
    async fn bury(&self, cluster: Cluster, settings: &Settings, notes: &Notes) {
        let (number, incarnation) = (self.number, self.lock().incarnation);
        let lines = cluster.replicas().first().map(|replica| replica.log().lines()).unwrap_or_default();
        let noticed = lines.iter().filter(|line| is_promotion(line)).count() as u64;
        notes.promotions_noticed.fetch_add(noticed, Ordering::Relaxed);
        let file =
            settings.keep.as_ref().map(|folder| folder.join(format!("replica-{number}-{incarnation}.log")));
        let done = tokio::task::spawn_blocking(move || {
            if let Some(file) = file
                && let Ok(mut file) = fs::File::create(file)
            {
                lines.iter().for_each(|line| drop(writeln!(file, "{}", line.text)));
            }
            // Waits for its guardian.
            drop(cluster);
        });
        let _ = done.await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_promotion(line: &LogLine) -> bool {
    line.level() == Some("WARN") && line.message().contains("promoted")
}

fn control_file(cluster: &Cluster) -> PathBuf {
    cluster.pipeline().with_file_name("failpoints")
}

impl std::ops::Deref for Claim {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}
