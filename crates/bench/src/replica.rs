//! dapper as it is shipped, with one more type of process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus};
use dapper_orchestrator_cli::App;

use crate::probe::Probe;

/// Type `probe`: does nothing, or `work_us` of asynchronous work.
struct Counter {
    name: String,
    work: Option<Duration>,
    probe: Arc<Probe>,
}

#[async_trait]
impl Process for Counter {
    fn id(&self) -> &str {
        &self.name
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        if let Some(work) = self.work {
            tokio::time::sleep(work).await;
        }
        self.probe.hit(&event.id);
        Ok(ProcessStatus::default())
    }
}

/// The program: `dapper` with what it is given on the command line.
pub(crate) fn main() -> ExitCode {
    let probe = Arc::new(Probe::default());
    probe.serve();
    let new = move |config: ProcessConfig| -> Result<Arc<dyn Process>, ProcessError> {
        let micros = config.execution_context.get("work_us").and_then(|text| text.parse().ok());
        let work = micros.map(Duration::from_micros).filter(|work| !work.is_zero());
        Ok(Arc::new(Counter { name: config.name, work, probe: Arc::clone(&probe) }))
    };
    App::new().process("probe", new).main()
}
