//! Proofs of what operating dapper does: many replicas that install at once, storage that does not grow, a key that fails
//! and leaves the others alone. Each ends with a table and exit code 1 if something was not as it should be, 2 if it could not be played.

mod failing_key;
mod growth;
mod storm;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use dapper_testkit::Server;

#[derive(Debug, Parser)]
#[command(name = "operate")]
struct Arguments {
    #[command(subcommand)]
    proof: Proof,
    /// The `dapper` program
    #[arg(long, value_name = "PATH", global = true, default_value = "dapper")]
    dapper: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Proof {
    /// Replicas start at once on many tables with writers, again and again; each time they are uninstalled under load.
    Storm(storm::Storm),
    /// Many changes pass through, then as many again while a transaction stays open.
    Growth(growth::Growth),
    /// A webhook refuses one key for long; the others must hardly notice, and its events come in order in the end.
    FailingKey(failing_key::FailingKey),
}

/// What a proof found: lines of a table, and what was wrong.
#[derive(Debug, Default)]
struct Verdict {
    rows: Vec<(String, String)>,
    wrong: Vec<String>,
}

impl Verdict {
    fn row(&mut self, what: impl Into<String>, value: &impl ToString) {
        self.rows.push((what.into(), value.to_string()));
    }

    /// What must hold.
    fn must(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.wrong.push(otherwise.into());
        }
    }

    fn print(&self) {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        for (what, value) in &self.rows {
            table.add_row([what, value]);
        }
        println!("{table}");
        for wrong in &self.wrong {
            println!("WRONG: {wrong}");
        }
    }
}

fn main() -> ExitCode {
    let Arguments { proof, dapper } = Arguments::parse();
    let played = tokio::runtime::Runtime::new().context("cannot start").and_then(|runtime| match proof {
        Proof::Storm(storm) => runtime.block_on(storm.play(&dapper)),
        Proof::Growth(growth) => runtime.block_on(growth.play(&dapper)),
        Proof::FailingKey(failing_key) => runtime.block_on(failing_key.play(&dapper)),
    });
    match played {
        Ok(verdict) => {
            verdict.print();
            if verdict.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The pipeline of every replica; `options` are lines of its input.
fn pipeline(options: &str) -> String {
    format!(
        "[[inputs]]\nname = \"proof\"\ntype = \"postgres\"\nconnection_string = \"${{DATABASE_URL}}\"\n{options}\n\
         [[processes]]\nname = \"print\"\ntype = \"log\"\n[[links]]\ninput = \"proof\"\nprocess = \"print\"\n"
    )
}

/// Runs a program of ours or the server's to its end; returns what it printed.
async fn run(mut command: Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .context("cannot wait")?
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn server(settings: &[(&str, &str)]) -> Result<Server> {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = dapper_testkit::ServerOptions { settings, ..dapper_testkit::ServerOptions::default() };
    Ok(tokio::task::spawn_blocking(move || Server::start(&options)).await.context("cannot wait")??)
}
