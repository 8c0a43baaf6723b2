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
        let started = logging::start(arguments.log_format, arguments.log_level);
        #[cfg(feature = "failpoints")]
        failpoints();
        match started.and_then(|logging| {
            let outcome = self.run(arguments.command);
            drop(logging);
            outcome
        }) {
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
        let work = commands::run(command, &self.backends);
        let result = runtime.block_on(dapper_postgres::operated_by(operator(), work));
        // What still blocks, such as a name that is being looked up, must not hold up the end.
        runtime.shutdown_background();
        result
    }
}

/// Who runs this program, as the operating system says: for the records, and no proof of anything.
pub(crate) fn operator() -> String {
    let unknown = |_| "unknown".to_owned();
    format!("{}@{}", whoami::username().unwrap_or_else(unknown), whoami::hostname().unwrap_or_else(unknown))
}

/// Takes up what the tests of dapper want broken. Nothing of this is in an ordinary build.
#[cfg(feature = "failpoints")]
fn failpoints() {
    tracing::warn!("this program was built to be broken by tests; use it for nothing else");
    if let Ok(text) = std::env::var("DAPPER_FAILPOINTS")
        && let Err(error) = dapper_failpoints::configure(&text)
    {
        tracing::error!("DAPPER_FAILPOINTS: {error}");
        std::process::exit(1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use async_trait::async_trait;
    use dapper_core::{CancellationToken, Event, EventSink, Operation, ProcessStatus};
    use dapper_lock::MemoryStore;
    use tokio::sync::mpsc;

    use crate::assembly::{Limits, Loaded};
    use crate::locks::LockConfigError;
    use crate::pipeline::{Source, read};

    const PIPELINE: &str = "[lock]\nbackend = \"mine\"\nplace = \"here\"\n\
        [[inputs]]\nname = \"once-input\"\ntype = \"once\"\nid = \"42\"\n\
        [[processes]]\nname = \"tell\"\ntype = \"channel\"\n\
        [[links]]\ninput = \"once-input\"\nprocess = \"tell\"\n";

    /// An input with one event.
    struct Once(InputConfig);

    #[async_trait]
    impl Input for Once {
        fn id(&self) -> &str {
            &self.0.name
        }
        async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
            let id = self.0.options["id"].as_str().unwrap_or_default();
            let event = Event::new("orders", Operation::Create, id, self.id());
            let receipt = sink.send_events(vec![event]).await;
            stop.cancelled().await;
            drop(receipt);
            Ok(())
        }
    }

    /// A process that passes events on.
    struct Channel(mpsc::UnboundedSender<String>);

    #[async_trait]
    impl Process for Channel {
        fn id(&self) -> &str {
            "tell"
        }
        async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
            let _ = self.0.send(event.to_json());
            Ok(ProcessStatus::success("told"))
        }
    }

    fn app(told: mpsc::UnboundedSender<String>) -> App {
        let locks = LockBackend::new(&["place"], |config| match config.required_text("place")? {
            "here" => Ok(Arc::new(MemoryStore::new())),
            other => Err(LockConfigError::new("place", format!("there is no place {other:?}"))),
        });
        App::new()
            .lock_backend("mine", locks)
            .input("once", &["id"], |config| Box::pin(async { Ok(Arc::new(Once(config)) as Arc<dyn Input>) }))
            .process("channel", move |_| Ok(Arc::new(Channel(told.clone()))))
    }

    fn load(app: &App, text: &str) -> Result<Loaded, String> {
        let source = Source {
            file: "pipeline.toml",
            text,
            lookup: &|_| None,
            lock_backends: &app.backends.lock_backends(),
            input_types: &app.backends.input_types(),
            process_types: &app.backends.process_types(),
        };
        let pipeline = read(&source).map_err(|problem| problem.to_string())?;
        let loaded = Loaded { file: "pipeline.toml".into(), pipeline };
        app.backends.validate(&loaded).map_err(|problem| problem.to_string())?;
        Ok(loaded)
    }

    #[tokio::test]
    async fn what_is_added_is_named_in_a_file_and_runs() {
        let (sender, mut told) = mpsc::unbounded_channel();
        let app = app(sender);
        let loaded = load(&app, PIPELINE).unwrap();
        let registry = app.backends.registry(&loaded).unwrap();
        let inputs = loaded.inputs(&registry).await.unwrap();
        let limits = Limits { concurrency: 1, drain_deadline: Duration::from_secs(1) };
        let orchestrator = loaded.orchestrator(&registry, inputs, limits).unwrap();
        let stop = CancellationToken::new();
        let running = orchestrator.run(stop.clone());
        let (ran, event) = tokio::join!(running, async {
            let event = told.recv().await;
            stop.cancel();
            event
        });
        ran.unwrap();
        let event = event.unwrap();
        assert!(event.contains(r#""id":"42","trigger":"once-input""#), "{event}");
    }

    #[test]
    fn mistakes_in_what_is_added_are_told_like_all_others() {
        let app = app(mpsc::unbounded_channel().0);
        let said = |from: &str, to: &str| load(&app, &PIPELINE.replace(from, to)).map(|_| ()).unwrap_err();
        assert_eq!(said("\"here\"", "\"there\""), "pipeline.toml:3: there is no place \"there\"");
        assert_eq!(
            said("\"mine\"", "\"mime\""),
            "pipeline.toml:2: unknown lock backend \"mime\"; did you mean \"mine\"?"
        );
        assert_eq!(
            said("\"once\"", "\"ounce\""),
            "pipeline.toml:6: unknown type of input \"ounce\"; did you mean \"once\"?"
        );
        assert_eq!(
            said("\"channel\"", "\"chanel\""),
            "pipeline.toml:10: unknown type of process \"chanel\"; did you mean \"channel\"?"
        );
    }

    #[test]
    #[should_panic(expected = "there is a type of process \"webhook\" already")]
    fn what_is_built_in_is_not_replaced_by_mistake() {
        let _ = App::new().process("webhook", |_| unreachable!());
    }
}
