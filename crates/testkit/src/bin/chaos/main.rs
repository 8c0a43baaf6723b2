//! Disturbs real replicas and a real PostgreSQL at random, and checks that every promise is kept.

mod arguments;
mod summary;

use std::process::ExitCode;

use clap::Parser;
use dapper_testkit::chaos::{Rule, run};
use dapper_testkit::failover::Failure;

use crate::arguments::{Arguments, breaking, past_inbox};
use crate::summary::Summary;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let played = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(play(&arguments)),
        Err(error) => Err(error.into()),
    };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Not a verdict on the program: the run itself could not go on.
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is as it should be.
async fn play(arguments: &Arguments) -> Result<bool, Failure> {
    let options = arguments.options();
    if let Some(folder) = &options.keep {
        std::fs::create_dir_all(folder)?;
    }
    if !arguments.controls {
        eprintln!("seed {}", options.seed);
        let summary = Summary(run(options).await?);
        summary.print(arguments.json);
        if let Some(file) = &arguments.report {
            std::fs::write(file, summary.markdown())?;
        }
        return Ok(summary.is_good());
    }
    let mut good = true;
    let broken = Rule::ALL.map(|rule| (rule.name(), breaking(options.clone(), rule)));
    for (name, options) in broken.into_iter().chain([("inbox", past_inbox(options.clone()))]) {
        eprintln!("\nbroken: {name}; seed {}", options.seed);
        let report = run(options).await?;
        let (violations, seconds) = (report.verdict.violations(), report.took.as_secs());
        let found: Vec<String> = violations.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let colour = if found.is_empty() { "GREEN, AND SHOULD BE RED" } else { "red" };
        good &= !found.is_empty();
        println!("{name:24} {colour} after {seconds} s: {}", found.join(", "));
    }
    println!("{}", if good { "Every broken rule was noticed." } else { "A BROKEN RULE WAS NOT NOTICED." });
    Ok(good)
}
