//! A server run from local binaries, in a directory of its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::User;

use super::{ServerError, ServerOptions, StopMode, USER};
use crate::guardian::EndingSignal;
use crate::process::{free_port, send, tail};
use crate::scratch::Scratch;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const PORT_ATTEMPTS: u32 = 20;

/// The data directory of one cluster and, while it runs, its postmaster.
#[derive(Debug)]
pub(super) struct LocalServer {
    // Dropped before the scratch directory, so that the guardian finds nothing left to end.
    postmaster: Mutex<Option<Child>>,
    bin: PathBuf,
    options: ServerOptions,
    password: String,
    port: Mutex<u16>,
    user: Option<User>,
    scratch: Scratch,
}

impl LocalServer {
    /// Makes a cluster and starts it.
    pub(super) fn create(bin: &Path, options: &ServerOptions) -> Result<Self, ServerError> {
        let password = uuid::Uuid::new_v4().simple().to_string();
        let server = Self::prepare(bin, options, password)?;
        server.initdb()?;
        server.start_on_some_port()?;
        Ok(server)
    }

    /// Makes a standby that streams from `primary`, and starts it.
    pub(super) fn standby_of(primary: &Self) -> Result<Self, ServerError> {
        let server = Self::prepare(&primary.bin, &primary.options, primary.password.clone())?;
        let mut command = server.command("pg_basebackup");
        command.env("PGPASSWORD", &primary.password);
        command.args(["--host", "127.0.0.1", "--port", &primary.port().to_string(), "--username", USER]);
        command.args([
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
            "--pgdata",
        ]);
        command.arg(server.data());
        server.run(command)?;
        server.start_on_some_port()?;
        Ok(server)
    }

    fn prepare(bin: &Path, options: &ServerOptions, password: String) -> Result<Self, ServerError> {
        let scratch = Scratch::create(EndingSignal::Quit)
            .map_err(ServerError::io("make a directory for PostgreSQL"))?;
        let user = server_user()?;
        if let Some(user) = &user {
            chown(scratch.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(ServerError::io("give PostgreSQL's directory to its user"))?;
        }
        Ok(Self {
            postmaster: Mutex::new(None),
            bin: bin.to_owned(),
            options: options.clone(),
            password,
            port: Mutex::new(0),
            user,
            scratch,
        })
    }

    fn initdb(&self) -> Result<(), ServerError> {
        let secret = self.scratch.path().join("password");
        fs::write(&secret, &self.password).map_err(ServerError::io("write the password file"))?;
        if let Some(user) = &self.user {
            chown(&secret, Some(user.uid.as_raw()), None)
                .map_err(ServerError::io("hand over the password file"))?;
        }
        let mut command = self.command("initdb");
        command.args([
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
            "--auth=scram-sha-256",
            "--username",
            USER,
        ]);
        command.arg("--pwfile").arg(&secret).arg("--pgdata").arg(self.data());
        self.run(command)?;
        fs::remove_file(&secret).map_err(ServerError::io("remove the password file"))?;
        self.let_in_networks().map_err(ServerError::io("let networks in"))
    }

    fn let_in_networks(&self) -> io::Result<()> {
        let mut rules = File::options().append(true).open(self.data().join("pg_hba.conf"))?;
        self.options
            .networks
            .iter()
            .try_for_each(|network| writeln!(rules, "host all all {network} scram-sha-256"))
    }

    fn start_on_some_port(&self) -> Result<(), ServerError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            *self.port.lock().unwrap_or_else(PoisonError::into_inner) =
                free_port().map_err(ServerError::io("find a free port"))?;
            match self.start() {
                Err(error) if attempt < PORT_ATTEMPTS && is_port_clash(&error) => {}
                other => return other,
            }
        }
    }

    /// Starts the postmaster on the known port and waits until it accepts connections. Does nothing while it runs.
    pub(super) fn start(&self) -> Result<(), ServerError> {
        let mut slot = self.slot();
        if slot.is_some() {
            return Ok(());
        }
        let log = self.scratch.path().join("log");
        let output = File::create(&log).map_err(ServerError::io("create the server's log"))?;
        let errors = output.try_clone().map_err(ServerError::io("share the server's log"))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(output).stderr(errors);
        let port = self.port().to_string();
        let socket_folder = self.scratch.path().display().to_string();
        let own = [
            ("listen_addresses", if self.options.networks.is_empty() { "127.0.0.1" } else { "*" }),
            ("port", &port),
            ("unix_socket_directories", &socket_folder),
            ("max_connections", "200"),
        ];
        let wanted = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.into_iter().chain(wanted) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut child = self.spawn(command)?;
        let started = self.wait_until_ready(&mut child);
        if started.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            self.release(child.id());
        } else {
            *slot = Some(child);
        }
        started
    }

    fn wait_until_ready(&self, child: &mut Child) -> Result<(), ServerError> {
        let file = self.data().join("postmaster.pid");
        let pid = child.id().to_string();
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            // The first line tells this postmaster's file from one that a crash left; the eighth is its state.
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines();
            if lines.next() == Some(pid.as_str()) && lines.nth(6).map(str::trim) == Some("ready") {
                return Ok(());
            }
            if let Ok(Some(_)) = child.try_wait() {
                return Err(ServerError::Program {
                    program: self.bin.join("postgres"),
                    output: self.log_tail(),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(self.timeout("ready", START_TIMEOUT))
    }

    /// Stops the postmaster and waits until it is gone. Does nothing when it does not run.
    pub(super) fn stop(&self, mode: StopMode) -> Result<(), ServerError> {
        let mut slot = self.slot();
        let Some(child) = slot.as_mut() else { return Ok(()) };
        let signal = match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        send(child.id(), signal).map_err(ServerError::io("signal the postmaster"))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if child.try_wait().map_err(ServerError::io("wait for the postmaster"))?.is_some() {
                self.release(child.id());
                *slot = None;
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(self.timeout("stopped", STOP_TIMEOUT))
    }

    /// Makes a primary of a standby.
    pub(super) fn promote(&self) -> Result<(), ServerError> {
        let mut command = self.command("pg_ctl");
        command.args(["promote", "--wait", "--silent", "--pgdata"]).arg(self.data());
        self.run(command)
    }

    /// Starts a standby that stops replaying at a point, and becomes a primary there.
    pub(super) fn recover_to(&self, restore_point: &str) -> Result<(), ServerError> {
        let settings = self.data().join("postgresql.auto.conf");
        File::options()
            .append(true)
            .open(settings)
            .and_then(|mut file| {
                writeln!(file, "recovery_target_name = '{}'", restore_point.replace('\'', "''"))?;
                writeln!(file, "recovery_target_action = 'promote'")
            })
            .map_err(ServerError::io("set the point to recover to"))?;
        self.start()
    }

    pub(super) fn port(&self) -> u16 {
        *self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    pub(super) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.slot().as_ref().map(Child::id)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// One of PostgreSQL's programs, run by the server's user, in a process group of its own (a Ctrl-C in the
    /// terminal is for the tests; the guardian ends the server after them), without the caller's `PG…` variables and
    /// with messages in English.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir(self.scratch.path()).process_group(0);
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn spawn(&self, mut command: Command) -> Result<Child, ServerError> {
        let program = Path::new(command.get_program()).display().to_string();
        let child = command.spawn().map_err(ServerError::io(format!("run {program}")))?;
        self.scratch.guardian().adopt(child.id()).map_err(ServerError::io("reach the guardian"))?;
        Ok(child)
    }

    /// Runs a program to its end.
    fn run(&self, mut command: Command) -> Result<(), ServerError> {
        let program = PathBuf::from(command.get_program());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command)?;
        let pid = child.id();
        let output =
            child.wait_with_output().map_err(ServerError::io(format!("wait for {}", program.display())))?;
        self.release(pid);
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(ServerError::Program { program, output: tail(&said) })
    }

    /// A guardian that cannot be told keeps looking after a process that is gone, which does no harm.
    fn release(&self, pid: u32) {
        let _ = self.scratch.guardian().release(pid);
    }

    fn log_tail(&self) -> String {
        tail(&fs::read(self.scratch.path().join("log")).unwrap_or_default())
    }

    fn timeout(&self, state: &'static str, limit: Duration) -> ServerError {
        ServerError::Timeout {
            directory: self.scratch.path().to_owned(),
            state,
            seconds: limit.as_secs(),
            output: self.log_tail(),
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        if let Err(error) = self.stop(StopMode::Immediate) {
            crate::say(&format!("{error}"));
        }
    }
}

/// The postmaster refuses to run as root. Its own user is best; any other that owns nothing will do.
fn server_user() -> Result<Option<User>, ServerError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let found = User::from_name(name).map_err(|errno| ServerError::Io {
            action: format!("look up user {name}"),
            source: io::Error::from(errno),
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Err(ServerError::Io {
        action: "find a user to run PostgreSQL as (postgres or nobody)".to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// Another process may take the port between our look and the postmaster's bind.
fn is_port_clash(error: &ServerError) -> bool {
    matches!(error, ServerError::Program { output, .. } if output.contains("could not bind"))
}
