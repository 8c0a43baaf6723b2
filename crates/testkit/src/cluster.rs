//! Replicas of the `dapper` program as processes that can be killed, stopped and frozen.

mod log;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout_at};

pub use log::{Log, LogLine};

use crate::guardian::EndingSignal;
use crate::scratch::Scratch;

const POLL: Duration = Duration::from_millis(5);
/// How long the last lines of a process that has ended may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Replicas of one pipeline on this machine. Whatever still runs is killed when this is dropped, or when this process
/// ends in whatever way.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: each kills and reaps its process, so that the guardian finds none left.
    replicas: Vec<Replica>,
    options: ClusterOptions,
    pipeline: PathBuf,
    output: Option<PipeWriter>,
    scratch: Arc<Scratch>,
}

/// What the replicas are to run.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The `dapper` program.
    pub program: PathBuf,
    /// The text of the pipeline file.
    pub pipeline: String,
    /// Variables for it, such as `DATABASE_URL`.
    pub environment: Vec<(String, String)>,
    /// Arguments after `run` and the pipeline file, such as `--log-level debug`.
    pub arguments: Vec<String>,
}

/// What is different for one replica.
#[derive(Clone, Debug, Default)]
pub struct ReplicaOptions {
    /// Variables in addition to those of the cluster, or in their place.
    pub environment: Vec<(String, String)>,
    /// What to put before the command line; must keep the process id, as `nsenter` does.
    pub launcher: Vec<String>,
}

/// One process.
#[derive(Debug)]
pub struct Replica {
    number: usize,
    child: Mutex<Child>,
    pid: u32,
    log: Arc<Log>,
    scratch: Arc<Scratch>,
}

/// Who holds the lease, by what the replicas say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The replica's number in the cluster.
    pub replica: usize,
    /// Its fencing token.
    pub token: u64,
}

/// A replica, or the cluster, did not do what was waited for. `Debug` is the message, with its lines as they are.
#[derive(thiserror::Error)]
#[error("{what} within {limit:?}; the last lines of the logs:\n{logs}")]
pub struct NotInTime {
    /// What did not happen.
    pub what: String,
    /// How long it was waited for.
    pub limit: Duration,
    /// The ends of the logs.
    pub logs: String,
}

impl Cluster {
    /// Writes the pipeline file; starts nothing yet.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(options: ClusterOptions) -> io::Result<Self> {
        let scratch = Arc::new(Scratch::create(EndingSignal::Kill)?);
        let pipeline = scratch.path().join("pipeline.toml");
        fs::write(&pipeline, &options.pipeline)?;
        Ok(Self { replicas: Vec::new(), options, pipeline, output: None, scratch })
    }

    /// Lets every replica that is started from now on write its standard output into one pipe, and returns the other
    /// end. Lines of up to 4 KiB come out of it in the very order in which the replicas wrote them. It must be read: a
    /// replica that finds it full waits. It ends when the cluster and all these replicas are gone.
    ///
    /// # Errors
    /// When there is no pipe to be had.
    pub fn collect_output(&mut self) -> io::Result<PipeReader> {
        let (reader, writer) = io::pipe()?;
        self.output = Some(writer);
        Ok(reader)
    }

    /// The pipeline file.
    #[must_use]
    pub fn pipeline(&self) -> &Path {
        &self.pipeline
    }

    /// Starts one more replica.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_replica(&mut self) -> io::Result<&Replica> {
        self.start_replica_with(&ReplicaOptions::default())
    }

    /// Starts one more replica that differs from the others.
    ///
    /// # Errors
    /// When the program, or what is to launch it, cannot be run.
    pub fn start_replica_with(&mut self, own: &ReplicaOptions) -> io::Result<&Replica> {
        let number = self.replicas.len();
        let mut words = own.launcher.iter().map(OsStr::new).chain([self.options.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("run").arg(&self.pipeline).args(["--log-format", "json"]);
        command.args(&self.options.arguments);
        command
            .envs(self.options.environment.iter().chain(&own.environment).map(|(name, value)| (name, value)));
        command.stdout(match &self.output {
            Some(output) => output.try_clone()?.into(),
            None => Stdio::null(),
        });
        self.replicas.push(Replica::start(number, command, &self.scratch)?);
        Ok(&self.replicas[number])
    }

    /// All that were started, those that have ended included.
    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Who holds the lease: of the replicas that run, the one that last said so with the highest token.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        let running = self.replicas.iter().filter(|replica| replica.is_running());
        let terms = running
            .filter_map(|replica| Some(Leader { replica: replica.number, token: replica.log.held_token()? }));
        terms.max_by_key(|leader| leader.token)
    }

    /// Waits for a leader whose token is higher than `after`, which may be 0.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn wait_for_leader(&self, after: u64, limit: Duration) -> Result<Leader, NotInTime> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(leader) = self.leader().filter(|leader| leader.token > after) {
                return Ok(leader);
            }
            if Instant::now() > deadline || !self.replicas.iter().any(Replica::is_running) {
                return Err(self.not_in_time(format!("no leader with a token above {after}"), limit));
            }
            sleep(POLL).await;
        }
    }

    fn not_in_time(&self, what: String, limit: Duration) -> NotInTime {
        let logs: Vec<String> = self.replicas.iter().map(Replica::describe).collect();
        NotInTime { what, limit, logs: logs.join("\n") }
    }
}

impl Replica {
    fn start(number: usize, mut command: Command, scratch: &Arc<Scratch>) -> io::Result<Self> {
        // A process group of its own: Ctrl-C in the terminal is for the harness, whose guardian ends the replicas.
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn()?;
        let pid = child.id();
        let log = Arc::new(Log::default());
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            // Ends with the process's last output.
            thread::spawn(move || {
                BufReader::new(stderr).split(b'\n').map_while(Result::ok).for_each(|line| log.push(&line));
            });
        }
        let replica = Self { number, child: Mutex::new(child), pid, log, scratch: Arc::clone(scratch) };
        replica.scratch.guardian().adopt(pid)?;
        Ok(replica)
    }

    /// 0 for the first of the cluster.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status().is_ok_and(|status| status.is_none())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn status(&self) -> io::Result<Option<ExitStatus>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()
    }

    /// Kills it without a chance to do anything.
    ///
    /// # Errors
    /// When it has ended.
    pub fn kill_9(&self) -> io::Result<()> {
        self.send(Signal::SIGKILL)
    }

    /// Asks it to stop, as a service manager does.
    ///
    /// # Errors
    /// When it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        self.send(Signal::SIGTERM)
    }

    /// Freezes it: it does nothing, and its connections stay open.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> io::Result<()> {
        self.send(Signal::SIGSTOP)
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> io::Result<()> {
        self.send(Signal::SIGCONT)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn wait(&self, limit: Duration) -> Result<ExitStatus, NotInTime> {
        let deadline = Instant::now() + limit;
        loop {
            match self.status() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => sleep(POLL).await,
                Ok(None) => return Err(self.not_in_time("not ended", limit)),
                Err(error) => return Err(self.not_in_time(&error.to_string(), limit)),
            }
        }
    }

    /// Waits until it has logged a line that `wanted` accepts; returns the first.
    ///
    /// # Errors
    /// When it has not in time, or has ended without.
    pub async fn wait_for_line(
        &self,
        limit: Duration,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> Result<LogLine, NotInTime> {
        let deadline = Instant::now() + limit;
        let mut grown = self.log.subscribe();
        loop {
            grown.mark_unchanged();
            // Asked before the look: what it logged before it ended may still be on its way.
            let ended = !self.is_running();
            if let Some(line) = self.log.lines().into_iter().find(&wanted) {
                return Ok(line);
            }
            let wait_until = deadline.min(Instant::now() + LAST_WORDS);
            let silent = timeout_at(wait_until, grown.changed()).await.is_err();
            if silent && (ended || Instant::now() >= deadline) {
                return Err(self.not_in_time("the line was not logged", limit));
            }
        }
    }

    /// Checked under the lock that also reaps, so that a signal never meets a stranger with a reused process id.
    fn send(&self, signal: Signal) -> io::Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("replica {} has ended: {status}", self.number)));
        }
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        signal::kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
    }

    fn not_in_time(&self, what: &str, limit: Duration) -> NotInTime {
        NotInTime { what: format!("replica {}: {what}", self.number), limit, logs: self.describe() }
    }

    fn describe(&self) -> String {
        let status = match self.status() {
            Ok(None) => "running".to_owned(),
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        format!("replica {} (pid {}, {status}):\n{}", self.number, self.pid, self.log.tail())
    }
}

impl fmt::Debug for NotInTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
        let _ = self.scratch.guardian().release(self.pid);
    }
}
