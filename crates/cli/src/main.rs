//! `dapper`: runs a pipeline file.
//!
//! This is the only place that reads the environment, and [`backends`] is the only module that names the concrete
//! inputs, processes and lock stores. What it does not do: it holds no logic of delivery, locking or capture; those
//! are crates of their own, which a program can use without it. Logs and errors go to standard error, results to
//! standard output; a secret of the pipeline file goes to neither.

mod arguments;
mod assembly;
mod backends;
mod commands;
mod etcd;
mod logging;
mod pipeline;
mod stop;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(arguments.log_format, arguments.log_level);
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("{error:#}").replace(['\n', '\r'], " ");
            // There is nobody to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: arguments::Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(commands::run(command));
    // What still blocks, such as a name that is being looked up, must not hold up the end.
    runtime.shutdown_background();
    result
}
