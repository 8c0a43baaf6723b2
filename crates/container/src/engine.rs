//! The few things that are asked of a Docker engine.

use std::sync::Arc;

use dapper_program::Log;
use reqwest::header::DATE;
use reqwest::{Client, Method, Response, Url, redirect};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::Value;

use crate::error::ContainerError;
use crate::frames::Frames;
use crate::image::Image;

/// How much of a refusal is read.
const MAX_REFUSAL_BYTES: usize = 8 * 1024;
/// How much of a list, or of a line of a stream, is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// An engine behind a Unix socket.
pub(crate) struct Engine {
    client: Client,
    pub(crate) socket: String,
    /// What it says is shown as this would show it.
    log: Arc<Log>,
}

/// A container in a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Listed {
    pub(crate) id: String,
    /// When it was made, in seconds since 1970 by the engine's clock.
    pub(crate) created: i64,
    #[serde(default)]
    pub(crate) labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Waited {
    status_code: i64,
}

impl Engine {
    pub(crate) fn new(socket: &str, log: Arc<Log>) -> Result<Self, ContainerError> {
        // The library wants a way to do TLS even where no address has it.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| ContainerError::Client { source: source.into() })?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .unix_socket(socket)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|source| ContainerError::Client { source: source.into() })?;
        Ok(Self { client, socket: socket.to_owned(), log })
    }

    /// What the engine is.
    pub(crate) async fn version(&self) -> Result<String, ContainerError> {
        let task = "say its version";
        let Version { version, api_version } = self.json(task, Method::GET, url("version", &[])).await?;
        Ok(format!("Docker Engine {version} (API {api_version}) at {}", self.socket))
    }

    /// Fails when the engine does not have the image.
    pub(crate) async fn look_at(&self, image: &Image) -> Result<(), ContainerError> {
        let address = url(&format!("images/{}/json", image.name()), &[]);
        self.send("look at the image", Method::GET, address, None).await.map(drop)
    }

    /// Has the image fetched from its registry.
    pub(crate) async fn pull(&self, image: &Image) -> Result<(), ContainerError> {
        let task = "pull the image";
        let address = url("images/create", &[("fromImage", &image.repository), ("tag", &image.tag)]);
        let mut response = self.send(task, Method::POST, address, None).await?;
        // Whether it went well is in the stream alone.
        let mut line = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(task, error))? {
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                let room = MAX_REFUSAL_BYTES.saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
                if part.ends_with(b"\n") {
                    self.look_for_error(task, &line)?;
                    line.clear();
                }
            }
        }
        self.look_for_error(task, &line)
    }

    fn look_for_error(&self, task: &'static str, line: &[u8]) -> Result<(), ContainerError> {
        let said = serde_json::from_slice::<Value>(line).ok();
        match said.as_ref().and_then(|said| said.get("error")?.as_str()) {
            Some(said) => Err(self.refused(task, 200, said.as_bytes())),
            None => Ok(()),
        }
    }

    /// Makes a container, which does not run yet.
    pub(crate) async fn create(&self, name: &str, config: &Value) -> Result<(), ContainerError> {
        let address = url("containers/create", &[("name", name)]);
        self.send("make a container", Method::POST, address, Some(config)).await.map(drop)
    }

    pub(crate) async fn start(&self, name: &str) -> Result<(), ContainerError> {
        let address = url(&format!("containers/{name}/start"), &[]);
        self.send("start a container", Method::POST, address, None).await.map(drop)
    }

    /// Waits until the container has ended; gives its exit code.
    pub(crate) async fn wait(&self, name: &str) -> Result<i64, ContainerError> {
        let task = "wait for a container";
        let address = url(&format!("containers/{name}/wait"), &[("condition", "not-running")]);
        let Waited { status_code } = self.json(task, Method::POST, address).await?;
        Ok(status_code)
    }

    /// Reads what the container prints, until it has ended.
    pub(crate) async fn logs(&self, name: &str, mut frames: Frames<'_>) -> Result<(), ContainerError> {
        let task = "show what a container prints";
        let query = [("follow", "true"), ("stdout", "true"), ("stderr", "true")];
        let address = url(&format!("containers/{name}/logs"), &query);
        let mut response = self.send(task, Method::GET, address, None).await?;
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(task, error))? {
            frames.push(&piece);
        }
        Ok(())
    }

    /// Removes a container, and kills it first where it runs. One that is gone, or being removed, is no error.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ContainerError> {
        let query = [("force", "true"), ("v", "true")];
        let address = url(&format!("containers/{name}"), &query);
        match self.send("remove a container", Method::DELETE, address, None).await {
            Err(ContainerError::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The containers with all of these labels, running or not, and the engine's time in seconds since 1970.
    pub(crate) async fn list(&self, labels: &[String]) -> Result<(Vec<Listed>, Option<i64>), ContainerError> {
        let task = "list containers";
        let filters = serde_json::json!({ "label": labels }).to_string();
        let address = url("containers/json", &[("all", "true"), ("filters", &filters)]);
        let response = self.send(task, Method::GET, address, None).await?;
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let now = now.map(|date| date.timestamp().as_second());
        Ok((self.read_json(task, response).await?, now))
    }

    async fn json<T: for<'d> Deserialize<'d>>(
        &self,
        task: &'static str,
        method: Method,
        address: Url,
    ) -> Result<T, ContainerError> {
        let response = self.send(task, method, address, None).await?;
        self.read_json(task, response).await
    }

    async fn read_json<T: for<'d> Deserialize<'d>>(
        &self,
        task: &'static str,
        mut response: Response,
    ) -> Result<T, ContainerError> {
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(task, error))? {
            if text.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(self.refused(task, 200, b"its answer is too large"));
            }
            text.extend_from_slice(&piece);
        }
        serde_json::from_slice(&text).map_err(|source| self.unclear(task, source))
    }

    /// Sends a request; an answer other than 2xx is an error with what it says.
    async fn send(
        &self,
        task: &'static str,
        method: Method,
        address: Url,
        body: Option<&Value>,
    ) -> Result<Response, ContainerError> {
        let mut request = self.client.request(method, address);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| self.broken(task, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut text = Vec::new();
        while text.len() < MAX_REFUSAL_BYTES {
            let Ok(Some(piece)) = response.chunk().await else { break };
            text.extend_from_slice(&piece[..piece.len().min(MAX_REFUSAL_BYTES - text.len())]);
        }
        let said = serde_json::from_slice::<Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said.get("message")?.as_str());
        Err(self.refused(task, status.as_u16(), said.map_or(&*text, str::as_bytes)))
    }

    fn refused(&self, task: &'static str, status: u16, said: &[u8]) -> ContainerError {
        ContainerError::Refused { socket: self.socket.clone(), task, status, said: self.log.clean(said) }
    }

    fn broken(&self, task: &'static str, error: reqwest::Error) -> ContainerError {
        let source = error.without_url().into();
        ContainerError::Engine { socket: self.socket.clone(), task, source }
    }

    fn unclear(&self, task: &'static str, source: serde_json::Error) -> ContainerError {
        ContainerError::Engine { socket: self.socket.clone(), task, source: source.into() }
    }
}

/// Without a version in the path the engine takes its own newest; what is used here is the same in all of them.
fn url(path: &str, query: &[(&str, &str)]) -> Url {
    let mut url = Url::parse("http://engine/").expect("this is a URL");
    url.set_path(path);
    url.query_pairs_mut().extend_pairs(query);
    url
}
