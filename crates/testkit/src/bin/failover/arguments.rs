//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use dapper_testkit::failover::{Case, Locks};
use jiff::SignedDuration;

use crate::summary::Form;

/// Measures how long it takes until another replica handles events after a fault of the holder, and checks that no two
/// holders were valid at once, no stale write was accepted, and no event was lost or repeated unmarked.
///
/// Exit code 1 if a promise was broken or a bound was missed, 2 if something could not be measured.
#[derive(Debug, Parser)]
#[command(name = "failover")]
pub(crate) struct Arguments {
    /// The `dapper` program
    #[arg(long, value_name = "PATH")]
    pub(crate) dapper: PathBuf,
    /// Which store of leases; for etcd the `dapper` program must have the feature of that name
    #[arg(long, value_enum, default_value_t = Backend::All)]
    pub(crate) backend: Backend,
    /// How many runs of each case
    #[arg(long, default_value_t = 200, value_parser = positive)]
    pub(crate) runs: usize,
    /// Which cases, separated by commas; all by default
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    pub(crate) cases: Vec<Case>,
    /// The time to live of the leases
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// How many groups of replicas are disturbed at once, in cases that take about a time to live
    #[arg(long, default_value_t = 25, value_parser = positive)]
    pub(crate) parallel: usize,
    /// Measure instead what so many standbys cost while nothing happens, and how long one holds back vacuum
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    pub(crate) standbys: Option<usize>,
    /// How long to watch the standbys, idle and again while rows are written
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) watch: Duration,
    /// Print the result as JSON
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
    /// Print the result as a table for docs/failover.md
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// A store of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Postgres,
    Etcd,
    All,
}

impl Arguments {
    pub(crate) fn locks(&self) -> &'static [Locks] {
        match self.backend {
            Backend::Postgres => &[Locks::Postgres],
            Backend::Etcd => &[Locks::Etcd],
            Backend::All => &[Locks::Postgres, Locks::Etcd],
        }
    }

    pub(crate) fn cases(&self) -> Vec<Case> {
        if self.cases.is_empty() { Case::ALL.into() } else { self.cases.clone() }
    }

    pub(crate) fn form(&self) -> Form {
        match (self.json, self.markdown) {
            (true, _) => Form::Json,
            (_, true) => Form::Markdown,
            _ => Form::Table,
        }
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|_| "write for example 10s".to_owned())?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, String> {
        let line = ["failover", "--dapper", "x"].iter().chain(arguments);
        Arguments::try_parse_from(line).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let arguments = parse(&[]).unwrap();
        assert_eq!((arguments.runs, arguments.parallel, arguments.standbys), (200, 25, None));
        assert_eq!((arguments.ttl, arguments.watch), (Duration::from_secs(10), Duration::from_secs(60)));
        assert_eq!((arguments.cases(), arguments.form()), (Case::ALL.into(), Form::Table));
        assert_eq!(parse(&["--cases", "kill,stop"]).unwrap().cases(), [Case::Kill, Case::Stop]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        for (arguments, reason) in [
            (&["--runs", "0"][..], "at least 1"),
            (&["--cases", "kil"], "there are stop, stop-start, kill, "),
            (&["--ttl", "soon"], "for example 10s"),
            (&["--json", "--markdown"], "cannot be used with"),
            (&["--backend", "redis"], "possible values"),
        ] {
            let error = parse(arguments).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
