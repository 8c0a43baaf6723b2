//! The arguments of the commands by which a running pipeline is watched and steered.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Since, parse_duration, parse_since};

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

pub(super) const PAUSE: &str = "\
Examples:
  dapper pause pipeline.toml --input orders-input --reason 'index rebuild, back at 6'
  dapper pause pipeline.toml --process notify --reason 'receiver is down'

Exit code: 0, 1 with one line on standard error when it cannot, 2 for wrong use.";

pub(super) const RESUME: &str = "\
Example:
  dapper resume pipeline.toml --process notify

Exit code: 0, also when it was not paused; 1 with one line on standard error when it cannot, 2 for wrong use.";

pub(super) const SKIP: &str = "\
Examples:
  dapper skip pipeline.toml --input orders-input                    what is in the way
  dapper skip pipeline.toml --input orders-input --seq 1207         what that is
  dapper skip pipeline.toml --input orders-input --seq 1207 --yes --reason 'broken by the import'

Exit code: 0 when it was skipped, or shown because nothing was named; 1 when --yes is missing, or with one line on standard
error when it cannot; 2 for wrong use.";

pub(super) const AUDIT: &str = "\
Examples:
  dapper audit pipeline.toml --since 2h
  dapper audit pipeline.toml --json | jq '.inputs[].records[] | select(.action == \"skip\")'

Exit code: 0, 1 with one line on standard error when it cannot, 2 for wrong use.";

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

/// What is paused or resumed.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// The input, by its name in the pipeline file.
    #[arg(long)]
    pub(crate) input: Option<String>,
    /// The process, by its name in the pipeline file: at every input that leads to it.
    #[arg(long)]
    pub(crate) process: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Pause {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Why, for those who see it in `dapper status` and `dapper audit`.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Print what was done as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Resume {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print what was done as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Skip {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// The input, by its name in the pipeline file.
    #[arg(long)]
    pub(crate) input: String,
    /// The parked event with this id.
    #[arg(long, value_name = "EVENT_ID", conflicts_with = "seq")]
    pub(crate) event: Option<String>,
    /// Only at this process.
    #[arg(long, requires = "event")]
    pub(crate) process: Option<String>,
    /// The change set at this position, with all its events.
    #[arg(long)]
    pub(crate) seq: Option<i64>,
    /// Why, for the dead letter and for `dapper audit`.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Really skip it.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print what was found or done as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Only of this input, by its name in the pipeline file.
    #[arg(long)]
    pub(crate) input: Option<String>,
    /// From then on: a time such as 2026-03-01T08:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = parse_since)]
    pub(crate) since: Option<Since>,
    /// How many of the newest to show of each input.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u32,
    /// Print them as one JSON object.
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
