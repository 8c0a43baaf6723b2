//! The process itself.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus, Registry};

use crate::WebhookError;
use crate::batch::Batcher;
use crate::caller::{Answer, Caller, Message};
use crate::settings::Settings;

/// The type under which [`register`] registers the process.
pub const KIND: &str = "webhook";

/// Sends each event to an HTTP endpoint; see the documentation of the crate.
pub struct WebhookProcess {
    name: String,
    caller: Arc<Caller>,
    batcher: Option<Batcher>,
}

/// Adds the process to `registry`, under type [`KIND`].
pub fn register(registry: &mut Registry) {
    registry.register_process(KIND, |config| {
        let name = config.name.clone();
        match WebhookProcess::new(config) {
            Ok(process) => Ok(Arc::new(process)),
            Err(error) => Err(error.into_config_error(name)),
        }
    });
}

impl WebhookProcess {
    /// Makes the process; it does not call the endpoint.
    ///
    /// # Errors
    /// When the execution context is not as the documentation of the crate has it, or no client can be set up.
    pub fn new(config: ProcessConfig) -> Result<Self, WebhookError> {
        let settings = Settings::read(&config)?;
        let batch = settings.batch;
        let caller = Arc::new(Caller::new(settings)?);
        let batcher = batch.map(|batch| Batcher::new(Arc::clone(&caller), batch));
        Ok(Self { name: config.name, caller, batcher })
    }

    async fn call(&self, event: &Event) -> Result<Answer, WebhookError> {
        match &self.batcher {
            Some(batcher) => batcher.call(event).await,
            None => {
                let _turn = self.caller.turn().await;
                self.caller.call(Message::of(event)).await
            }
        }
    }
}

#[async_trait]
impl Process for WebhookProcess {
    fn id(&self) -> &str {
        &self.name
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        let process = || self.name.clone();
        match self.call(event).await {
            Ok(Answer::Handled) => Ok(ProcessStatus::success(&self.name)),
            Ok(Answer::Refused(said)) => Ok(ProcessStatus::fail(&self.name, said)),
            Err(error) => Err(match error.pause() {
                Some(after) => ProcessError::RetryAfter { process: process(), after, source: error.into() },
                None => ProcessError::Failed { process: process(), source: error.into() },
            }),
        }
    }
}

impl fmt::Debug for WebhookProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookProcess")
            .field("name", &self.name)
            .field("endpoint", &self.caller.endpoint.shown())
            .field("timeout", &self.caller.timeout)
            .finish_non_exhaustive()
    }
}
