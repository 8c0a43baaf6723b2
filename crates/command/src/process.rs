//! The process itself.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus, Registry};
use dapper_program::{EVENT_VARIABLE, Lines, Log, Tail, event_variable};
use tokio::process::Command;
use tokio::time::timeout;

use crate::child::Running;
use crate::error::CommandError;
use crate::settings::Settings;

/// The type under which [`register`] registers the process.
pub const KIND: &str = "command";

/// Runs a program for each event; see the documentation of the crate.
pub struct CommandProcess {
    name: String,
    settings: Settings,
    log: Log,
}

/// Adds the process to `registry`, under type [`KIND`].
pub fn register(registry: &mut Registry) {
    registry.register_process(KIND, |config| {
        let name = config.name.clone();
        match CommandProcess::new(config) {
            Ok(process) => Ok(Arc::new(process)),
            Err(error) => Err(error.into_config_error(name)),
        }
    });
}

/// Looks for the program as the process would, and says where it is. Runs nothing.
///
/// # Errors
/// When the configuration can't be used, or there is no such program.
pub fn probe(config: &ProcessConfig) -> Result<PathBuf, CommandError> {
    let settings = Settings::read(config)?;
    let path = settings.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.into());
    let kept = settings.keep_env.iter().any(|name| name == "PATH");
    let path = path.or_else(|| env::var_os("PATH").filter(|_| kept)).unwrap_or_default();
    find(&settings.program, settings.directory.as_deref(), &path).ok_or_else(|| CommandError::Start {
        program: settings.program,
        source: io::Error::new(io::ErrorKind::NotFound, "there is no such program"),
    })
}

impl CommandProcess {
    /// Makes the process; it runs nothing.
    ///
    /// # Errors
    /// When the execution context is not as the documentation of the crate has it.
    pub fn new(config: ProcessConfig) -> Result<Self, CommandError> {
        let settings = Settings::read(&config)?;
        let log = Log::new(&config.name, settings.env.iter().map(|(_, value)| value.as_str()));
        Ok(Self { name: config.name, settings, log })
    }

    async fn call(&self, event: &Event) -> Result<ProcessStatus, CommandError> {
        let program = || self.settings.program.clone();
        let mut event = event.to_json();
        let mut command = self.command(&event);
        let running = Running::start(&mut command)
            .map_err(|source| CommandError::Start { program: program(), source })?;
        drop(command);
        event.push('\n');
        let tail = Tail::default();
        let (out, err) =
            (Lines::new(&self.log, "stdout", None), Lines::new(&self.log, "stderr", Some(&tail)));
        let ended = timeout(self.settings.timeout, running.run(event.as_bytes(), out, err)).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(ProcessStatus::success(&self.name)),
            Ok(Ok(status)) => {
                let said = format!("{} {}{}", self.settings.program, how(status), tail.said());
                Ok(ProcessStatus::fail(&self.name, said))
            }
            Ok(Err(source)) => Err(CommandError::Wait { program: program(), source }),
            Err(_) => Err(CommandError::Timeout {
                program: program(),
                timeout: self.settings.timeout,
                said: tail.said(),
            }),
        }
    }

    fn command(&self, event: &str) -> Command {
        let settings = &self.settings;
        let mut command = Command::new(&settings.program);
        command.args(&settings.arguments).env_clear();
        for name in &settings.keep_env {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(settings.env.iter().map(|(name, value)| (name, value)));
        if let Some(event) = event_variable(event) {
            command.env(EVENT_VARIABLE, event);
        }
        if let Some(directory) = &settings.directory {
            command.current_dir(directory);
        }
        command
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Where the program is.
fn find(program: &str, directory: Option<&Path>, path: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        let place = directory.map_or_else(|| PathBuf::from(program), |directory| directory.join(program));
        return Some(place).filter(|place| is_program(place));
    }
    env::split_paths(path).map(|folder| folder.join(program)).find(|place| is_program(place))
}

#[async_trait]
impl Process for CommandProcess {
    fn id(&self) -> &str {
        &self.name
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        self.call(event)
            .await
            .map_err(|error| ProcessError::Failed { process: self.name.clone(), source: error.into() })
    }
}

impl fmt::Debug for CommandProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandProcess")
            .field("name", &self.name)
            .field("program", &self.settings.program)
            .field("timeout", &self.settings.timeout)
            .finish_non_exhaustive()
    }
}
