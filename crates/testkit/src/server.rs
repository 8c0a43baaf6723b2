//! A PostgreSQL server to test with.

mod binaries;
#[cfg(feature = "docker")]
mod docker;
mod error;
mod freeze;
mod install;
mod local;
mod url;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Once, OnceLock};

pub use error::ServerError;
pub use freeze::Frozen;
use local::LocalServer;
use url::ConnectionString;

/// The role that owns everything in the servers that this crate makes.
const USER: &str = "dapper";

/// A PostgreSQL server that is gone when its last handle is dropped, or when the process ends in whatever way.
///
/// In this order: the server that `DAPPER_TEST_DATABASE_URL` names (for [`shared`](Self::shared) only); local server
/// binaries (those in the folder `DAPPER_TEST_POSTGRES_BIN`, else the first found), run in a temporary directory; Docker (feature `docker`; image `postgres`, another by
/// `DAPPER_TEST_POSTGRES_IMAGE`); on Debian and Ubuntu, as root, the distribution's package, which is installed
/// unless `DAPPER_TEST_NO_INSTALL=1`. Which one it took is said on stderr.
///
/// The methods block; none needs a runtime. Clones are handles to the same server, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Server {
    backing: Arc<Backing>,
}

/// How to run a server.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Settings as in `postgresql.conf`, such as `("max_prepared_transactions", "10")`. Without any, everything that
    /// makes commits durable is on.
    pub settings: Vec<(String, String)>,
    /// Networks such as `198.18.0.0/16` from which one may connect, too; this machine itself always may.
    pub networks: Vec<String>,
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// As by a crash: no checkpoint, and recovery at the next start.
    Immediate,
    /// Rolls back what is open, disconnects everyone, writes a checkpoint.
    Fast,
}

#[derive(Debug)]
enum Backing {
    Url(ConnectionString),
    Local(LocalServer),
    #[cfg(feature = "docker")]
    Docker(docker::DockerServer),
}

impl Server {
    /// The server that all tests of this process share.
    ///
    /// # Errors
    /// When no way to a server is open, and the same for every later call.
    pub fn shared() -> Result<&'static Self, ServerError> {
        static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
        let mut first = None;
        let server = SHARED.get_or_init(|| {
            Self::start_shared().map_err(|error| {
                let reason = crate::chain(&error);
                first = Some(error);
                reason
            })
        });
        match (server, first) {
            (Ok(server), _) => Ok(server),
            (Err(_), Some(error)) => Err(error),
            (Err(reason), None) => Err(ServerError::Shared { reason: reason.clone() }),
        }
    }

    fn new(backing: Backing) -> Self {
        Self { backing: Arc::new(backing) }
    }

    fn start_shared() -> Result<Self, ServerError> {
        match std::env::var("DAPPER_TEST_DATABASE_URL") {
            Ok(text) if !text.trim().is_empty() => {
                let target = ConnectionString::parse(&text)?;
                say_source(&format!("the server that DAPPER_TEST_DATABASE_URL names ({})", target.address()));
                Ok(Self::new(Backing::Url(target)))
            }
            Ok(_) | Err(std::env::VarError::NotPresent) => Self::start(&ServerOptions::default()),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(ServerError::Url { reason: "it is not UTF-8".to_owned() })
            }
        }
    }

    /// Starts a private server, for tests that configure, stop or crash it; `DAPPER_TEST_DATABASE_URL` does not apply.
    ///
    /// # Errors
    /// When no way to a server is open, or the server does not start.
    pub fn start(options: &ServerOptions) -> Result<Self, ServerError> {
        if let Some(bin) = binaries::find() {
            return Self::start_local(&bin, options);
        }
        let mut tried = vec!["no folder with both initdb and postgres was found".to_owned()];
        match Self::start_docker(options) {
            Ok(server) => return Ok(server),
            Err(reason) => tried.push(reason),
        }
        // Once per process, even when it fails; a thread that comes meanwhile waits and finds what was installed.
        static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
        if let Err(reason) = INSTALLED.get_or_init(install::install) {
            tried.push(reason.clone());
        }
        match binaries::find() {
            Some(bin) => Self::start_local(&bin, options),
            None => Err(ServerError::NotFound { tried: tried.join("; ") }),
        }
    }

    fn start_local(bin: &Path, options: &ServerOptions) -> Result<Self, ServerError> {
        let server = LocalServer::create(bin, options)?;
        say_source(&format!("the binaries in {}, run in {}", bin.display(), server.directory().display()));
        Ok(Self::new(Backing::Local(server)))
    }

    #[cfg(feature = "docker")]
    fn start_docker(options: &ServerOptions) -> Result<Self, String> {
        let server = docker::DockerServer::start(options)?;
        say_source(&format!("Docker, image {}", server.image()));
        Ok(Self::new(Backing::Docker(server)))
    }

    #[cfg(not(feature = "docker"))]
    fn start_docker(_options: &ServerOptions) -> Result<Self, String> {
        Err("Docker was not tried, because dapper-testkit was built without its feature `docker`".to_owned())
    }

    /// Starts a hot standby that streams from this server, from a base backup taken now.
    ///
    /// # Errors
    /// When this server is not run from local binaries, or the backup or the start fails.
    pub fn standby_of(primary: &Self) -> Result<Self, ServerError> {
        let local = LocalServer::standby_of(primary.local("a standby")?)?;
        Ok(Self::new(Backing::Local(local)))
    }

    /// Makes a primary of this standby and waits until it is one.
    ///
    /// # Errors
    /// When it is not a standby run from local binaries.
    pub fn promote(&self) -> Result<(), ServerError> {
        self.local("promoting")?.promote()
    }

    /// Makes a primary of this standby, which must not run, as of a point that `pg_create_restore_point` has named on its
    /// primary since it stopped. What was committed after that point is not there. Returns when it can be connected to; it
    /// becomes a primary when it has got everything up to that point from its own, which must run until then.
    ///
    /// # Errors
    /// When it is not run from local binaries, or does not start within a minute.
    pub fn recover_to(&self, restore_point: &str) -> Result<(), ServerError> {
        self.local("recovering")?.recover_to(restore_point)
    }

    /// Stops it, if it runs, and waits until it is gone. Its data stays.
    ///
    /// # Errors
    /// When it is not run from local binaries, or does not stop within a minute.
    pub fn stop(&self, mode: StopMode) -> Result<(), ServerError> {
        self.local("stopping")?.stop(mode)
    }

    /// Starts it again on the same address; stops it first (fast) if it still runs.
    ///
    /// # Errors
    /// When it is not run from local binaries, or does not start within a minute.
    pub fn restart(&self) -> Result<(), ServerError> {
        let local = self.local("restarting")?;
        local.stop(StopMode::Fast)?;
        local.start()
    }

    /// The URL of one of its databases, for its superuser (or the role of `DAPPER_TEST_DATABASE_URL`).
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.target().url(database)
    }

    /// The same as a key=value string.
    #[must_use]
    pub fn dsn(&self, database: &str) -> String {
        self.target().dsn(database)
    }

    /// The URL of one of its databases for another role.
    #[must_use]
    pub fn url_as(&self, database: &str, user: &str, password: &str) -> String {
        self.target().with_user(user, password).url(database)
    }

    /// The URL of one of its databases by way of another address, such as a [`Proxy`](crate::Proxy)'s.
    #[must_use]
    pub fn url_via(&self, database: &str, address: SocketAddr) -> String {
        self.target().with_address(address).url(database)
    }

    /// Its host and port.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        self.target().host_and_port()
    }

    /// The postmaster's process id, while it runs from local binaries.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match &*self.backing {
            Backing::Local(local) => local.pid(),
            _ => None,
        }
    }

    /// The folder of the server's programs (`psql`, `pgbench`, `pg_waldump` …), when it runs from local binaries.
    #[must_use]
    pub fn bin(&self) -> Option<&Path> {
        match &*self.backing {
            Backing::Local(local) => Some(local.bin()),
            _ => None,
        }
    }

    /// The directory that holds its data, socket and log, when it runs from local binaries.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match &*self.backing {
            Backing::Local(local) => Some(local.directory()),
            _ => None,
        }
    }

    /// Whether it was there before us and stays: only then need databases be dropped.
    pub(crate) fn is_borrowed(&self) -> bool {
        matches!(*self.backing, Backing::Url(_))
    }

    /// The database to be in while another is created or dropped.
    pub(crate) fn maintenance_url(&self) -> String {
        match &*self.backing {
            Backing::Url(target) => target.own_url(),
            _ => self.url("postgres"),
        }
    }

    fn target(&self) -> ConnectionString {
        match &*self.backing {
            Backing::Url(target) => target.clone(),
            Backing::Local(local) => {
                ConnectionString::new("127.0.0.1", local.port(), USER, local.password(), "postgres")
            }
            #[cfg(feature = "docker")]
            Backing::Docker(server) => server.target().clone(),
        }
    }

    fn local(&self, operation: &'static str) -> Result<&LocalServer, ServerError> {
        let source_name = match &*self.backing {
            Backing::Local(local) => return Ok(local),
            Backing::Url(_) => "named by DAPPER_TEST_DATABASE_URL".to_owned(),
            #[cfg(feature = "docker")]
            Backing::Docker(server) => format!("a container of {}", server.image()),
        };
        Err(ServerError::Unsupported { operation, source_name })
    }
}

/// Says once per process where its servers come from.
fn say_source(source: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| crate::say(&format!("PostgreSQL is {source}")));
}
