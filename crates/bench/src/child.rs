//! A reader as a process of its own, so that what it takes can be told from what the driver takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a reader may take for what it is asked, a drain of millions aside.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const DRAIN_LIMIT: Duration = Duration::from_secs(900);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running reader that answers the commands of a [`Probe`](crate::probe::Probe).
pub(crate) struct Child {
    process: tokio::process::Child,
    stdin: Option<ChildStdin>,
    answers: Option<Lines<BufReader<ChildStdout>>>,
}

impl Child {
    /// Starts a program; what it logs is on our own standard error.
    pub(crate) fn start(
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let stdin = process.stdin.take();
        let answers = process.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Self { process, stdin, answers })
    }

    /// Starts a program that answers nothing and whose output nobody wants.
    pub(crate) fn start_mute(program: &Path, arguments: &[OsString]) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { process, stdin: None, answers: None })
    }

    /// Whether it can be asked.
    pub(crate) fn answers(&self) -> bool {
        self.answers.is_some()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    pub(crate) async fn ask(&mut self, command: &str) -> Result<Value> {
        let asked = timeout(ANSWER_LIMIT, self.ask_unbounded(command)).await;
        asked.with_context(|| format!("the reader did not answer {command:?} in time"))?
    }

    /// The same for what may take as long as a drain.
    pub(crate) async fn ask_long(&mut self, command: &str) -> Result<Value> {
        let asked = timeout(DRAIN_LIMIT, self.ask_unbounded(command)).await;
        asked.with_context(|| format!("the reader did not answer {command:?} in time"))?
    }

    async fn ask_unbounded(&mut self, command: &str) -> Result<Value> {
        let (Some(stdin), Some(answers)) = (&mut self.stdin, &mut self.answers) else {
            bail!("this reader answers nothing");
        };
        stdin.write_all(format!("{command}\n").as_bytes()).await.context("the reader ended")?;
        let line = answers.next_line().await?.context("the reader ended")?;
        serde_json::from_str(&line).with_context(|| format!("the reader said {line:?}"))
    }

    /// A number out of the answer.
    pub(crate) async fn number(&mut self, command: &str, key: &str) -> Result<f64> {
        let answer = self.ask(command).await?;
        answer[key].as_f64().with_context(|| format!("{command:?} was answered by {answer}"))
    }

    /// Events that it was given.
    pub(crate) async fn events(&mut self) -> Result<u64> {
        let answer = self.ask("events").await?;
        answer["events"].as_u64().with_context(|| format!("\"events\" was answered by {answer}"))
    }

    /// The rate at which the events after the first `from` come until there are `to` in all, from the first of them on.
    pub(crate) async fn rate(&mut self, from: u64, to: u64) -> Result<f64> {
        let answer = self.ask_long(&format!("drain {from} {to}")).await?;
        let figure =
            |key: &str| answer[key].as_f64().with_context(|| format!("a drain was answered by {answer}"));
        Ok(figure("events")? / figure("seconds")?)
    }

    /// Ends it in order; kills it when it does not end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot stop a reader")?;
        }
        if timeout(STOP_LIMIT, self.process.wait()).await.is_err() {
            self.process.kill().await.context("cannot kill a reader")?;
        }
        Ok(())
    }
}

/// A program that was built beside this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not there: build the package with all its programs", path.display());
    }
    Ok(path)
}
