//! Replicas that start at once, again and again, while writers write.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dapper_testkit::{Cluster, ClusterOptions, Database};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::{Verdict, pipeline, run, server};

/// A writer that is blocked for longer is one too many, in milliseconds; the server itself says so in its log.
const LONGEST_BLOCKED_MS: u32 = 500;
const COVER_LIMIT: Duration = Duration::from_secs(120);
const EXIT_LIMIT: Duration = Duration::from_secs(60);
/// One of the writers keeps each transaction open for as long, so that installing meets locks.
const SLOW_TRANSACTION: Duration = Duration::from_millis(150);

#[derive(Debug, clap::Args)]
pub(crate) struct Storm {
    /// How often
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Replicas that start at once
    #[arg(long, default_value_t = 10)]
    replicas: u32,
    /// Tables to cover
    #[arg(long, default_value_t = 200)]
    tables: u32,
    /// Writers, one of them with long transactions
    #[arg(long, default_value_t = 8)]
    writers: u32,
    /// Begin no further round after this many seconds
    #[arg(long, default_value_t = 7200)]
    limit: u64,
}

#[derive(Debug, Default)]
struct Written {
    statements: AtomicU64,
    slowest_us: AtomicU64,
    /// The round that is played, counted from 0.
    round: AtomicU64,
    stop: AtomicBool,
}

impl Storm {
    pub(crate) async fn play(self, dapper: &Path) -> Result<Verdict> {
        let blocked = format!("{LONGEST_BLOCKED_MS}ms");
        let server = server(&[
            ("log_lock_waits", "on"),
            ("deadlock_timeout", &blocked),
            ("log_line_prefix", "%a|"),
            ("max_locks_per_transaction", "256"),
        ])
        .await?;
        let database = Database::create_on(&server).await?;
        let client = database.connect().await?;
        for table in 0..self.tables {
            let sql = format!("CREATE TABLE t{table} (id bigserial PRIMARY KEY, v int)");
            client.batch_execute(&sql).await?;
        }
        let before = dump(&database).await?;
        let written = Arc::new(Written::default());
        let mut writers = Vec::new();
        for writer in 0..self.writers {
            let (url, written) = (database.url(), Arc::clone(&written));
            writers.push(tokio::spawn(write(url, writer == 0, self.tables, written)));
        }
        let started = Instant::now();
        let mut times = Vec::new();
        while times.len() < self.rounds as usize && started.elapsed() < Duration::from_secs(self.limit) {
            let time = self.round(dapper, &database, &client, &before).await?;
            times.push(time.as_secs_f64());
            written.round.fetch_add(1, Ordering::Relaxed);
            println!(
                "round {:3} of {}: covered after {:.1} s; {:.0} s in all, {} statements written",
                times.len(),
                self.rounds,
                time.as_secs_f64(),
                started.elapsed().as_secs_f64(),
                written.statements.load(Ordering::Relaxed)
            );
        }
        written.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.context("a writer ended")??;
        }
        let deadlocks: i64 = client
            .query_one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()", &[])
            .await?
            .get(0);
        let log = server.directory().context("a server of our own has a directory")?.join("log");
        let log = std::fs::read_to_string(log).context("cannot read the server's log")?;
        let still_waiting =
            log.lines().filter(|line| line.starts_with("writer|") && line.contains("still waiting"));
        Ok(self.verdict(&times, &written, deadlocks, still_waiting.count()))
    }

    fn verdict(&self, times: &[f64], written: &Written, deadlocks: i64, blocked: usize) -> Verdict {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let mut verdict = Verdict::default();
        verdict.row("rounds", &format!("{} of {}", times.len(), self.rounds));
        verdict.row(
            "replicas at once, tables, writers",
            &format!("{}, {}, {}", self.replicas, self.tables, self.writers),
        );
        if let (Some(least), Some(most)) = (times.first(), times.last()) {
            let median = times[times.len() / 2];
            verdict.row(
                "all covered after, median (least, most)",
                &format!("{median:.1} ({least:.1}, {most:.1}) s"),
            );
        }
        verdict.row("statements written, none failed", &written.statements.load(Ordering::Relaxed));
        verdict.row(
            "their slowest, by the client",
            &format!("{} ms", written.slowest_us.load(Ordering::Relaxed) / 1000),
        );
        verdict
            .row(format!("writers blocked for {LONGEST_BLOCKED_MS} ms or longer, by the server"), &blocked);
        verdict.row("deadlocks", &deadlocks);
        verdict.row("installers per round; schema after each uninstalling", &"1; as before");
        verdict.must(times.len() == self.rounds as usize, "not all rounds were played within the limit");
        verdict.must(deadlocks == 0, "there were deadlocks");
        verdict.must(blocked == 0, "writers were blocked for too long");
        verdict
    }

    /// Starts the replicas, waits until everything is covered, stops them, and uninstalls.
    async fn round(
        &self,
        dapper: &Path,
        database: &Database,
        client: &Client,
        before: &str,
    ) -> Result<Duration> {
        let environment = vec![("DATABASE_URL".to_owned(), database.url())];
        let mut cluster = Cluster::new(ClusterOptions {
            program: dapper.to_owned(),
            pipeline: pipeline(""),
            environment: environment.clone(),
            ..ClusterOptions::default()
        })?;
        let started = Instant::now();
        for _ in 0..self.replicas {
            cluster.start_replica()?;
        }
        let wanted = i64::from(self.tables) * 3;
        let sql = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper\\_%' AND tgenabled = 'O'";
        while client.query_one(sql, &[]).await?.get::<_, i64>(0) != wanted {
            if started.elapsed() > COVER_LIMIT {
                bail!(
                    "not covered within {COVER_LIMIT:?}; the log of a replica:\n{}",
                    cluster.replicas()[0].log().tail()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
        let time = started.elapsed();
        for replica in cluster.replicas() {
            replica.wait_for_line(COVER_LIMIT, |line| line.message() == "standing by").await?;
            replica.terminate()?;
        }
        for replica in cluster.replicas() {
            let status = replica.wait(EXIT_LIMIT).await?;
            if !status.success() {
                bail!("replica {} ended with {status}:\n{}", replica.number(), replica.log().tail());
            }
        }
        let installers = cluster
            .replicas()
            .iter()
            .filter(|replica| replica.log().lines().iter().any(|line| line.message() == "schema installed"));
        let installers = installers.count();
        if installers != 1 {
            bail!("{installers} replicas say that they installed the schema");
        }
        let mut uninstall = Command::new(dapper);
        uninstall.arg("uninstall").arg(cluster.pipeline()).envs(environment);
        run(uninstall).await?;
        if dump(database).await? != before {
            bail!("after uninstalling pg_dump --schema-only differs");
        }
        Ok(time)
    }
}

/// Writes in one session for each round: PostgreSQL keeps what a session has compiled of a function for as long as that
/// lives, also when the function is dropped, and goes through all of it at each change of a table. A hundred installations
/// in one session would measure that.
async fn write(url: String, slow: bool, tables: u32, written: Arc<Written>) -> Result<()> {
    let (mut client, mut round) = (session(&url).await?, 0);
    while !written.stop.load(Ordering::Relaxed) {
        let now = written.round.load(Ordering::Relaxed);
        if round != now {
            (client, round) = (session(&url).await?, now);
        }
        let table = fastrand::u32(0..tables);
        let statement = match fastrand::u8(0..3) {
            0 => format!("INSERT INTO t{table} (v) VALUES (1), (2)"),
            1 => format!("UPDATE t{table} SET v = v + 1 WHERE id > (SELECT max(id) - 2 FROM t{table})"),
            _ => format!("DELETE FROM t{table} WHERE id < (SELECT max(id) - 20 FROM t{table})"),
        };
        if slow {
            client.batch_execute("BEGIN").await?;
        }
        let started = Instant::now();
        client.batch_execute(&statement).await.with_context(|| statement.clone())?;
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        written.slowest_us.fetch_max(took, Ordering::Relaxed);
        written.statements.fetch_add(1, Ordering::Relaxed);
        if slow {
            sleep(SLOW_TRANSACTION).await;
            client.batch_execute("COMMIT").await?;
        } else {
            sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

async fn session(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("SET application_name = 'writer'").await?;
    Ok(client)
}

/// The database's schema as `pg_dump` writes it.
async fn dump(database: &Database) -> Result<String> {
    let bin = database.server().bin().context("a server of our own has programs")?;
    let mut command = Command::new(bin.join("pg_dump"));
    command.args(["--schema-only", "--dbname", &database.url()]);
    // Newer versions put a random word around the rest.
    Ok(run(command).await?.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n"))
}
