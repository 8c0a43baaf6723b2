//! The process of type `log`: writes events down as they are.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use dapper_core::{Event, Process, ProcessConfig, ProcessError, ProcessStatus, Registry};
use tokio::sync::{mpsc, oneshot};

/// Lines that may wait for the writer.
const LINES_AHEAD: usize = 64;

/// Writes each event as one line of JSON, to standard output unless told otherwise.
///
/// A thread of its own does the writing, so that a reader who is slow or gone never holds up anything but this
/// process. An event counts as handled once its line is written and flushed.
pub struct LogProcess {
    id: String,
    lines: mpsc::Sender<Line>,
}

struct Line {
    text: String,
    written: oneshot::Sender<io::Result<()>>,
}

impl LogProcess {
    /// Writes to standard output, a whole line at a time.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self::to(id, io::stdout())
    }

    /// Writes to `writer`.
    #[must_use]
    pub fn to(id: impl Into<String>, mut writer: impl Write + Send + 'static) -> Self {
        let (lines, mut queue) = mpsc::channel::<Line>(LINES_AHEAD);
        // It ends with the process it belongs to: the queue closes.
        thread::spawn(move || {
            while let Some(line) = queue.blocking_recv() {
                let result = writer.write_all(line.text.as_bytes()).and_then(|()| writer.flush());
                // Whoever asked may have been stopped meanwhile.
                let _ = line.written.send(result);
            }
        });
        Self { id: id.into(), lines }
    }

    /// Makes one from configuration; it takes no settings.
    ///
    /// # Errors
    /// When the execution context is not empty.
    pub fn from_config(config: &ProcessConfig) -> Result<Self, ProcessError> {
        if let Some(key) = config.execution_context.keys().next() {
            return Err(ProcessError::Config {
                process: config.name.clone(),
                key: Some(key.clone()),
                reason: format!("a process of type \"log\" takes no {key:?}"),
            });
        }
        Ok(Self::new(&config.name))
    }
}

#[async_trait]
impl Process for LogProcess {
    fn id(&self) -> &str {
        &self.id
    }

    async fn run(&self, event: &Event) -> Result<ProcessStatus, ProcessError> {
        let mut text = event.to_json();
        text.push('\n');
        let (written, answer) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the writer has ended");
        let result = match self.lines.send(Line { text, written }).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        Ok(match result {
            Ok(()) => ProcessStatus::success(&self.id),
            Err(error) => ProcessStatus::fail(&self.id, format!("cannot write the event: {error}")),
        })
    }
}

impl fmt::Debug for LogProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogProcess").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Adds the process types of this crate: `log`.
pub fn register(registry: &mut Registry) {
    registry.register_process("log", |config| {
        LogProcess::from_config(&config).map(|process| Arc::new(process) as Arc<dyn Process>)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapper_core::{Operation, ProcessExitStatus};
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_event_is_one_line() {
        let out = Shared::default();
        let process = LogProcess::to("log", out.clone());
        for id in ["1", "two\nlines"] {
            let event = Event::new("orders", Operation::Create, id, "i");
            assert_eq!(process.run(&event).await.unwrap(), ProcessStatus::success("log"));
        }
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"location":"orders","operation":"create","id":"1","trigger":"i"}"#,
                "\n",
                r#"{"location":"orders","operation":"create","id":"two\nlines","trigger":"i"}"#,
                "\n"
            )
        );
    }

    #[tokio::test]
    async fn a_broken_pipe_is_a_failure() {
        let process = LogProcess::to("log", Broken);
        let status = process.run(&Event::new("orders", Operation::Create, "1", "i")).await.unwrap();
        assert_eq!(status.status, ProcessExitStatus::Fail);
        assert_eq!(status.logs, ["cannot write the event: broken pipe"]);
    }

    #[test]
    fn it_is_made_by_type_and_takes_no_settings() {
        let mut registry = Registry::new();
        register(&mut registry);
        let mut config = ProcessConfig { name: "say".into(), kind: "log".into(), ..Default::default() };
        assert_eq!(registry.process(config.clone()).unwrap().id(), "say");
        config.execution_context.insert("url".into(), "canary".into());
        let error = registry.process(config).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, r#"process "say": a process of type "log" takes no "url""#);
    }
}
