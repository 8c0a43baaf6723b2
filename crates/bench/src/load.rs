//! Writers: `pgbench`, which comes with the server and takes little of the processors that it shares with it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use dapper_testkit::Server;
use tokio::process::Command;

use crate::machine;

/// What `pgbench` is to do.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) script: &'a str,
    pub(crate) clients: u32,
    pub(crate) seconds: u32,
    /// Transactions a second, at random times with this mean; as many as possible when absent.
    pub(crate) rate: Option<f64>,
    /// Whether each transaction's times are wanted.
    pub(crate) logged: bool,
    /// Whether names of tables depend on variables, so that nothing can be prepared.
    pub(crate) is_simple: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) transactions: u64,
    pub(crate) per_second: f64,
    /// The processors' time that the writers themselves took.
    pub(crate) client_seconds: f64,
    pub(crate) log: Vec<Transaction>,
}

/// A transaction as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) client: u64,
    /// Counted from 1, for each client.
    pub(crate) number: u64,
    /// When its commit was confirmed, in microseconds since 1970.
    pub(crate) ended_us: u64,
    /// From when it was due.
    pub(crate) latency_us: u64,
}

impl<'a> Load<'a> {
    pub(crate) fn saturating(script: &'a str, clients: u32, seconds: u32) -> Self {
        Self { script, clients, seconds, rate: None, logged: false, is_simple: false }
    }

    pub(crate) async fn run(&self, server: &Server, url: &str) -> Result<Written> {
        let bin = server.bin().context("the benches need a server of local binaries")?;
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("script.sql");
        std::fs::write(&script, self.script)?;
        let mut command = Command::new(bin.join("pgbench"));
        command.current_dir(folder.path()).kill_on_drop(true);
        command.args(["--no-vacuum", "--protocol", if self.is_simple { "simple" } else { "prepared" }]);
        command.arg("--file").arg(&script);
        command.arg("--client").arg(self.clients.to_string()).arg("--time").arg(self.seconds.to_string());
        // For scripts that count.
        command.args(["--define", "n=0"]);
        if let Some(rate) = self.rate {
            command.arg("--rate").arg(format!("{rate:.1}"));
        }
        if self.logged {
            command.args(["--log", "--log-prefix", "times"]);
        }
        let before = machine::children_cpu()?;
        let output = command.arg(url).output().await.context("cannot run pgbench")?;
        let (out, complaints) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("pgbench ended with {}: {complaints}", output.status);
        }
        let mut written = parse(&out).with_context(|| format!("pgbench said {out:?}"))?;
        written.client_seconds = machine::children_cpu()? - before;
        if self.logged {
            written.log = read_log(folder.path())?;
        }
        Ok(written)
    }
}

fn parse(out: &str) -> Option<Written> {
    let after = |prefix: &str| out.lines().find_map(|line| line.strip_prefix(prefix));
    let transactions = after("number of transactions actually processed: ")?;
    let tps = after("tps = ")?;
    Some(Written {
        transactions: transactions.split('/').next()?.trim().parse().ok()?,
        per_second: tps.split_whitespace().next()?.parse().ok()?,
        client_seconds: 0.0,
        log: Vec::new(),
    })
}

fn read_log(folder: &Path) -> Result<Vec<Transaction>> {
    let mut log = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("times")) {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            log.push(parse_line(line).with_context(|| format!("pgbench logged {line:?}"))?);
        }
    }
    Ok(log)
}

/// `client transaction latency script seconds microseconds [lag]`
fn parse_line(line: &str) -> Option<Transaction> {
    let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let &[client, number, latency_us, _script, seconds, microseconds, ..] = &numbers[..] else { return None };
    Some(Transaction { client, number, latency_us, ended_us: seconds * 1_000_000 + microseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_understood() {
        let out = "number of transactions actually processed: 1234/0\nlatency average = 1 ms\n\
                   tps = 617.5 (without initial connection time)\n";
        let written = parse(out).unwrap();
        assert_eq!((written.transactions, written.per_second), (1234, 617.5));
        assert!(parse("nothing").is_none());
        let transaction = Transaction { client: 3, number: 9, latency_us: 250, ended_us: 17_000_042 };
        assert_eq!(parse_line("3 9 250 0 17 42 7"), Some(transaction));
        assert_eq!(parse_line("3 9 skipped 0 17 42"), None);
    }
}
