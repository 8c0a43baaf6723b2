//! An etcd to test with.

mod binary;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::guardian::EndingSignal;
use crate::process::{free_port, send, tail};
use crate::scratch::Scratch;
use crate::{ServerError, packages};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const PORT_ATTEMPTS: u32 = 20;

/// A cluster of one member that is gone when this is dropped, or when the process ends in whatever way.
///
/// Its program is found, or on Debian and Ubuntu, as root, installed (package `etcd-server`) unless
/// `DAPPER_TEST_NO_INSTALL=1`. Elections are quick, which allows for leases of one second; everything that makes writes
/// durable is on. The methods block; none needs a runtime.
#[derive(Debug)]
pub struct EtcdServer {
    // Dropped before the scratch directory, so that the guardian finds nothing left to end.
    child: Mutex<Option<Child>>,
    program: PathBuf,
    options: EtcdOptions,
    ports: Ports,
    scratch: Scratch,
}

/// How to run an etcd.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// More arguments, such as `--auth-token-ttl=2`.
    pub arguments: Vec<String>,
    /// A certificate and its key, both in PEM: clients then must come by `https`.
    pub tls: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    clients: u16,
    peers: u16,
    metrics: u16,
}

impl EtcdServer {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no etcd and none can be installed, or when it does not start.
    pub fn start(options: &EtcdOptions) -> Result<Self, ServerError> {
        let program = program()?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let server = Self::prepare(&program, options)?;
            match server.restart() {
                // Another process may take a port between our look and the server's bind.
                Err(ServerError::Program { output, .. })
                    if attempt < PORT_ATTEMPTS && output.contains("address already in use") => {}
                other => return other.map(|()| server),
            }
        }
    }

    fn prepare(program: &Path, options: &EtcdOptions) -> Result<Self, ServerError> {
        let scratch =
            Scratch::create(EndingSignal::Kill).map_err(ServerError::io("make a directory for etcd"))?;
        if let Some((certificate, key)) = &options.tls {
            for (name, text) in [("certificate.pem", certificate), ("key.pem", key)] {
                fs::write(scratch.path().join(name), text).map_err(ServerError::io("write a certificate"))?;
            }
        }
        let port = || free_port().map_err(ServerError::io("find a free port"));
        let ports = Ports { clients: port()?, peers: port()?, metrics: port()? };
        let (program, options) = (program.to_owned(), options.clone());
        Ok(Self { child: Mutex::new(None), program, options, ports, scratch })
    }

    /// Starts it again, on the same address and with its data; kills it first if it still runs.
    ///
    /// # Errors
    /// When it does not start within a minute.
    pub fn restart(&self) -> Result<(), ServerError> {
        self.kill_9()?;
        let log = File::create(self.log()).map_err(ServerError::io("create etcd's log"))?;
        let errors = log.try_clone().map_err(ServerError::io("share etcd's log"))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut child =
            command.spawn().map_err(ServerError::io(format!("run {}", self.program.display())))?;
        let adopted =
            self.scratch.guardian().adopt(child.id()).map_err(ServerError::io("reach the guardian"));
        let started = adopted.and_then(|()| self.wait_until_ready(&mut child));
        if started.is_err() {
            let _ = child.kill();
            let _ = child.wait();
            self.release(child.id());
        } else {
            *self.slot() = Some(child);
        }
        started
    }

    /// Asks it to stop, as a service manager does, and waits until it is gone. Its data stays.
    ///
    /// # Errors
    /// When it does not stop within a minute.
    pub fn stop(&self) -> Result<(), ServerError> {
        self.end(Signal::SIGTERM)
    }

    /// Kills it without a chance to do anything, and waits until it is gone. Its data stays.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub fn kill_9(&self) -> Result<(), ServerError> {
        self.end(Signal::SIGKILL)
    }

    /// Freezes it: it answers nothing, and its connections stay open. Does nothing when it does not run.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn freeze(&self) -> Result<(), ServerError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn thaw(&self) -> Result<(), ServerError> {
        self.signal(Signal::SIGCONT)
    }

    /// Where clients reach it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports.clients)
    }

    /// The port at which clients reach it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.clients
    }

    /// How many requests clients have made since it was started, each stream counted once.
    ///
    /// # Errors
    /// When it does not say.
    pub fn requests(&self) -> io::Result<f64> {
        let text = self.ask("/metrics")?;
        let counts = text.lines().filter(|line| line.starts_with("grpc_server_started_total{"));
        Ok(counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.slot().as_ref().map(Child::id)
    }

    /// The directory that holds its data and log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// In a process group of its own (a Ctrl-C in the terminal is for the tests; the guardian ends the server after
    /// them), and without the caller's `ETCD_…` variables.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ETCD_"))
        {
            command.env_remove(name);
        }
        let folder = self.scratch.path();
        command.current_dir(folder).process_group(0);
        command.arg("--data-dir").arg(folder.join("data"));
        let peers = format!("http://127.0.0.1:{}", self.ports.peers);
        let own = [
            ("--name", "test".to_owned()),
            ("--listen-client-urls", self.url()),
            ("--advertise-client-urls", self.url()),
            ("--listen-peer-urls", peers.clone()),
            ("--initial-advertise-peer-urls", peers.clone()),
            ("--initial-cluster", format!("test={peers}")),
            ("--listen-metrics-urls", format!("http://127.0.0.1:{}", self.ports.metrics)),
            ("--heartbeat-interval", "20".to_owned()),
            ("--election-timeout", "200".to_owned()),
        ];
        for (name, value) in own {
            command.args([name, &value]);
        }
        if self.options.tls.is_some() {
            command.arg("--cert-file").arg(folder.join("certificate.pem"));
            command.arg("--key-file").arg(folder.join("key.pem"));
        }
        command.args(&self.options.arguments);
        command
    }

    fn wait_until_ready(&self, child: &mut Child) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            // Another server may have our port: then ours ends.
            if let Ok(Some(_)) = child.try_wait() {
                return Err(ServerError::Program { program: self.program.clone(), output: self.log_tail() });
            }
            if self.ask("/health").is_ok_and(|text| text.contains(r#""health":"true""#)) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(self.timeout("ready", START_TIMEOUT))
    }

    fn end(&self, signal: Signal) -> Result<(), ServerError> {
        let mut slot = self.slot();
        let Some(child) = slot.as_mut() else { return Ok(()) };
        send(child.id(), signal).map_err(ServerError::io("signal etcd"))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if child.try_wait().map_err(ServerError::io("wait for etcd"))?.is_some() {
                self.release(child.id());
                *slot = None;
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(self.timeout("stopped", STOP_TIMEOUT))
    }

    fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        match self.pid() {
            Some(pid) => send(pid, signal).map_err(ServerError::io("signal etcd")),
            None => Ok(()),
        }
    }

    /// Asks by HTTP for what it says of itself.
    fn ask(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.metrics))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// A guardian that cannot be told keeps looking after a process that is gone, which does no harm.
    fn release(&self, pid: u32) {
        let _ = self.scratch.guardian().release(pid);
    }

    fn slot(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    fn log_tail(&self) -> String {
        tail(&fs::read(self.log()).unwrap_or_default())
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

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if let Err(error) = self.kill_9() {
            crate::say(&format!("{error}"));
        }
    }
}

/// Where etcd is; installs it once per process if it is nowhere.
fn program() -> Result<PathBuf, ServerError> {
    if let Some(program) = binary::find() {
        return Ok(program);
    }
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| packages::install(&["etcd-server"]));
    installed.clone().map_err(|reason| ServerError::NoEtcd { reason })?;
    binary::find().ok_or_else(|| ServerError::NoEtcd { reason: "it was installed and not found".to_owned() })
}
