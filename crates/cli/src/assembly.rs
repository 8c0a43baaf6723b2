//! From what a pipeline file says to a graph that runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{
    CancellationToken, EventSink, Input, InputError, Process, ProcessError, Registry, RegistryError,
};
use dapper_orchestrator::{GraphWarning, Orchestrator};

use crate::pipeline::{CONNECTION_STRING, InputSection, Pipeline, Problem, ProcessSection, did_you_mean};

/// A pipeline and the name of the file it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) file: String,
    pub(crate) pipeline: Pipeline,
}

/// What the command line adds to a pipeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) concurrency: usize,
    pub(crate) drain_deadline: Duration,
}

impl Loaded {
    pub(crate) fn problem(&self, line: Option<usize>, reason: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), line, reason: reason.into() }
    }

    /// The input called `name`.
    pub(crate) fn input(&self, name: &str) -> Result<&InputSection, Problem> {
        let inputs = &self.pipeline.inputs;
        inputs.iter().find(|section| section.config.name == name).ok_or_else(|| {
            let hint = did_you_mean(name, inputs.iter().map(|section| section.config.name.as_str()));
            self.problem(None, format!("there is no input {name:?}{hint}"))
        })
    }

    /// Makes the inputs, which may reach out to their sources.
    pub(crate) async fn inputs(&self, registry: &Registry) -> anyhow::Result<Vec<Arc<dyn Input>>> {
        let mut inputs = Vec::new();
        for section in &self.pipeline.inputs {
            let made = registry.input(section.config.clone()).await;
            inputs.push(made.map_err(|error| self.input_error(section, error))?);
        }
        Ok(inputs)
    }

    /// Stand-ins for the inputs, for looking at the graph without reaching out.
    pub(crate) fn placeholders(&self) -> Vec<Arc<dyn Input>> {
        let names = self.pipeline.inputs.iter().map(|section| section.config.name.clone());
        names.map(|name| Arc::new(Placeholder { name }) as Arc<dyn Input>).collect()
    }

    /// Puts the graph together from `inputs`, which are in the order of the file.
    pub(crate) fn orchestrator(
        &self,
        registry: &Registry,
        inputs: Vec<Arc<dyn Input>>,
        limits: Limits,
    ) -> anyhow::Result<Orchestrator> {
        let mut builder =
            Orchestrator::builder().concurrency(limits.concurrency).drain_deadline(limits.drain_deadline);
        // Links go by the names in the file, the graph by the ids of what was made.
        let mut ids: HashMap<&str, String> = HashMap::new();
        for (section, input) in self.pipeline.inputs.iter().zip(inputs) {
            ids.insert(&section.config.name, input.id().to_owned());
            builder = builder.add_input(input);
        }
        for section in &self.pipeline.processes {
            let made = registry.process(section.config.clone());
            let process: Arc<dyn Process> = made.map_err(|error| self.process_error(section, error))?;
            ids.insert(&section.config.name, process.id().to_owned());
            builder = builder.add_process_with(process, section.policy);
        }
        for link in &self.pipeline.links {
            let id = |name: &String| ids.get(name.as_str()).unwrap_or(name).clone();
            builder = builder.add_filtered_link(id(&link.from), id(&link.to), link.filter.clone());
        }
        builder.build().map_err(|error| self.problem(None, error.to_string()).into())
    }

    /// What an input says of its configuration, in the line of the key at fault.
    pub(crate) fn input_problem(&self, section: &InputSection, error: &InputError) -> Problem {
        match error {
            InputError::Config { key, reason, .. } => {
                let reason = format!("input {:?}: {reason}", section.config.name);
                self.problem(section.lines.of(key.as_deref()), reason)
            }
            other => self.problem(section.lines.of(None), other.to_string()),
        }
    }

    fn input_error(&self, section: &InputSection, error: RegistryError) -> anyhow::Error {
        match error {
            RegistryError::Input(error @ InputError::Config { .. }) => {
                self.input_problem(section, &error).into()
            }
            // It could not do with what it found at its address.
            RegistryError::Input(error) => {
                let line = section.lines.of(Some(CONNECTION_STRING));
                anyhow::Error::new(error).context(self.problem(line, "cannot start this input"))
            }
            other => anyhow::Error::new(other)
                .context(self.problem(section.lines.of(None), "cannot start this input")),
        }
    }

    fn process_error(&self, section: &ProcessSection, error: RegistryError) -> anyhow::Error {
        match error {
            RegistryError::Process(ProcessError::Config { key, reason, .. }) => {
                let reason = format!("process {:?}: {reason}", section.config.name);
                self.problem(section.lines.of(key.as_deref()), reason).into()
            }
            other => anyhow::Error::new(other)
                .context(self.problem(section.name_line, "cannot start this process")),
        }
    }
}

/// What a warning means for the user.
pub(crate) fn explain(warning: &GraphWarning) -> String {
    match warning {
        GraphWarning::UnreachableProcess { process } => {
            format!("process {process:?} is never reached: no link leads to it from an input")
        }
        other => format!("{other:?}"),
    }
}

/// Takes the place of an input that is not to be made.
struct Placeholder {
    name: String,
}

#[async_trait]
impl Input for Placeholder {
    fn id(&self) -> &str {
        &self.name
    }
    async fn handle(&self, _sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
        stop.cancelled().await;
        Ok(())
    }
}
