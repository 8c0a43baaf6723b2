//! Measures changes of the holder: one fault at a time, again and again, on real replicas and a real store.

mod arguments;
mod progress;
mod summary;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use dapper_testkit::Namespace;
use dapper_testkit::failover::{
    Case, FailoverOptions, Failure, Locks, StandbysOptions, measure, measure_standbys,
};

use crate::arguments::Arguments;
use crate::progress::Progress;
use crate::summary::{Standbys, Summary};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(error.into()),
    };
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Not a verdict on the program: the measurement itself could not go on.
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Measures what was asked for and prints it; whether all is well.
async fn run(arguments: &Arguments) -> Result<bool, Failure> {
    if let Some(standbys) = arguments.standbys {
        let Arguments { ttl, watch, .. } = *arguments;
        let options = StandbysOptions { program: arguments.dapper.clone(), ttl, standbys, watch };
        let summary = Standbys(measure_standbys(&options).await?);
        summary.print(arguments.form());
        return Ok(summary.is_good());
    }
    let mut summary = Summary::default();
    for &locks in arguments.locks() {
        for case in arguments.cases() {
            match case.missing_with(locks) {
                Some(reason) => summary.leave_out(&format!("{case} with {}", locks.name()), reason),
                None => measure_case(case, locks, arguments, &mut summary).await?,
            }
        }
    }
    summary.print(arguments.form());
    Ok(summary.is_good())
}

async fn measure_case(
    case: Case,
    locks: Locks,
    arguments: &Arguments,
    summary: &mut Summary,
) -> Result<(), Failure> {
    if case.needs_namespaces()
        && let Err(error) = tokio::task::spawn_blocking(Namespace::create).await?
    {
        summary.leave_out(case.name(), &error.to_string());
        return Ok(());
    }
    let progress = Arc::new(Progress::new(case, arguments.runs));
    let after_run = Arc::clone(&progress);
    let options = FailoverOptions {
        program: arguments.dapper.clone(),
        locks,
        ttl: arguments.ttl,
        runs: arguments.runs,
        parallel: arguments.parallel,
        after_run: Arc::new(move || after_run.advance()),
    };
    let report = measure(case, &options).await.map_err(|error| format!("{case}: {error}"))?;
    progress.end(&report);
    summary.add(report);
    Ok(())
}
