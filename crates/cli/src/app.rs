//! A program with commands.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use dapper_core::{Input, InputConfig, InputError, Process, ProcessConfig, ProcessError};
use futures::future::BoxFuture;

use crate::arguments::{Arguments, Command};
use crate::backends::Backends;
use crate::locks::LockBackend;
use crate::{commands, logging};

/// The program `dapper`, with what you add to it.
pub struct App {
    backends: Backends,
}

impl App {
    /// `dapper` as it is.
    #[must_use]
    pub fn new() -> Self {
        Self { backends: Backends::built_in() }
    }

    /// Adds a lock backend, for `backend = "name"` in `[lock]`, in place of an earlier one of that name.
    #[must_use]
    pub fn lock_backend(mut self, name: &'static str, backend: LockBackend) -> Self {
        self.backends.locks.retain(|(other, _)| *other != name);
        self.backends.locks.push((name, backend));
        self
    }

    /// Adds a type of input, which takes `keys` besides `name`, `type` and `operations`; `connection_string` is required
    /// where it is among them. `new` is not called for `check`.
    ///
    /// # Panics
    /// When `kind` is built in: its keys and checks are its own.
    #[must_use]
    pub fn input<F>(mut self, kind: &'static str, keys: &'static [&'static str], new: F) -> Self
    where
        F: Fn(InputConfig) -> BoxFuture<'static, Result<Arc<dyn Input>, InputError>> + Send + Sync + 'static,
    {
        let taken = self.backends.input_types().iter().any(|(other, _)| *other == kind);
        assert!(!taken, "there is a type of input {kind:?} already");
        self.backends.inputs.push((kind, keys, Arc::new(new)));
        self
    }

    /// Adds a type of process. `new` is called for `check`, too: it looks at the configuration and reaches out to nothing.
    ///
    /// # Panics
    /// When `kind` is there already.
    #[must_use]
    pub fn process<F>(mut self, kind: &'static str, new: F) -> Self
    where
        F: Fn(ProcessConfig) -> Result<Arc<dyn Process>, ProcessError> + Send + Sync + 'static,
    {
        let taken = self.backends.process_types().contains(&kind);
        assert!(!taken, "there is a type of process {kind:?} already");
        self.backends.processes.push((kind, Arc::new(new)));
        self
    }

    /// Does what the command line asks for; an error is one line on standard error.
    #[must_use]
    pub fn main(self) -> ExitCode {
        let arguments = Arguments::parse();
        logging::start(arguments.log_format, arguments.log_level);
        match self.run(arguments.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let line = format!("{error:#}").replace(['\n', '\r'], " ");
                // There is nobody to tell when standard error is closed.
                let _ = writeln!(std::io::stderr(), "error: {line}");
                ExitCode::FAILURE
            }
        }
    }

    fn run(&self, command: Command) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(commands::run(command, &self.backends));
        // What still blocks, such as a name that is being looked up, must not hold up the end.
        runtime.shutdown_background();
        result
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.backends.locks.iter().map(|(name, _)| *name).collect();
        f.debug_struct("App")
            .field("lock_backends", &names)
            .field("input_types", &self.backends.input_types())
            .field("process_types", &self.backends.process_types())
            .finish()
    }
}
