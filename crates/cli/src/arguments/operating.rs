//! The arguments of the commands by which a running pipeline is watched and steered.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::parse_duration;

pub(super) const STATUS: &str = "\
Examples:
  dapper status pipeline.toml
  dapper status pipeline.toml --watch           every 2 s, until Ctrl-C
  dapper status pipeline.toml --json | jq '.inputs[] | {input, state, reason}'

Exit code: 0 when every input is leading, idle or paused, 1 when one is not, 2 for wrong use.";

pub(super) const GRAPH: &str = "\
Examples:
  dapper graph pipeline.toml
  dapper graph pipeline.toml --format dot | dot -Tsvg > pipeline.svg

Exit code: 0, 1 with one line on standard error when the file is wrong, 2 for wrong use.";

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Only this input, by its name in the pipeline file.
    #[arg(long)]
    pub(crate) input: Option<String>,
    /// Go on, and look again after so long, such as 5s; 2s when nothing is given.
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "2s", value_parser = parse_every)]
    pub(crate) watch: Option<Duration>,
    /// Print a JSON object; with --watch one in each line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Graph {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// How it is drawn.
    #[arg(long, value_enum, default_value_t = Format::Terminal, conflicts_with = "json")]
    pub(crate) format: Format,
    /// Print nodes and links as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A tree for the terminal.
    Terminal,
    /// For Mermaid, as Markdown pages show it.
    Mermaid,
    /// For Graphviz.
    Dot,
}

/// A bare number is seconds, as with watch(1).
fn parse_every(text: &str) -> Result<Duration, String> {
    let every = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => parse_duration(text)?,
    };
    let least = Duration::from_millis(100);
    if every < least { Err("must be 100ms at least".to_owned()) } else { Ok(every) }
}
