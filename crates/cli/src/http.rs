//! `--http`: what the command line says of it, and how the pages learn of the databases.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use dapper_core::{CancellationToken, InputConfig};
use dapper_http::{
    Action, Graph, Kind, Letter, Observation, Registry, SHORTEST_TOKEN, Server, ServerOptions, Source,
    SourceError, Watch,
};
use dapper_orchestrator::{Orchestrator, OrchestratorError};
use dapper_postgres::{
    DeadLetterFilter, Names, ParkedEvent, State, Status, StatusReader, dead_letters, discard_dead_letters,
    operated_by, parked_events, retry_dead_letters, retry_parked_event,
};
use secrecy::SecretString;
use tokio::sync::Mutex;

use crate::app::operator;
use crate::arguments::Run;
use crate::assembly::Loaded;
use crate::backends::{Backends, postgres_inputs};

/// Where the token for actions may be, besides a file.
const TOKEN_VARIABLE: &str = "DAPPER_HTTP_TOKEN";

/// A server that listens, and counts that have begun.
pub(crate) struct Http {
    server: Server,
    registry: Registry,
    source: Arc<dyn Source>,
}

impl Http {
    /// Listens where the command line says so, before anything is made that counts.
    pub(crate) async fn listen(
        arguments: &Run,
        loaded: &Loaded,
        backends: &Backends,
    ) -> anyhow::Result<Option<Self>> {
        let Some(address) = arguments.http else {
            let unused = [
                (arguments.http_token_file.is_some(), "--http-token-file"),
                (!arguments.http_host.is_empty(), "--http-host"),
            ];
            if let Some((_, name)) = unused.iter().find(|(given, _)| *given) {
                bail!("{name} does nothing without --http");
            }
            return Ok(None);
        };
        let token = token(arguments)?;
        let hosts = arguments.http_host.clone();
        let server =
            Server::bind(ServerOptions { address, token, hosts }).await.context("cannot serve HTTP")?;
        let registry = Registry::default();
        if !registry.install() {
            tracing::warn!("something else counts already: /metrics and the page stay empty");
        }
        tracing::info!("serving http://{}/", server.address());
        if !address.ip().is_loopback() {
            tracing::warn!(
                "HTTP is open to the network: whoever reaches it sees the pipeline's keys and errors"
            );
        }
        let source = Arc::new(Databases::of(loaded, backends)?);
        Ok(Some(Self { server, registry, source }))
    }

    /// Serves beside the pipeline until the returned token is cancelled. `stop` is what stops the pipeline.
    pub(crate) fn serve(
        self,
        orchestrator: &mut Orchestrator,
        stop: &CancellationToken,
    ) -> CancellationToken {
        let graph = Graph {
            inputs: orchestrator.input_ids().to_vec(),
            processes: orchestrator.process_ids().to_vec(),
            links: orchestrator.links().to_vec(),
        };
        let watch = Watch::new(graph, self.registry, self.source, stop.clone());
        let mut errors = orchestrator.errors();
        let (heard, ended) = (Arc::clone(&watch), CancellationToken::new());
        tokio::spawn(async move {
            while let Some(error) = errors.recv().await {
                hear(&heard, error);
            }
        });
        let (watching, over) = (Arc::clone(&watch), ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = watching.run() => {}
                () = over.cancelled() => {}
            }
        });
        tokio::spawn(self.server.serve(watch, ended.clone()));
        ended
    }
}

/// An address as people write it: a bare port is one of this machine alone.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let wrong = || "write a port such as 9090, or an address with a port such as 0.0.0.0:9090".to_owned();
    text.to_socket_addrs().map_err(|_| wrong())?.next().ok_or_else(wrong)
}

fn token(arguments: &Run) -> anyhow::Result<Option<SecretString>> {
    let (text, from) = match &arguments.http_token_file {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            (text.trim().to_owned(), file.display().to_string())
        }
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(text) if !text.is_empty() => (text, TOKEN_VARIABLE.to_owned()),
            _ => return Ok(None),
        },
    };
    if text.len() < SHORTEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{from}: the token must be {SHORTEST_TOKEN} or more visible ASCII characters, without spaces");
    }
    Ok(Some(SecretString::from(text)))
}

fn hear(watch: &Watch, error: OrchestratorError) {
    match error {
        OrchestratorError::InputFailed { input, source, .. } => {
            watch.input_failed(&input, &format!("{:#}", anyhow::Error::new(source)));
        }
        OrchestratorError::InputPanicked { input, message, .. } => watch.input_failed(&input, &message),
        OrchestratorError::ProcessFailed { process, logs, source, .. } => {
            let said = logs.last().cloned().unwrap_or_else(|| format!("{:#}", anyhow::Error::new(source)));
            watch.process_failed(&process, &said);
        }
        _ => {}
    }
}

/// The databases of a pipeline's inputs.
struct Databases {
    inputs: HashMap<String, Database>,
}

struct Database {
    config: InputConfig,
    reader: Mutex<StatusReader>,
}

impl Databases {
    fn of(loaded: &Loaded, backends: &Backends) -> anyhow::Result<Self> {
        let leases = backends.leases(loaded)?;
        let mut inputs = HashMap::new();
        for section in postgres_inputs(&loaded.pipeline) {
            let config = section.config.clone();
            let reader = Mutex::new(StatusReader::new(&config, leases.manager(&config)?)?);
            inputs.insert(Names::new(&config.name).id, Database { config, reader });
        }
        Ok(Self { inputs })
    }

    fn config(&self, input: &str) -> Result<&InputConfig, SourceError> {
        let none = || SourceError("this input keeps nothing in a database".to_owned());
        self.inputs.get(input).map(|database| &database.config).ok_or_else(none)
    }
}

fn told(error: dapper_postgres::PostgresError) -> SourceError {
    SourceError(format!("{:#}", anyhow::Error::new(error)))
}

#[async_trait]
impl Source for Databases {
    async fn observe(&self, input: &str) -> Result<Option<Observation>, SourceError> {
        let Some(database) = self.inputs.get(input) else { return Ok(None) };
        let status = database.reader.lock().await.look().await;
        // The lock store counts: a standby that does not reach it could not take over.
        if status.cursor.is_none() || status.state == State::Unreachable {
            return Err(SourceError(status.reason));
        }
        Ok(Some(observation(&status)))
    }

    async fn letters(&self, input: &str, limit: u32) -> Result<(Vec<Letter>, Vec<Letter>), SourceError> {
        let config = self.config(input)?;
        let filter = DeadLetterFilter::default();
        let (parked, dead) = tokio::join!(parked_events(config, limit), dead_letters(config, &filter, limit));
        let parked = parked.map_err(told)?.into_iter().map(|event| parked_letter(input, event));
        let dead = dead.map_err(told)?.letters.into_iter().map(|letter| Letter {
            input: input.to_owned(),
            number: letter.number,
            process: letter.process,
            location: letter.location,
            key: letter.id,
            tries: letter.tries,
            since: letter.died_at,
            next: None,
            behind: 0,
            error: letter.error,
        });
        Ok((parked.collect(), dead.collect()))
    }

    async fn act(&self, action: Action, kind: Kind, input: &str, number: i64) -> Result<u64, SourceError> {
        let config = self.config(input)?;
        let filter = DeadLetterFilter { number: Some(number), ..DeadLetterFilter::default() };
        if (action, kind) == (Action::Discard, Kind::Parked) {
            return Err(SourceError("a parked event can't be discarded".to_owned()));
        }
        let act = async {
            match (kind, action) {
                (Kind::Parked, _) => retry_parked_event(config, number).await,
                (Kind::Dead, Action::Retry) => retry_dead_letters(config, &filter).await,
                (Kind::Dead, Action::Discard) => discard_dead_letters(config, &filter).await,
            }
        };
        // Whoever has the token is not known by name.
        let who = format!("the page of {}", operator());
        operated_by(who, act).await.map_err(told)
    }
}

fn observation(status: &Status) -> Observation {
    let (cursor, lag) = (status.cursor, status.lag.unwrap_or_default());
    Observation {
        token: cursor.map_or(0, |cursor| cursor.token),
        handled: cursor.map_or(0, |cursor| cursor.handled),
        lag_changes: lag.changes,
        lag_seconds: lag.seconds,
        parked_keys: status.parked.as_ref().map_or(0, |parked| parked.keys.count),
        dead_letters: status.dead_letters.map_or(0, |dead| dead.letters.count),
        missed: status.missed.unwrap_or_default(),
        paused: !status.pauses.is_empty(),
        status: serde_json::to_value(status).unwrap_or_default(),
    }
}

fn parked_letter(input: &str, event: ParkedEvent) -> Letter {
    Letter {
        input: input.to_owned(),
        number: event.number,
        process: event.process,
        location: event.location,
        key: event.id,
        tries: event.tries,
        since: event.parked_at,
        next: Some(event.ready_at),
        behind: event.behind,
        error: event.error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_this_machines_alone() {
        for (text, address) in [
            ("9090", "127.0.0.1:9090"),
            (":9090", "127.0.0.1:9090"),
            ("0.0.0.0:9090", "0.0.0.0:9090"),
            ("[::]:1", "[::]:1"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), address, "{text}");
        }
        for wrong in ["", "99999", "127.0.0.1", "[::1", "x y:1"] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
    }
}
