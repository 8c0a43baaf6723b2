//! The process itself.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus, Registry};
use dapper_program::{EVENT_VARIABLE, Lines, Log, Tail, event_variable};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::engine::Engine;
use crate::error::ContainerError;
use crate::frames::Frames;
use crate::removal::Removal;
use crate::settings::{Pull, Settings};
use crate::sweep::Sweep;

/// The type under which [`register`] registers the process.
pub const KIND: &str = "container";

/// How long output is still read when the container has ended.
const AFTER_END: Duration = Duration::from_secs(2);
/// How long [`probe`] waits for the engine.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Runs a container for each event; see the documentation of the crate.
pub struct ContainerProcess {
    name: String,
    settings: Settings,
    log: Arc<Log>,
    engine: Engine,
    sweep: Sweep,
}

/// Adds the process to `registry`, under type [`KIND`].
pub fn register(registry: &mut Registry) {
    registry.register_process(KIND, |config| {
        let name = config.name.clone();
        match ContainerProcess::new(config) {
            Ok(process) => Ok(Arc::new(process)),
            Err(error) => Err(error.into_config_error(name)),
        }
    });
}

/// Asks the engine for its version, and whether it has the image where that is never pulled. Runs nothing.
///
/// # Errors
/// When the configuration can't be used, the engine can't be reached, or does not have the image.
pub async fn probe(config: &ProcessConfig) -> Result<String, ContainerError> {
    let ContainerProcess { engine, settings, .. } = ContainerProcess::new(config.clone())?;
    let look = async {
        let version = engine.version().await?;
        if settings.pull == Pull::Never {
            engine.look_at(&settings.image).await?;
        }
        Ok(version)
    };
    timeout(PROBE_LIMIT, look).await.unwrap_or_else(|late| {
        let socket = settings.socket.clone();
        Err(ContainerError::Engine { socket, task: "say its version", source: late.into() })
    })
}

impl ContainerProcess {
    /// Makes the process; it does not speak to the engine.
    ///
    /// # Errors
    /// When the execution context is not as the documentation of the crate has it, or no client can be set up.
    pub fn new(config: ProcessConfig) -> Result<Self, ContainerError> {
        let settings = Settings::read(&config)?;
        let log = Arc::new(Log::new(&config.name, settings.env.iter().map(|(_, value)| value.as_str())));
        let engine = Engine::new(&settings.socket, Arc::clone(&log))?;
        let sweep = Sweep::new(&config, settings.timeout);
        Ok(Self { name: config.name, settings, log, engine, sweep })
    }

    async fn call(&self, event: &Event) -> Result<ProcessStatus, ContainerError> {
        let json = event.to_json();
        let too_large = || ContainerError::EventTooLarge { bytes: json.len() };
        let config = self.config(event, event_variable(&json).ok_or_else(too_large)?);
        let tail = Tail::default();
        let lines = |stream, tail| Lines::new(&self.log, stream, tail);
        let frames = Frames::new(lines("stdout", None), lines("stderr", Some(&tail)));
        let image = || self.settings.image.name();
        match timeout(self.settings.timeout, self.run_container(event, &config, frames)).await {
            Ok(Ok(0)) => Ok(ProcessStatus::success(&self.name)),
            Ok(Ok(code)) => {
                let said = format!("{} exited with code {code}{}", image(), tail.said());
                Ok(ProcessStatus::fail(&self.name, said))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ContainerError::Timeout {
                image: image(),
                timeout: self.settings.timeout,
                said: tail.said(),
            }),
        }
    }

    /// Runs a container from its making to its removal; gives its exit code.
    async fn run_container(
        &self,
        event: &Event,
        config: &Value,
        frames: Frames<'_>,
    ) -> Result<i64, ContainerError> {
        let engine = &self.engine;
        self.sweep.before(event, engine).await?;
        if self.settings.pull == Pull::Always {
            engine.pull(&self.settings.image).await?;
        }
        // A name of our own: it can be removed even if the answer that it was made is lost.
        let name = format!("dapper-{:032x}", fastrand::u128(..));
        let removal = Removal::new(engine, &name);
        match engine.create(&name, config).await {
            Err(error) if error.is_missing() && self.settings.pull == Pull::Missing => {
                engine.pull(&self.settings.image).await?;
                engine.create(&name, config).await?;
            }
            other => other?,
        }
        engine.start(&name).await?;
        let mut logs = pin!(engine.logs(&name, frames));
        let mut wait = pin!(engine.wait(&name));
        let mut read = None;
        let code = loop {
            tokio::select! {
                code = &mut wait => break code?,
                end = &mut logs, if read.is_none() => read = Some(end),
            }
        };
        if read.is_none() {
            read = timeout(AFTER_END, logs).await.ok();
        }
        if let Some(Err(error)) = read {
            tracing::warn!(
                process = self.name,
                error = &error as &dyn std::error::Error,
                "output is missing"
            );
        }
        if let Err(error) = removal.now(engine).await {
            // The event is handled or not all the same; a sweep will find it.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(process = self.name, error, "a container could not be removed");
        }
        Ok(code)
    }

    fn config(&self, event: &Event, variable: &str) -> Value {
        let settings = &self.settings;
        let env = settings.env.iter().map(|(name, value)| format!("{name}={value}"));
        let env: Vec<String> = env.chain([format!("{EVENT_VARIABLE}={variable}")]).collect();
        // What is printed is read while it runs; the engine need not keep more of it. The driver is named, since not
        // every one can be read from.
        let log = json!({ "Type": "json-file", "Config": { "max-size": "10m", "max-file": "1" } });
        let mut config = json!({
            "Image": settings.image.name(),
            "Env": env,
            "Labels": self.sweep.labels(event),
            "HostConfig": { "LogConfig": log },
        });
        if !settings.command.is_empty() {
            config["Cmd"] = json!(settings.command);
        }
        if let Some(network) = &settings.network {
            config["HostConfig"]["NetworkMode"] = json!(network);
        }
        config
    }
}

#[async_trait]
impl Process for ContainerProcess {
    fn id(&self) -> &str {
        &self.name
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        self.call(event)
            .await
            .map_err(|error| ProcessError::Failed { process: self.name.clone(), source: error.into() })
    }
}

impl fmt::Debug for ContainerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerProcess")
            .field("name", &self.name)
            .field("image", &self.settings.image)
            .field("socket", &self.settings.socket)
            .field("timeout", &self.settings.timeout)
            .finish_non_exhaustive()
    }
}
