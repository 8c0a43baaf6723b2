//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dapper_testkit::chaos::{ChaosOptions, Fault, Rule};

/// Real replicas and a real PostgreSQL, many faults, many events, one checker.
///
/// Exit code 1 if a promise was broken, or fewer faults or events came about than were asked for; 2 if it could not be run.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
pub(crate) struct Arguments {
    /// The `dapper` program, built with its feature `failpoints`
    #[arg(long, value_name = "PATH")]
    dapper: PathBuf,
    /// Inject so many faults (as many as fit)
    #[arg(long, value_name = "COUNT")]
    faults: Option<usize>,
    /// Commit, and receive, so many changes (as many as fit)
    #[arg(long, value_name = "COUNT")]
    events: Option<u64>,
    /// Commit so many changes per second, if the machine can (800, or as many as are wanted in the time)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(20..=100_000))]
    rate: Option<u32>,
    /// Stop after so many minutes
    #[arg(long, default_value_t = 5.0, value_parser = minutes)]
    minutes: f64,
    /// Fixes what the writers do and the schedule of the faults; drawn at random when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only these faults, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<Fault>,
    /// All but these faults
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    without: Vec<Fault>,
    /// How many replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    replicas: u32,
    /// How many writers
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=50))]
    writers: u32,
    /// The time to live of the lease, in milliseconds
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(500..=60_000))]
    ttl: u64,
    /// Break a rule of the program: the run must then find something
    #[arg(long = "break", value_name = "RULE", value_parser = rule)]
    broken: Option<Rule>,
    /// Break each rule, one at a time, with the faults that show it: each run must find something
    #[arg(long, conflicts_with_all = ["broken", "no_inbox", "faults", "events", "only", "without", "minutes"])]
    pub(crate) controls: bool,
    /// Let effects go past the inbox: the run must then find something
    #[arg(long)]
    no_inbox: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the result as markdown to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Keep the logs of all replicas in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// How long a broken rule may stay unnoticed.
const CONTROL_LIMIT: Duration = Duration::from_secs(180);

impl Arguments {
    pub(crate) fn options(&self) -> ChaosOptions {
        let only = if self.only.is_empty() { Fault::ALL.to_vec() } else { self.only.clone() };
        let options = ChaosOptions {
            program: self.dapper.clone(),
            replicas: self.replicas as usize,
            writers: self.writers,
            ttl: Duration::from_millis(self.ttl),
            faults: self.faults,
            events: self.events,
            rate: self.rate.map(f64::from),
            limit: Duration::from_secs_f64(self.minutes * 60.0),
            apart: None,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000)),
            kinds: only.into_iter().filter(|fault| !self.without.contains(fault)).collect(),
            broken: None,
            inbox: !self.no_inbox,
            keep: self.keep.clone(),
            progress: true,
        };
        match self.broken {
            Some(rule) => breaking(options, rule),
            None => options,
        }
    }
}

/// The same with one rule broken, and the faults that show it.
pub(crate) fn breaking(options: ChaosOptions, rule: Rule) -> ChaosOptions {
    let (kinds, limit): (&[Fault], _) = match rule {
        // A write of the cursor must arrive when another replica has sealed it.
        Rule::Fence => (&[Fault::FreezeAtPoint], CONTROL_LIMIT),
        Rule::Seal | Rule::ClaimBeforeDeliver => (&[Fault::KillHolder, Fault::KillAtPoint], CONTROL_LIMIT),
        // What these lose shows only at the end.
        Rule::SameStatementSnapshot | Rule::NoXid => (&[], Duration::from_secs(20)),
        // A renewal must arrive when another replica has the lease.
        Rule::ExactTermRenewal => (&[Fault::RequestsLate], CONTROL_LIMIT),
        Rule::PerKeyOrder => (&[Fault::SlowReceiver], CONTROL_LIMIT),
    };
    let apart = Some(Duration::from_millis(1500));
    ChaosOptions {
        broken: Some(rule),
        kinds: kinds.to_vec(),
        faults: None,
        events: None,
        limit,
        apart,
        ..options
    }
}

/// The same past the inbox, with faults that repeat events.
pub(crate) fn past_inbox(options: ChaosOptions) -> ChaosOptions {
    let kinds = vec![Fault::KillHolder, Fault::KillAny, Fault::KillAtPoint];
    let (apart, limit) = (Some(Duration::from_millis(1500)), Duration::from_secs(60));
    ChaosOptions { inbox: false, kinds, faults: None, events: None, limit, apart, ..options }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "write a number of minutes".to_owned())?;
    if (0.1..=24.0 * 60.0).contains(&minutes) { Ok(minutes) } else { Err("0.1 to 1440".to_owned()) }
}

fn rule(text: &str) -> Result<Rule, String> {
    let names = Rule::ALL.map(Rule::name).join(", ");
    let found = Rule::ALL.into_iter().find(|rule| rule.name() == text);
    found.ok_or_else(|| format!("there is no rule {text:?}; there are {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, String> {
        let line = ["chaos", "--dapper", "x"].iter().chain(arguments);
        Arguments::try_parse_from(line).map_err(|error| error.to_string())
    }

    #[test]
    fn faults_are_chosen_by_name() {
        let options = parse(&["--only", "freeze,ddl", "--without", "ddl", "--seed", "7"]).unwrap().options();
        assert_eq!((options.kinds, options.seed), (vec![Fault::Freeze], 7));
        assert_eq!(parse(&[]).unwrap().options().kinds.len(), Fault::ALL.len());
        assert!(parse(&["--only", "frees"]).unwrap_err().contains("there are kill-holder, "));
    }

    #[test]
    fn a_broken_rule_brings_its_own_faults() {
        let options = parse(&["--break", "fence"]).unwrap().options();
        assert_eq!((options.kinds, options.broken), (vec![Fault::FreezeAtPoint], Some(Rule::Fence)));
        assert!(
            parse(&["--break", "fences"]).is_err() && parse(&["--controls", "--break", "fence"]).is_err()
        );
    }
}
