//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use tracing_subscriber::EnvFilter;

const EXAMPLE: &str = r#"Example:
  cat > pipeline.toml <<'END'
  [[inputs]]
  name = "orders-input"
  type = "postgres"
  connection_string = "${DATABASE_URL}"

  [[processes]]
  name = "print"
  type = "log"

  [[links]]
  input = "orders-input"
  process = "print"
  END
  export DATABASE_URL=postgres://app@localhost/app
  dapper check pipeline.toml && dapper run pipeline.toml

Run it as often as you like, on as many machines as you like: one replica reads, the others stand by."#;

/// Hands every committed change of a PostgreSQL database to processes, over many replicas.
#[derive(Debug, Parser)]
#[command(name = "dapper", version, after_help = EXAMPLE, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How log lines on standard error look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or per module, such as "info,dapper_postgres=debug".
    #[arg(long, global = true, env = "DAPPER_LOG", default_value = "info", value_parser = parse_filter)]
    pub(crate) log_level: Filter,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a pipeline until SIGTERM or Ctrl-C; a second one ends it at once.
    Run(Run),
    /// Reads a pipeline file, builds its graph, reaches its addresses, and says what it found. Changes nothing.
    Check(Check),
    /// Removes everything that the inputs of a pipeline have installed in their databases.
    Uninstall(Uninstall),
    /// Takes a restored or moved database for an input's own, and delivers again what is still recorded in it.
    Rebase(Rebase),
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// How many processes run at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// How long events that are under way may go on after a signal.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain_deadline: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Reach no address.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Uninstall {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Rebase {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// The name of the input.
    pub(crate) input: String,
}

/// A checked log filter. Kept as text, because the filter itself cannot be copied.
#[derive(Clone, Debug)]
pub(crate) struct Filter(pub(crate) String);

fn parse_filter(text: &str) -> Result<Filter, String> {
    EnvFilter::try_new(text).map(|_| Filter(text.to_owned())).map_err(|error| error.to_string())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|_| "write for example 10s or 1m 30s".to_owned())?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_friendly() {
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("-1s").is_err() && parse_duration("soon").is_err());
    }
}
