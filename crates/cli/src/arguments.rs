//! The command line.

mod operating;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use tracing_subscriber::EnvFilter;

use crate::http::parse_address;
pub(crate) use operating::{Audit, Format, Graph, Pause, Resume, Skip, Status, Target};

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

const RUN: &str = "\
Example:
  dapper run pipeline.toml --concurrency 16 --log-format json --http 9090

Exit code: 0 after a signal, 1 with one line on standard error when it cannot start, 2 for wrong use, 130 or 143 after a
second signal.";

const CHECK: &str = "\
Examples:
  dapper check --offline pipeline.toml      in a build, without any server
  dapper check --json pipeline.toml | jq .reached

Exit code: 0 when it is good, 1 with one line on standard error when not, 2 for wrong use.";

const INSTALL: &str = "\
Examples:
  dapper install pipeline.toml
  dapper install --dry-run pipeline.toml | psql --set ON_ERROR_STOP=1 ...

Exit code: 0 when everything is in place, 1 with a line for each table that is not, 2 for wrong use.";

const UNINSTALL: &str = "\
Example:
  dapper uninstall pipeline.toml";

const DOCTOR: &str = "\
Examples:
  dapper doctor pipeline.toml
  dapper doctor --json pipeline.toml | jq '.inputs[].findings[] | select(.severity == \"problem\")'

Exit code: 0 when nothing is wrong, 1 when something is, 2 for wrong use.";

const REBASE: &str = "\
Example:
  dapper rebase pipeline.toml orders-input";

const ACCEPT_LOCK_STORE: &str = "\
Examples:
  dapper accept-lock-store new.toml orders-input --old old.toml
  dapper accept-lock-store pipeline.toml orders-input --old-is-gone

Exit code: 0 when the input has been moved, 1 with one line on standard error when not, 2 for wrong use.";

const DEAD_LETTERS: &str = "\
Examples:
  dapper dead-letters list pipeline.toml --error 'answered 410'
  dapper dead-letters show pipeline.toml --number 12
  dapper dead-letters retry pipeline.toml orders-input --process notify --newer-than 2h
  dapper dead-letters discard pipeline.toml --table orders --key 42

Exit code: 0, 1 with one line on standard error when it cannot, 2 for wrong use.";

const REPLAY: &str = "\
Examples:
  dapper replay pipeline.toml orders-input --since 2h --dry-run
  dapper replay pipeline.toml orders-input --since 2026-03-01T08:00:00Z --table orders --key 42 --process notify

Exit code: 0, 1 with one line on standard error when it cannot, 2 for wrong use.";

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
    /// Runs a pipeline until SIGTERM or Ctrl-C.
    ///
    /// Installs triggers in the databases of the inputs, waits for the lease of each, and hands every committed change
    /// to the processes linked to it. Start as many replicas as you like: of each input one reads, and when it stops or
    /// dies another goes on where it was.
    ///
    /// The first signal lets events that are under way come to their end, a second one ends it at once. What was not
    /// finished is delivered again, marked by an attempt above 1. Processes of type "log" write to standard output,
    /// everything else is on standard error.
    #[command(after_help = RUN)]
    Run(Run),
    /// Says whether a pipeline would run. Changes nothing.
    ///
    /// Reads the file, puts the variables of the environment in, builds the graph, and tries the address of the lock
    /// store and those of all inputs and processes: whether a database answers, is no standby, is PostgreSQL 13 or
    /// newer, and lets this role install. Webhooks are connected to, and sent nothing.
    #[command(after_help = CHECK)]
    Check(Check),
    /// Installs what the inputs of a pipeline need in their databases, and ends.
    ///
    /// `dapper run` does so by itself where its role may. This is for those whose applications must not: it runs with
    /// another role, and afterwards `dapper run` needs only the rights that docs/permissions.md lists. Each table gets
    /// its triggers in a transaction of its own, which waits 300 ms at most for the table and tries again; what is right
    /// already is left alone.
    #[command(after_help = INSTALL)]
    Install(Install),
    /// Says what is wrong with the databases of a pipeline's inputs, and what to do about it. Changes nothing.
    ///
    /// Looks at the server and how it is reached, its settings, this role's rights, what is installed, which tables are
    /// covered and which are not and why, triggers that are missing, disabled or outdated, how much is stored and how
    /// old it is, and who holds back the reader or vacuum.
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Shows how each input is doing: who leads, who stands by, how far it is, what failed and what is paused. Changes nothing.
    ///
    /// Everything comes from the inputs' databases and the lock store, so it works from any machine that reaches them, and
    /// tells what no replica could: that none is there. It answers within 5 s even when a database is frozen.
    ///
    /// The state of an input is "leading" or "idle" when all is well, "paused", or "stalled" (changes wait, and none was
    /// handled for 3 s), "no_holder", "not_installed" or "unreachable".
    #[command(after_help = operating::STATUS)]
    Status(Status),
    /// Draws the pipeline: its inputs, its processes and how events go. Reaches out to nothing.
    #[command(after_help = operating::GRAPH)]
    Graph(Graph),
    /// Removes everything that the inputs of a pipeline have installed in their databases.
    ///
    /// That is their triggers, and the schema of each input with its cursor and all changes that were not delivered
    /// yet. Stop all replicas first: it refuses while one is connected. Waits for no table for long; where one is too
    /// busy, the rest stays, and calling again goes on from there.
    ///
    /// Leases that the file keeps at an address of their own stay there, since other pipelines may share the table.
    #[command(after_help = UNINSTALL)]
    Uninstall(Uninstall),
    /// Lists, retries or discards events that a process failed on for the last time.
    ///
    /// Works on the databases of the pipeline's inputs, while replicas run or not. What is retried is delivered as soon as a
    /// replica holds the lease, marked by an attempt above 1, from its first try on; later events of its key that were
    /// handled meanwhile stay handled.
    #[command(subcommand, after_help = DEAD_LETTERS)]
    DeadLetters(DeadLetterCommand),
    /// Delivers changes again that were delivered before.
    ///
    /// They come from what is kept for the input's `retention`, in the order of their key, with the event_id that they had,
    /// an attempt above 1 and "replay": true. Changes that were not delivered yet are left alone. Replicas may run meanwhile;
    /// the events are delivered as soon as one holds the lease.
    #[command(after_help = REPLAY)]
    Replay(Replay),
    /// Pauses an input, or a process, until it is resumed.
    ///
    /// A paused input is not read: its changes wait in the database, a replica keeps the lease, and what the processes have in
    /// hand comes to its end. Of a paused process each input's events are held back in the database, in the order of their keys;
    /// other processes go on, but those that come after it. When 100,000 events are parked, the inputs that lead to it are not read
    /// any further. A pause is known within about a second, and stays over restarts and takeovers. Replicas need not run.
    #[command(after_help = operating::PAUSE)]
    Pause(Pause),
    /// Lets a paused input or process go on where it was: nothing is lost, and the order is kept.
    #[command(after_help = operating::RESUME)]
    Resume(Resume),
    /// Takes what an input or a process can't get past out of the way.
    ///
    /// It becomes a dead letter, whose reason says that it was skipped: so it is not lost, and `dapper dead-letters retry` brings it
    /// back. Without --event and --seq it shows what is in the way; without --yes it shows what would be skipped. What a process has
    /// in hand just now is not taken from it.
    #[command(after_help = operating::SKIP)]
    Skip(Skip),
    /// Shows who changed what by a command, and when.
    ///
    /// That is install, rebase, accept-lock-store, dead-letters retry and discard, replay, pause, resume and skip. The newest 10,000
    /// records are kept in the input's own schema, and `dapper uninstall` removes them with it. The role is the database's word; user
    /// and machine are what the program said of itself.
    #[command(after_help = operating::AUDIT)]
    Audit(Audit),
    /// Takes a restored or moved database for an input's own.
    ///
    /// Where an input has read to is written down in transaction ids, which mean nothing in another database cluster.
    /// So after a restore from a dump, or a move to another server, an input refuses to start. This accepts the database
    /// that its connection_string now leads to, and has every change that is still recorded there delivered again,
    /// marked as a possible repeat. Stop all replicas first.
    #[command(after_help = REBASE)]
    Rebase(Rebase),
    /// Moves an input to the lock store that its pipeline file now names.
    ///
    /// Whoever reads is fenced by the tokens of its lease, and the tokens of two lock stores can't be compared. So after a
    /// change of [lock], or of the place where the leases are, an input refuses to start; the same when the lock store was
    /// restored from a backup and its tokens went back. This accepts the store that the file names as it is. Its tokens
    /// are counted on from the old store's, so that no receiver ever sees a lower one.
    ///
    /// Stop all replicas that use the old store first. With --old it makes sure that none of them holds the lease.
    #[command(after_help = ACCEPT_LOCK_STORE)]
    AcceptLockStore(AcceptLockStore),
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// How many processes run at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// How long events that are under way may go on after a signal, such as 10s or "1m 30s".
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain_deadline: Duration,
    /// Serve /live, /ready, /metrics, /status and a live page at this address: a port of this machine such as 9090, or an
    /// address to be reached from elsewhere such as 0.0.0.0:9090.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub(crate) http: Option<SocketAddr>,
    /// A file with the token that actions on the page need; else the variable DAPPER_HTTP_TOKEN. Without one there are no
    /// actions.
    #[arg(long, value_name = "FILE")]
    pub(crate) http_token_file: Option<PathBuf>,
    /// A name besides localhost and addresses under which the page is reached; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) http_host: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Try no address.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print what was found as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Install {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Change nothing, and print the SQL that would be run.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print what was done, or would be, as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// Print what was found as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Uninstall {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// Shows a line for each.
    List(DeadLetterArguments),
    /// Shows each with its event.
    Show(DeadLetterArguments),
    /// Has them tried again.
    Retry(Named),
    /// Forgets them for good.
    Discard(Named),
}

#[derive(Args, Debug)]
pub(crate) struct DeadLetterArguments {
    #[command(flatten)]
    pub(crate) named: Named,
    /// How many to show of each input.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u32,
    /// Print them as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which dead letters are meant: those for which everything holds that is given.
#[derive(Args, Debug)]
pub(crate) struct Named {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// The name of the input, as in the pipeline file; all when left out.
    pub(crate) input: Option<String>,
    /// The one with this number.
    #[arg(long)]
    pub(crate) number: Option<i64>,
    /// Those of this process.
    #[arg(long)]
    pub(crate) process: Option<String>,
    /// Those of this table: its bare name in schema public, schema.table elsewhere.
    #[arg(long)]
    pub(crate) table: Option<String>,
    /// Those of this key, as in the event's "id".
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Those that are dead for longer, such as 2h or 30m.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) older_than: Option<Duration>,
    /// Those that are not dead for longer, such as 2h or 30m.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) newer_than: Option<Duration>,
    /// Those whose error has this text in it, in upper or lower case.
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// All of them.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Replay {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// The name of the input, as in the pipeline file.
    pub(crate) input: String,
    /// Changes captured from then on: a time such as 2026-03-01T08:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = parse_since)]
    pub(crate) since: Since,
    /// Only those of this table: its bare name in schema public, schema.table elsewhere.
    #[arg(long)]
    pub(crate) table: Option<String>,
    /// Only those of this key, as in the event's "id".
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Only to this process and those after it; may be given more than once.
    #[arg(long)]
    pub(crate) process: Vec<String>,
    /// Count the events, and deliver none.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print what was done, or would be, as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since(pub(crate) Timestamp);

#[derive(Args, Debug)]
pub(crate) struct Rebase {
    /// The pipeline file.
    pub(crate) pipeline: PathBuf,
    /// The name of the input, as in the pipeline file.
    pub(crate) input: String,
}

#[derive(Args, Debug)]
pub(crate) struct AcceptLockStore {
    /// The pipeline file, with the new lock store.
    pub(crate) pipeline: PathBuf,
    /// The name of the input, as in the pipeline file.
    pub(crate) input: String,
    /// The pipeline file as it was, with the old lock store: refuse while a replica holds the lease there.
    #[arg(long, value_name = "PIPELINE", required_unless_present = "old_is_gone")]
    pub(crate) old: Option<PathBuf>,
    /// The old lock store is gone for good, and nobody will use it again.
    #[arg(long, conflicts_with = "old")]
    pub(crate) old_is_gone: bool,
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

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Since(time));
    }
    let wrong = || "write a time such as 2026-03-01T08:00:00Z, or how long ago, such as 2h or 30m".to_owned();
    let ago = text.parse::<SignedDuration>().map_err(|_| wrong())?;
    Timestamp::now().checked_sub(ago.abs()).map(Since).map_err(|_| wrong())
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
        assert!(parse_since("soon").is_err());
        assert_eq!(parse_since("2026-03-01T08:00:00Z").unwrap().0.as_second(), 1_772_352_000);
        let hour = Timestamp::now().as_second() - parse_since("1h").unwrap().0.as_second();
        assert!((3599..3700).contains(&hour), "{hour}");
        assert!(parse_duration("-1s").is_err() && parse_duration("soon").is_err());
    }
}
