//! A server in a container, for machines that have a container engine but no PostgreSQL.

use std::env;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::url::ConnectionString;
use super::{ServerOptions, USER};

const DEFAULT_IMAGE: &str = "postgres:17";
const GUARD: &str = "dapper-testkit-guard";
const SCRIPT: &str = include_str!("docker.sh");
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pulling the image included.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// A container, looked after by a thread with a runtime of its own, so that it can be made and dropped anywhere.
///
/// Engines have no way to tie a container to a process. So the container watches for a session that the thread holds,
/// and ends without it; see `docker.sh`.
#[derive(Debug)]
pub(super) struct DockerServer {
    image: String,
    target: ConnectionString,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DockerServer {
    /// Starts a container; the error says why not.
    pub(super) fn start(options: &ServerOptions) -> Result<Self, String> {
        probe()?;
        let image = env::var("DAPPER_TEST_POSTGRES_IMAGE").unwrap_or_else(|_| DEFAULT_IMAGE.to_owned());
        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = {
            let (image, options) = (image.clone(), options.clone());
            thread::spawn(move || run(&image, &options, &started, stopped))
        };
        let gone = || "the thread that ran the container failed".to_owned();
        let target = outcome.recv().map_err(|_| gone()).flatten();
        let target = target.map_err(|reason| format!("Docker, image {image}: {reason}"))?;
        Ok(Self { image, target, stop: Some(stop), thread: Some(thread) })
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }

    pub(super) fn target(&self) -> &ConnectionString {
        &self.target
    }
}

impl Drop for DockerServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    image: &str,
    options: &ServerOptions,
    started: &mpsc::SyncSender<Result<ConnectionString, String>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        match timeout(START_TIMEOUT, launch(image, options)).await {
            Err(_) => {
                let _ = started.send(Err(format!("not started within {} s", START_TIMEOUT.as_secs())));
            }
            Ok(Err(reason)) => {
                let _ = started.send(Err(reason));
            }
            Ok(Ok((container, target, guard))) => {
                let _ = started.send(Ok(target));
                // Ends when the value that holds the sender is dropped.
                let _ = stopped.await;
                drop(guard);
                // The engine removes it anyway once it has ended, so a refusal means that it is under way.
                let _ = container.rm().await;
            }
        }
    });
}

async fn launch(
    image: &str,
    options: &ServerOptions,
) -> Result<(ContainerAsync<GenericImage>, ConnectionString, Client), String> {
    let password = uuid::Uuid::new_v4().simple().to_string();
    let mut arguments =
        vec!["-c".to_owned(), SCRIPT.to_owned(), "dapper-guarded".to_owned(), GUARD.to_owned()];
    arguments.extend(["-c".to_owned(), "max_connections=200".to_owned()]);
    for (name, value) in &options.settings {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    let (name, tag) = name_and_tag(image);
    let request = GenericImage::new(name, tag)
        .with_exposed_port(5432.tcp())
        .with_entrypoint("/bin/sh")
        .with_cmd(arguments)
        .with_env_var("POSTGRES_USER", USER)
        .with_env_var("POSTGRES_PASSWORD", &password)
        .with_env_var("POSTGRES_DB", "postgres")
        .with_startup_timeout(START_TIMEOUT)
        .with_host_config_modifier(|config| config.auto_remove = Some(true));
    let container = request.start().await.map_err(|error| crate::chain(&error))?;
    let host = container.get_host().await.map_err(|error| crate::chain(&error))?.to_string();
    let port = container.get_host_port_ipv4(5432.tcp()).await.map_err(|error| crate::chain(&error))?;
    let target = ConnectionString::new(&host, port, USER, &password, "postgres");
    let guard = hold_session(&target).await?;
    Ok((container, target, guard))
}

/// Connects under the guard's name as soon as the server accepts connections.
async fn hold_session(target: &ConnectionString) -> Result<Client, String> {
    let mut config: Config = target.own_url().parse().map_err(|error| crate::chain(&error))?;
    config.application_name(GUARD).connect_timeout(PROBE_TIMEOUT);
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if Instant::now() > deadline => {
                return Err(format!(
                    "no connection within {} s: {}",
                    READY_TIMEOUT.as_secs(),
                    crate::chain(&error)
                ));
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Whether an engine answers. Asked first, because a client library's wait for an absent one is long.
fn probe() -> Result<(), String> {
    if let Some(host) = env::var_os("DOCKER_HOST").filter(|host| !host.is_empty()) {
        let host = host.to_string_lossy().into_owned();
        return probe_address(&host)
            .map_err(|reason| format!("no Docker engine at DOCKER_HOST ({host}): {reason}"));
    }
    let home = |name: &str, rest: &str| env::var_os(name).map(|folder| PathBuf::from(folder).join(rest));
    let sockets = [
        Some(PathBuf::from("/var/run/docker.sock")),
        home("XDG_RUNTIME_DIR", "docker.sock"),
        home("HOME", ".docker/run/docker.sock"),
    ];
    if sockets.into_iter().flatten().any(|socket| UnixStream::connect(socket).is_ok()) {
        return Ok(());
    }
    Err("no Docker engine answers on the usual sockets (and DOCKER_HOST is not set)".to_owned())
}

fn probe_address(host: &str) -> Result<(), String> {
    if let Some(path) = host.strip_prefix("unix://") {
        return UnixStream::connect(path).map(drop).map_err(|error| error.to_string());
    }
    let Some((_, address)) = host.split_once("://") else { return Err("it is no URL".to_owned()) };
    let mut addresses = address.trim_end_matches('/').to_socket_addrs().map_err(|error| error.to_string())?;
    let address = addresses.next().ok_or("its name has no address")?;
    TcpStream::connect_timeout(&address, PROBE_TIMEOUT).map(drop).map_err(|error| error.to_string())
}

/// `name:tag`, where a colon before a slash is that of a registry's port.
fn name_and_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_name_and_a_tag() {
        assert_eq!(name_and_tag("postgres:16-alpine"), ("postgres", "16-alpine"));
        assert_eq!(name_and_tag("postgres"), ("postgres", "latest"));
        assert_eq!(name_and_tag("localhost:5000/a/postgres"), ("localhost:5000/a/postgres", "latest"));
        assert_eq!(name_and_tag("localhost:5000/a/postgres:1"), ("localhost:5000/a/postgres", "1"));
    }

    #[test]
    fn an_engine_that_does_not_answer_is_said_so() {
        for host in ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "garbage", "tcp://nowhere"] {
            assert!(probe_address(host).is_err(), "{host}");
        }
    }
}
