//! A pipeline with several replicas, a database, receivers, and somebody who writes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dapper_testkit::{Cluster, ClusterOptions, Database, Receiver, Reply};
use tokio::time::{Instant, sleep};

/// What actions on the pages need.
pub const TOKEN: &str = "a-token-for-the-pages-alone";
const LIMIT: Duration = Duration::from_secs(60);

const PIPELINE: &str = r#"
[[inputs]]
name = "orders-input"
type = "postgres"
connection_string = "${DATABASE_URL}"

[[processes]]
name = "validate"
type = "webhook"
[processes.execution_context]
url = "${VALIDATE_URL}"

[[processes]]
name = "notify"
type = "webhook"
[processes.execution_context]
url = "${NOTIFY_URL}"
[processes.retry]
min_backoff = "100ms"
max_backoff = "60s"
max_attempts = 4

[[processes]]
name = "ledger"
type = "webhook"
[processes.execution_context]
url = "${LEDGER_URL}"

[[processes]]
name = "archive"
type = "log"

[[links]]
input = "orders-input"
process = "validate"

[[links]]
input = "orders-input"
process = "archive"

[[links]]
input = "validate"
process = "notify"

[[links]]
input = "validate"
process = "ledger"
"#;

/// Everything that pages are looked at for. Ended when this is dropped.
pub struct Stage {
    cluster: Cluster,
    database: Database,
    notify: Receiver,
    _others: [Receiver; 2],
    writes: Arc<AtomicBool>,
    addresses: Vec<String>,
}

impl Stage {
    /// Starts `replicas` replicas on a database without tables, and waits until one leads and the table is covered.
    ///
    /// # Errors
    /// When something of it can't be started.
    pub async fn set(program: PathBuf, database: Database, replicas: usize) -> Result<Self> {
        let client = database.connect().await?;
        client.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric)").await?;
        let (validate, notify, ledger) =
            (Receiver::start().await?, Receiver::start().await?, Receiver::start().await?);
        let environment = [
            ("DATABASE_URL", database.url()),
            ("VALIDATE_URL", validate.url()),
            ("NOTIFY_URL", notify.url()),
            ("LEDGER_URL", ledger.url()),
            ("DAPPER_HTTP_TOKEN", TOKEN.to_owned()),
        ];
        let cluster = Cluster::new(ClusterOptions {
            program,
            pipeline: PIPELINE.to_owned(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            arguments: ["--http", "0"].map(str::to_owned).into(),
        })?;
        let others = [validate, ledger];
        let writes = Arc::default();
        let mut stage = Self { cluster, database, notify, _others: others, writes, addresses: Vec::new() };
        for _ in 0..replicas {
            stage.start_replica().await?;
        }
        stage.cluster.wait_for_leader(0, LIMIT).await?;
        let sql = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper%'";
        let deadline = Instant::now() + LIMIT;
        while client.query_one(sql, &[]).await?.get::<_, i64>(0) < 3 {
            if Instant::now() >= deadline {
                bail!("the table was not covered");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(stage)
    }

    /// Starts one more; where its page is.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start_replica(&mut self) -> Result<String> {
        let replica = self.cluster.start_replica()?;
        let line = replica.wait_for_line(LIMIT, |line| line.message().starts_with("serving http://")).await?;
        let url = line.message().trim_start_matches("serving ").to_owned();
        self.addresses.push(url.clone());
        Ok(url)
    }

    /// Where the page of the replica is that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leading(&self) -> Result<&str> {
        let leader = self.cluster.leader().context("no replica leads")?;
        Ok(&self.addresses[leader.replica])
    }

    /// Where the page of a replica is that runs and does not lead.
    ///
    /// # Errors
    /// When there is none.
    pub fn standing_by(&self) -> Result<&str> {
        let leader = self.cluster.leader().context("no replica leads")?;
        let mut others =
            self.cluster.replicas().iter().filter(|it| it.is_running() && it.number() != leader.replica);
        Ok(&self.addresses[others.next().context("no replica stands by")?.number()])
    }

    /// Kills the replica that leads, and waits until another does.
    ///
    /// # Errors
    /// When none does.
    pub async fn take_over(&mut self) -> Result<()> {
        let leader = self.cluster.leader().context("no replica leads")?;
        self.cluster.replicas()[leader.replica].kill_9()?;
        self.cluster.wait_for_leader(leader.token, LIMIT).await?;
        Ok(())
    }

    /// From now on writes go on as on an ordinary day, now more of them and now fewer.
    ///
    /// # Errors
    /// When the database can't be reached.
    pub async fn write(&self) -> Result<()> {
        let client = self.database.connect().await?;
        self.writes.store(true, Ordering::Relaxed);
        let writes = Arc::clone(&self.writes);
        tokio::spawn(async move {
            let (mut id, mut step) = (0_i64, 0_u32);
            while writes.load(Ordering::Relaxed) {
                let wave = 3.5 + 2.0 * (f64::from(step) / 60.0).sin() + 1.5 * (f64::from(step) / 17.0).sin();
                let rows = wave.max(1.0) as i64;
                let sql = format!(
                    "INSERT INTO orders SELECT n, n FROM generate_series({}, {}) n",
                    id + 1,
                    id + rows
                );
                if client.batch_execute(&sql).await.is_err() {
                    return;
                }
                (id, step) = (id + rows, step + 1);
                sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(())
    }

    /// From now on `notify` refuses every 100th key, or all.
    pub fn refuse(&self, all: bool) {
        self.notify.reply_with(move |request| {
            let is_hundredth = request.text("id").is_some_and(|id| id.ends_with("00"));
            Reply::status(if all || is_hundredth { 503 } else { 200 })
        });
    }

    /// From now on `notify` takes everything.
    pub fn accept(&self) {
        self.notify.reply(Reply::OK);
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.writes.store(false, Ordering::Relaxed);
    }
}

/// The program `dapper` beside a program of this crate; it is built first.
///
/// # Errors
/// When it can't be built.
pub fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let folder =
        own.parent().filter(|folder| !folder.ends_with("deps")).or(own.parent().and_then(|it| it.parent()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--quiet", "--package", "dapper-orchestrator-cli", "--bin", "dapper"];
    let built = Command::new(cargo).args(build).status().context("cannot run cargo")?;
    if !built.success() {
        bail!("dapper could not be built: {built}");
    }
    Ok(folder.context("a program has a folder")?.join("dapper"))
}
