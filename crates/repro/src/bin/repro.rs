//! Plays rows of the table of others' bugs, and says what came of each.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use dapper_repro::{Outcome, Row, all, json, listed, markdown, terminal};
use futures::{StreamExt, stream};

/// Bugs that others had: a naive version shows each, and dapper is put to the same test.
///
/// Exit code 0 only if each naive version came to harm and dapper did not.
#[derive(Debug, Parser)]
#[command(name = "repro")]
struct Arguments {
    /// Which rows
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "list", "markdown"])]
    names: Vec<String>,
    /// All rows
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Only say what rows there are
    #[arg(long, conflicts_with_all = ["names", "all"])]
    list: bool,
    /// Only print the table for docs/reliability.md
    #[arg(long, conflicts_with_all = ["names", "all", "list", "json"])]
    markdown: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// How many rows are played at once
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let rows = all();
    let mut out = std::io::stdout().lock();
    if arguments.markdown {
        write!(out, "{}", markdown(&rows))?;
        return Ok(true);
    }
    if arguments.list {
        if arguments.json {
            let listed: Vec<_> = rows.iter().map(listed).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&listed)?)?;
        } else {
            for row in rows {
                writeln!(out, "{:22} {}", row.name, row.bug)?;
            }
        }
        return Ok(true);
    }
    let rows = if arguments.all { rows } else { chosen(&rows, &arguments.names)? };
    let played: Vec<Outcome> = stream::iter(rows).map(play).buffered(arguments.jobs.into()).collect().await;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json(&played))?)?;
    } else {
        writeln!(out, "{}", terminal(&played))?;
    }
    let bad = played.iter().filter(|outcome| !outcome.is_ok()).count();
    eprintln!("{} of {} naive versions red and dapper green", played.len() - bad, played.len());
    Ok(bad == 0)
}

fn chosen(rows: &[Row], names: &[String]) -> Result<Vec<Row>> {
    let mut chosen = Vec::new();
    for name in names {
        match rows.iter().find(|row| row.name == name) {
            Some(row) => chosen.push(*row),
            None => bail!("there is no row {name:?}; --list names them"),
        }
    }
    Ok(chosen)
}

async fn play(row: Row) -> Outcome {
    let start = Instant::now();
    // In a task, so that rows played at once do not wait for each other.
    let seen = match tokio::spawn((row.run)()).await {
        Ok(seen) => seen,
        Err(panic) => Err(panic.into()),
    };
    let outcome = Outcome { row, seen, took: start.elapsed() };
    eprintln!(
        "{} {} ({:.1} s)",
        if outcome.is_ok() { "ok    " } else { "NOT OK" },
        row.name,
        outcome.took.as_secs_f64()
    );
    outcome
}
