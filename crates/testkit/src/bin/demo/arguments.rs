//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Changes go from PostgreSQL through replicas of dapper to a webhook while their leader is killed.
///
/// Raises a throw-away PostgreSQL, a webhook receiver and the replicas, each a process of its own; writes inserts,
/// updates and deletes; kills the leader with `kill -9` a third of the way in and stops the next one with SIGTERM at
/// two thirds (neither is started again); ends with a table. With `--backend memory` there is one replica, and nothing is
/// done to it. Exit code 1 if anything was lost, repeated unmarked or
/// out of order, 2 if the demo could not be played.
#[derive(Debug, Parser)]
#[command(name = "demo")]
pub(crate) struct Arguments {
    /// The `dapper` program
    #[arg(long, value_name = "PATH")]
    pub(crate) dapper: PathBuf,
    /// Where the replicas keep their lease
    #[arg(long, value_enum, default_value_t = Backend::Postgres)]
    pub(crate) backend: Backend,
    /// How long to write, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    pub(crate) seconds: u64,
    /// How many replicas to run; two of them are stopped on the way, so at least 3
    #[arg(long, default_value_t = 3, value_parser = replicas)]
    pub(crate) replicas: usize,
    /// Changed rows per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Print the result as JSON on stdout, and all else on stderr
    #[arg(long)]
    pub(crate) json: bool,
}

/// A lock backend of `dapper`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Beside the cursor, in the database that is read
    Postgres,
    /// In an etcd, which is raised for the demo; `dapper` must be built with its feature `etcd`
    Etcd,
    /// In the replica itself: there is only one, and none takes over
    Memory,
}

impl Arguments {
    /// How many replicas there are: a lease in one's memory keeps no other from reading.
    pub(crate) fn replica_count(&self) -> usize {
        if self.takes_over() { self.replicas } else { 1 }
    }

    /// Whether leaders are killed and stopped.
    pub(crate) fn takes_over(&self) -> bool {
        self.backend != Backend::Memory
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 3..=32) => Ok(count),
        Ok(0..=2) => {
            Err("two replicas are stopped on the way and not started again, so at least 3 are needed".into())
        }
        Ok(_) => Err("at most 32 fit on one machine".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, String> {
        let line = ["demo", "--dapper", "x"].iter().chain(arguments);
        Arguments::try_parse_from(line).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let arguments = parse(&[]).unwrap();
        assert_eq!((arguments.seconds, arguments.replicas, arguments.rate), (20, 3, 200));
        assert_eq!((arguments.backend, arguments.replica_count()), (Backend::Postgres, 3));
    }

    #[test]
    fn a_lease_in_memory_is_for_one_replica() {
        let arguments = parse(&["--backend", "memory"]).unwrap();
        assert_eq!((arguments.replica_count(), arguments.takes_over()), (1, false));
        assert!(parse(&["--backend", "etcd"]).unwrap().takes_over());
        assert!(parse(&["--backend", "redis"]).unwrap_err().contains("postgres, etcd, memory"));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        for (arguments, reason) in [
            (["--replicas", "2"], "at least 3"),
            (["--replicas", "99"], "at most 32"),
            (["--replicas", "x"], "invalid digit"),
            (["--seconds", "1"], "not in 3..=86400"),
            (["--rate", "0"], "not in 1..=100000"),
        ] {
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
