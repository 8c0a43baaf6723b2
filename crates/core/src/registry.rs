//! Constructors by type name, so that pipelines can be built from configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{Input, InputConfig, InputError, Process, ProcessConfig, ProcessError};

/// Makes an input; it may reach out to the source to see that it can.
pub type NewInputFunc =
    Arc<dyn Fn(InputConfig) -> BoxFuture<'static, Result<Arc<dyn Input>, InputError>> + Send + Sync>;

/// Makes a process.
pub type NewProcessFunc = Arc<dyn Fn(ProcessConfig) -> Result<Arc<dyn Process>, ProcessError> + Send + Sync>;

/// Maps the `type` of a configuration to the constructor for it.
#[derive(Clone, Default)]
pub struct Registry {
    inputs: BTreeMap<String, NewInputFunc>,
    processes: BTreeMap<String, NewProcessFunc>,
}

/// Why a configuration became nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No constructor has that name.
    #[error("{what} {name:?} has the unknown type {kind:?}; known: {}", known.join(", "))]
    UnknownType {
        /// `"input"` or `"process"`.
        what: &'static str,
        /// The name of what was to be made.
        name: String,
        /// The type that was asked for.
        kind: String,
        /// The types there are.
        known: Vec<String>,
    },
    /// The constructor of the input refused.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The constructor of the process refused.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl Registry {
    /// A registry without any type.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the constructor for inputs of type `kind`, in place of an earlier one.
    pub fn register_input<F>(&mut self, kind: impl Into<String>, new: F) -> &mut Self
    where
        F: Fn(InputConfig) -> BoxFuture<'static, Result<Arc<dyn Input>, InputError>> + Send + Sync + 'static,
    {
        self.inputs.insert(kind.into(), Arc::new(new));
        self
    }

    /// Adds the constructor for processes of type `kind`, in place of an earlier one.
    pub fn register_process<F>(&mut self, kind: impl Into<String>, new: F) -> &mut Self
    where
        F: Fn(ProcessConfig) -> Result<Arc<dyn Process>, ProcessError> + Send + Sync + 'static,
    {
        self.processes.insert(kind.into(), Arc::new(new));
        self
    }

    /// Makes the input that `config` asks for.
    ///
    /// # Errors
    /// An unknown type, or what the constructor says.
    pub async fn input(&self, config: InputConfig) -> Result<Arc<dyn Input>, RegistryError> {
        let new = self.inputs.get(&config.kind).ok_or_else(|| RegistryError::UnknownType {
            what: "input",
            name: config.name.clone(),
            kind: config.kind.clone(),
            known: self.inputs.keys().cloned().collect(),
        })?;
        Ok(new(config).await?)
    }

    /// Makes the process that `config` asks for.
    ///
    /// # Errors
    /// An unknown type, or what the constructor says.
    pub fn process(&self, config: ProcessConfig) -> Result<Arc<dyn Process>, RegistryError> {
        let new = self.processes.get(&config.kind).ok_or_else(|| RegistryError::UnknownType {
            what: "process",
            name: config.name.clone(),
            kind: config.kind.clone(),
            known: self.processes.keys().cloned().collect(),
        })?;
        Ok(new(config)?)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("inputs", &self.inputs.keys())
            .field("processes", &self.processes.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, ProcessStatus};

    struct Silent;

    #[async_trait::async_trait]
    impl Process for Silent {
        fn id(&self) -> &str {
            "silent"
        }
        async fn run(&self, _event: &Event) -> Result<ProcessStatus, ProcessError> {
            Ok(ProcessStatus::success("silent"))
        }
    }

    #[test]
    fn processes_are_made_by_type() {
        let mut registry = Registry::new();
        registry.register_process("silent", |_| Ok(Arc::new(Silent)));
        let config = |kind: &str| ProcessConfig { kind: kind.into(), ..Default::default() };
        assert_eq!(registry.process(config("silent")).map(|p| p.id().to_owned()).ok(), Some("silent".into()));
        let error = registry.process(config("loud")).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("\"loud\"; known: silent"), "{error}");
    }

    #[tokio::test]
    async fn unknown_input_types_are_named() {
        let error = Registry::new().input(InputConfig { kind: "x".into(), ..Default::default() }).await;
        assert!(matches!(error, Err(RegistryError::UnknownType { what: "input", .. })));
    }
}
