//! An engine, an image to run, and a look at what is there.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dapper_container::{ContainerProcess, DEFAULT_SOCKET, KIND};
use dapper_core::{Event, Operation, ProcessConfig};
use reqwest::{Client, Method};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::sync::OnceCell;
use tracing::subscriber::DefaultGuard;

/// A shell and little else, made of this machine's own programs. It stays, for the next time.
pub(crate) const IMAGE: &str = "dapper-test-shell:1";

/// Nothing here takes nearly as long, not even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A way to ask the engine, beside the process.
pub(crate) struct Engine(Client);

impl Engine {
    /// The engine with the image, where there is one.
    pub(crate) async fn for_test(test: &str) -> Option<Self> {
        static IMAGE_IS_THERE: OnceCell<()> = OnceCell::const_new();
        if UnixStream::connect(DEFAULT_SOCKET).is_err() {
            // Past the capture of the test harness: it must be seen.
            let line = format!("NOT RUN: {test}: no Docker engine answers at {DEFAULT_SOCKET}\n");
            io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder().tls_backend_preconfigured(tls).unix_socket(DEFAULT_SOCKET);
        let engine = Self(client.build().unwrap());
        IMAGE_IS_THERE.get_or_init(|| engine.make_image()).await;
        Some(engine)
    }

    async fn make_image(&self) {
        if self.ask(Method::GET, &format!("images/{IMAGE}/json"), Vec::new()).await.is_some() {
            return;
        }
        let (repository, tag) = IMAGE.split_once(':').unwrap();
        let path = format!("images/create?fromSrc=-&repo={repository}&tag={tag}");
        self.ask(Method::POST, &path, files()).await.expect("the engine takes the image");
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Option<Vec<u8>> {
        let request = self.0.request(method, format!("http://engine/{path}")).body(body);
        let answer = request.send().await.unwrap();
        answer.status().is_success().then_some(())?;
        Some(answer.bytes().await.unwrap().to_vec())
    }

    /// The states of the containers of a process, such as `running`.
    pub(crate) async fn states(&self, process: &str) -> Vec<String> {
        let filters = format!("%7B%22label%22%3A%5B%22dapper.process%3D{process}%22%5D%7D");
        let path = format!("containers/json?all=true&filters={filters}");
        let list: Value =
            serde_json::from_slice(&self.ask(Method::GET, &path, Vec::new()).await.unwrap()).unwrap();
        list.as_array().unwrap().iter().map(|it| it["State"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until the containers of a process are in these states.
    pub(crate) async fn wait_for(&self, process: &str, states: &[&str]) {
        let start = Instant::now();
        loop {
            let now = self.states(process).await;
            if now == states {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{now:?} are not {states:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A few programs of this machine with the libraries that they need, as a tar archive.
fn files() -> Vec<u8> {
    let programs = ["/bin/sh", "/bin/sleep", "/bin/grep"];
    let mut files: Vec<String> = programs.map(str::to_owned).into();
    for program in programs {
        let said = Command::new("ldd").arg(program).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let paths = said.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).exists());
        files.extend(paths.map(str::to_owned));
    }
    files.sort();
    files.dedup();
    let files = files.iter().map(|file| file.trim_start_matches('/'));
    let tar = Command::new("tar").args(["-C", "/", "-chf", "-"]).args(files).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    tar.stdout
}

pub(crate) fn config(name: &str, context: &[(&str, &str)]) -> ProcessConfig {
    let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    ProcessConfig { name: name.into(), kind: KIND.into(), execution_context }
}

/// A process that has the image's shell run `script`.
pub(crate) fn script(name: &str, script: &str, more: &[(&str, &str)]) -> ContainerProcess {
    assert!(!script.contains('\''));
    let command = format!("/bin/sh -c '{script}'");
    let context = [&[("image", IMAGE), ("command", &*command), ("network", "none")], more].concat();
    ContainerProcess::new(config(name, &context)).unwrap()
}

pub(crate) fn event() -> Event {
    Event::new("orders", Operation::Delete, "42", "orders_input")
}

/// An error and all its causes, as a log would show them, and as a panic would.
pub(crate) fn whole_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    format!("{}\n{error:?}", causes.collect::<Vec<_>>().join(": "))
}

/// What is logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
