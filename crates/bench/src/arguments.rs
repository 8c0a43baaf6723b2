//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::readers::Reader;
use crate::scenarios::Scenario;

#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures.
    Run(Run),
    /// Reads changes in one of the other ways, as a process of its own.
    Reader {
        /// Which.
        reader: Reader,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Which scenarios, with commas between; all when left out
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) scenario: Vec<Scenario>,
    /// Only cases whose path, such as write/one-row-8, contains one of these
    #[arg(long = "case", value_name = "PART", value_delimiter = ',')]
    pub(crate) cases: Vec<String>,
    /// How often each way has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How long a turn is, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Changes in the backlog that is drained
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) backlog: u64,
    /// Change sets in the largest backlog whose growth is looked at
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) largest_backlog: u64,
    /// Only show that it runs
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure nothing: with --write-docs, write what earlier runs have left
    #[arg(long)]
    pub(crate) kept: bool,
    /// Print the cases as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Put the tables and plots into this page
    #[arg(long, value_name = "PAGE")]
    pub(crate) write_docs: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "FOLDER")]
    pub(crate) results: PathBuf,
    /// The program of the package of rivals
    #[arg(long, value_name = "PATH")]
    pub(crate) rivals: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
