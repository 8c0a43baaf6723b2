//! `dapper` with a process that the program dies of, for tests: type `poison` fails on the event with key `id`, and from the
//! attempt `abort_from` on takes the whole program with it. All others it prints.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus};
use dapper_orchestrator_cli::App;

struct Poison {
    name: String,
    key: String,
    abort_from: u32,
}

impl Poison {
    fn make(config: &ProcessConfig) -> Result<Arc<dyn Process>, ProcessError> {
        let value = |key: &str| config.execution_context.get(key).cloned().unwrap_or_default();
        let abort_from = value("abort_from").parse().unwrap_or(1);
        Ok(Arc::new(Self { name: config.name.clone(), key: value("id"), abort_from }))
    }
}

#[async_trait]
impl Process for Poison {
    fn id(&self) -> &str {
        &self.name
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        if event.id == self.key && event.operation == dapper_core::Operation::Create {
            if event.attempt >= Some(self.abort_from) {
                std::process::abort();
            }
            return Ok(ProcessStatus::fail(&self.name, "not yet"));
        }
        // One write, so that the lines of several replicas do not run into each other.
        let line = format!("{}\n", event.to_json());
        let written = std::io::stdout().lock().write_all(line.as_bytes());
        written.map_err(|error| ProcessError::Failed { process: self.name.clone(), source: error.into() })?;
        Ok(ProcessStatus::success(&self.name))
    }
}

fn main() -> ExitCode {
    App::new().process("poison", |config| Poison::make(&config)).main()
}
