//! What each command does.

mod accept_lock_store;
mod audit;
mod check;
mod dead_letters;
mod doctor;
mod graph;
mod install;
mod pause;
mod replay;
mod skip;
mod status;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use dapper_connect::Environment;

use crate::arguments::{Command, Rebase, Run, Uninstall};
use crate::assembly::{Limits, Loaded, explain};
use crate::backends::{self, Backends};
use crate::http::Http;
use crate::pipeline::{CONNECTION_STRING, Source, read};
use crate::stop;

pub(crate) async fn run(command: Command, backends: &Backends) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run_pipeline(arguments, backends).await,
        Command::Check(arguments) => check::check(&arguments, backends).await,
        Command::Doctor(arguments) => doctor::doctor(&arguments, backends).await,
        Command::Status(arguments) => status::run(&arguments, backends).await,
        Command::Pause(arguments) => pause::pause(&arguments, backends).await,
        Command::Resume(arguments) => pause::resume(&arguments, backends).await,
        Command::Skip(arguments) => skip::run(&arguments, backends).await,
        Command::Audit(arguments) => audit::run(&arguments, backends).await,
        Command::Graph(arguments) => graph::run(&arguments, backends),
        Command::Install(arguments) => install::install(&arguments, backends).await,
        Command::Uninstall(arguments) => uninstall(&arguments, backends).await,
        Command::DeadLetters(command) => dead_letters::run(&command, backends).await,
        Command::Replay(arguments) => replay::run(&arguments, backends).await,
        Command::Rebase(arguments) => rebase(&arguments, backends).await,
        Command::AcceptLockStore(arguments) => accept_lock_store::run(&arguments, backends).await,
    }
}

async fn run_pipeline(arguments: Run, backends: &Backends) -> anyhow::Result<()> {
    let stop = stop::on_signal()?;
    let loaded = load(&arguments.pipeline, backends)?;
    let limits =
        Limits { concurrency: usize::from(arguments.concurrency), drain_deadline: arguments.drain_deadline };
    // Counting begins before there is anything to count.
    let http = Http::listen(&arguments, &loaded, backends).await?;
    let registry = backends.registry(&loaded)?;
    let inputs = tokio::select! {
        inputs = async {
            backends.reach_lock(&loaded).await?;
            loaded.inputs(&registry).await
        } => inputs?,
        () = stop.cancelled() => return Ok(()),
    };
    let mut orchestrator = loaded.orchestrator(&registry, inputs, limits)?;
    for warning in orchestrator.warnings() {
        tracing::warn!("{}", explain(warning));
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "running {}", loaded.file);
    let serving = http.map(|http| http.serve(&mut orchestrator, &stop));
    let ran = orchestrator.run(stop).await;
    if let Some(serving) = serving {
        serving.cancel();
    }
    ran?;
    tracing::info!("stopped");
    Ok(())
}

async fn uninstall(arguments: &Uninstall, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    for section in &loaded.pipeline.inputs {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let removed = backends::uninstall(section)
            .await
            .with_context(|| loaded.problem(line, "cannot uninstall this input"))?;
        print(&format!("{}: {removed}\n", section.config.name))?;
    }
    match backends.remains(&loaded.pipeline) {
        Some(remains) => print(&format!("{remains}\n")),
        None => Ok(()),
    }
}

async fn rebase(arguments: &Rebase, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let section = loaded.input(&arguments.input)?;
    let line = section.lines.of(Some(CONNECTION_STRING));
    let rebased =
        backends::rebase(section).await.with_context(|| loaded.problem(line, "cannot rebase this input"))?;
    print(&format!("{}: {rebased}\n", section.config.name))
}

/// Reads a pipeline file with the variables of the environment, and checks what can be checked without reaching out.
fn load(path: &Path, backends: &Backends) -> anyhow::Result<Loaded> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let source = Source {
        file: &file,
        text: &text,
        lookup: &|name| env::var(name).ok(),
        lock_backends: &backends.lock_backends(),
        input_types: &backends.input_types(),
        process_types: &backends.process_types(),
    };
    let pipeline = read(&source)?;
    let mut loaded = Loaded { file, pipeline };
    backends::complete(&mut loaded, &Environment::new(|name| env::var(name).ok()))?;
    backends.validate(&loaded)?;
    Ok(loaded)
}

/// Prints to standard output. A reader that has gone away wants no more of it, which is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
