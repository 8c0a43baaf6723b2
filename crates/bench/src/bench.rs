//! What every scenario is given: how much to do, servers, and somebody to tell.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use dapper_testkit::{Server, ServerOptions};
use tokio::sync::OnceCell;

use crate::case::Case;
use crate::output;

/// How much to do.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// How often each way has its turn.
    pub(crate) rounds: u32,
    /// How long a turn is.
    pub(crate) seconds: u32,
    /// Changes in the backlog that is drained.
    pub(crate) backlog: u64,
    /// Change sets in the largest backlog whose growth is looked at.
    pub(crate) largest_backlog: u64,
    /// As little as shows that it runs.
    pub(crate) is_quick: bool,
    /// The program of the package of rivals, where it was built.
    pub(crate) rivals: Option<PathBuf>,
    /// Only cases whose path contains one of these; all when empty.
    pub(crate) chosen: Vec<String>,
}

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As PostgreSQL comes, but for memory and checkpoints.
    Plain,
    /// The same without waiting for the disk: writers then saturate the processors, whatever the disk.
    Fast,
    /// Both with what logical decoding needs.
    Logical,
    LogicalFast,
    /// The same with a count of statements.
    Counted,
    /// The same with the time of each commit.
    Timed,
}

/// One run of the benches.
pub(crate) struct Bench {
    pub(crate) scale: Scale,
    /// Where results go.
    pub(crate) folder: PathBuf,
    started: Instant,
    servers: [OnceCell<Server>; 6],
}

impl Bench {
    pub(crate) fn new(scale: Scale, folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { scale, folder, started: Instant::now(), servers: Default::default() })
    }

    /// Whether a case is to be measured.
    pub(crate) fn wants(&self, scenario: &str, name: &str) -> bool {
        let path = format!("{scenario}/{name}");
        self.scale.chosen.is_empty() || self.scale.chosen.iter().any(|part| path.contains(part.as_str()))
    }

    /// The queues of the registry that take part.
    pub(crate) fn rivals(&self) -> &'static [&'static str] {
        if self.scale.rivals.is_some() { &["graphile_worker", "pgmq"] } else { &[] }
    }

    /// All of the values, or the first few when as little as possible is to be done.
    pub(crate) fn some<'a, T>(&self, all: &'a [T], few: usize) -> &'a [T] {
        if self.scale.is_quick { &all[..all.len().min(few)] } else { all }
    }

    /// The server of that kind, which the first caller starts.
    pub(crate) async fn server(&self, kind: Kind) -> Result<&Server> {
        self.servers[kind as usize].get_or_try_init(|| start(kind, self.scale.is_quick)).await
    }

    /// Tells whoever waits how far it is.
    pub(crate) fn progress(&self, case: &str, round: u32, what: &str) {
        let seconds = self.started.elapsed().as_secs();
        eprintln!(
            "[{:3}:{:02}] {case}, round {} of {}: {what}",
            seconds / 60,
            seconds % 60,
            round + 1,
            self.scale.rounds
        );
    }

    /// Prints a case and keeps it with a plot.
    pub(crate) fn finish(&self, case: &Case) -> Result<()> {
        println!("{}", output::terminal(case));
        output::keep(case, &self.folder)
    }
}

async fn start(kind: Kind, is_quick: bool) -> Result<Server> {
    let mut settings = vec![
        // Enough that nothing but the writing itself is waited for: no checkpoint falls into one way's turn.
        ("shared_buffers", "512MB"),
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "1h"),
        ("max_connections", "400"),
    ];
    // The disk has nothing to say where nothing is measured.
    settings.extend(is_quick.then_some(("fsync", "off")));
    match kind {
        Kind::Plain => {}
        Kind::Fast => settings.push(("fsync", "off")),
        Kind::LogicalFast => settings.extend([("wal_level", "logical"), ("fsync", "off")]),
        Kind::Logical => settings.push(("wal_level", "logical")),
        Kind::Timed => settings.push(("track_commit_timestamp", "on")),
        Kind::Counted => settings.push(("shared_preload_libraries", "pg_stat_statements")),
    }
    let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let options = ServerOptions { settings, ..ServerOptions::default() };
    Ok(tokio::task::spawn_blocking(move || Server::start(&options)).await.context("cannot wait")??)
}

/// The results of earlier runs, in the order of their paths.
pub(crate) fn kept(folder: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("no results in {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path)?;
            let case: Case =
                serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
            cases.push(case);
        }
    }
    cases.sort_by_key(Case::path);
    Ok(cases)
}
