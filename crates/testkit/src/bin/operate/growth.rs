//! Changes by the million, first undisturbed, then with a transaction that stays open for the whole run.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dapper_testkit::{Cluster, ClusterOptions, Database};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};
use tokio_postgres::Client;

use crate::{Verdict, pipeline, run, server};

const MEBIBYTE: i64 = 1024 * 1024;
/// What our schema may take, what is unread aside.
const LARGEST: i64 = 64 * MEBIBYTE;
/// The rate with an open transaction, as part of the one without.
const LEAST_RATE: f64 = 0.95;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Writers wait while this many change sets are unread: the reader is what is measured, and it must always have work.
const AHEAD: i64 = 50_000;
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Growth {
    /// Changes in each of the two halves
    #[arg(long, default_value_t = 10_000_000)]
    changes: i64,
    /// Rows in one statement
    #[arg(long, default_value_t = 20)]
    rows: i64,
    /// Pairs of parts, one without and one with the transaction, that the halves are cut into
    #[arg(long, default_value_t = 15)]
    pairs: u32,
}

/// What a half is measured by.
#[derive(Debug, Default)]
struct Half {
    rates: Vec<f64>,
    largest: i64,
    dead: i64,
}

impl Growth {
    pub(crate) async fn play(self, dapper: &Path) -> Result<Verdict> {
        let server = server(&[("max_wal_size", "4GB"), ("shared_buffers", "256MB")]).await?;
        let database = Database::create_on(&server).await?;
        let client = database.connect().await?;
        client.batch_execute("CREATE EXTENSION pgstattuple; CREATE UNLOGGED TABLE t (id bigint); CREATE TABLE held (id int)").await?;
        let environment = vec![("DATABASE_URL".to_owned(), database.url())];
        let mut cluster = Cluster::new(ClusterOptions {
            program: dapper.to_owned(),
            pipeline: pipeline("retention = \"0s\""),
            environment: environment.clone(),
            ..ClusterOptions::default()
        })?;
        let mut install = Command::new(dapper);
        install.arg("install").arg(cluster.pipeline()).envs(environment);
        run(install).await?;
        let mut verdict = Verdict::default();
        for rows in [1, 10, 100, 1000] {
            verdict.row(
                format!("bytes per change, {rows} row(s) in a statement"),
                &bytes_per_change(&client, rows).await?,
            );
        }
        cluster.start_replica()?;
        cluster.wait_for_leader(0, DRAIN_LIMIT).await?;
        drained(&client).await?;
        let (mut free, mut held) = (Half::default(), Half::default());
        let part = self.changes / i64::from(self.pairs);
        for pair in 0..self.pairs {
            // In turns, and each first every other time, so that whatever else changes on the machine meets both.
            for held_now in [pair % 2 == 1, pair % 2 == 0] {
                if held_now {
                    let open = database.connect().await?;
                    open.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO held VALUES (0)")
                        .await?;
                    self.part(&database, part, &mut held).await?;
                    // Its own change set must not be what is dead in the end.
                    open.batch_execute("COMMIT").await?;
                    drained(&client).await?;
                } else {
                    self.part(&database, part, &mut free).await?;
                }
            }
            println!(
                "pair {} of {}: {:9.0} changes/s undisturbed, {:9.0} with an open transaction",
                pair + 1,
                self.pairs,
                free.rates[pair as usize],
                held.rates[pair as usize]
            );
        }
        self.judge(&mut verdict, &free, &held);
        let replica = &cluster.replicas()[0];
        verdict.must(replica.is_running(), format!("the replica ended:\n{}", replica.log().tail()));
        Ok(verdict)
    }

    fn judge(&self, verdict: &mut Verdict, free: &Half, held: &Half) {
        let ratios = free.rates.iter().zip(&held.rates).map(|(free, held)| held / free);
        let (middle, least, most) = median(ratios.collect());
        for (name, half) in [("undisturbed", free), ("with an open transaction", held)] {
            let (middle, least, most) = median(half.rates.clone());
            verdict.row(format!("changes/s {name}"), &format!("{middle:.0} ({least:.0} to {most:.0})"));
            verdict.row(
                format!("largest size less what is unread, {name}"),
                &format!("{:.1} MiB", half.largest as f64 / MEBIBYTE as f64),
            );
            verdict.row(format!("dead rows in change sets, {name}"), &half.dead);
            verdict.must(half.largest < LARGEST, format!("the schema grew beyond 64 MiB, {name}"));
            verdict.must(half.dead == 0, format!("there were dead rows, {name}"));
        }
        verdict.row(
            "rate with an open transaction / without",
            &format!("{middle:.3} ({least:.3} to {most:.3})"),
        );
        verdict.must(middle >= LEAST_RATE, "the open transaction slowed the reader down by more than 5 %");
    }

    /// Writes so many changes while they are read, and waits for the last of them.
    async fn part(&self, database: &Database, changes: i64, half: &mut Half) -> Result<()> {
        let client = database.connect().await?;
        client.batch_execute("TRUNCATE t").await?;
        let started = Instant::now();
        let (left, pause) = (Arc::new(AtomicI64::new(changes)), Arc::new(AtomicBool::new(false)));
        let mut writers = JoinSet::new();
        for _ in 0..2 {
            let writer = database.connect().await?;
            writers.spawn(write(writer, self.rows, Arc::clone(&left), Arc::clone(&pause)));
        }
        let mut looked = 0_u32;
        while !writers.is_empty() {
            let (size, unread, unread_bytes) = sample(&client).await?;
            pause.store(unread > AHEAD, Ordering::Relaxed);
            half.largest = half.largest.max(size - unread_bytes);
            if looked.is_multiple_of(10) {
                half.dead = half.dead.max(dead(&client).await?);
            }
            looked += 1;
            // The end is seen when it comes: the rate must not depend on when one looks.
            let next = Instant::now() + SAMPLE_EVERY;
            while let Ok(Some(ended)) = timeout_at(next.into(), writers.join_next()).await {
                ended.context("a writer ended")??;
            }
        }
        drained(&client).await?;
        half.rates.push(changes as f64 / started.elapsed().as_secs_f64());
        half.dead = half.dead.max(dead(&client).await?);
        half.largest = half.largest.max(sample(&client).await?.0);
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    match (values.first(), values.last()) {
        (Some(&least), Some(&most)) => (values[values.len() / 2], least, most),
        _ => (0.0, 0.0, 0.0),
    }
}

async fn write(client: Client, rows: i64, left: Arc<AtomicI64>, pause: Arc<AtomicBool>) -> Result<()> {
    let insert = client.prepare("INSERT INTO t SELECT generate_series(1, $1::bigint)").await?;
    while left.fetch_sub(rows, Ordering::Relaxed) > 0 {
        while pause.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(5)).await;
        }
        client.execute(&insert, &[&rows]).await?;
    }
    Ok(())
}

const UNREAD: &str = "
    FROM dapper_proof.cursors c JOIN dapper_proof.change_sets s ON s.xid >= pg_snapshot_xmin(c.prev)
   WHERE NOT pg_visible_in_snapshot(s.xid, c.prev)
     AND NOT COALESCE(pg_visible_in_snapshot(s.xid, c.target) AND s.seq <= c.done, false)";

/// The size of our schema, how many change sets are unread, and about how much of the size these are.
async fn sample(client: &Client) -> Result<(i64, i64, i64)> {
    let sql = format!(
        "SELECT (SELECT sum(pg_total_relation_size(r.oid))::int8 FROM pg_class r
                  WHERE r.relnamespace = 'dapper_proof'::regnamespace AND r.relkind IN ('r', 'S')),
                count(*), COALESCE(sum(pg_column_size(s.*)), 0)::int8 {UNREAD}"
    );
    let row = client.query_opt(&sql, &[]).await?.context("the sizes")?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

async fn drained(client: &Client) -> Result<()> {
    let started = Instant::now();
    // Not yet claimed again, and nothing that the cursor has not passed.
    let sql = format!("SELECT NOT EXISTS (SELECT {UNREAD})");
    while !client.query_one(&sql, &[]).await?.get::<_, bool>(0) {
        if started.elapsed() > DRAIN_LIMIT {
            bail!("the reader did not catch up within {DRAIN_LIMIT:?}");
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn dead(client: &Client) -> Result<i64> {
    let sql = "SELECT sum((pgstattuple(i.inhrelid::regclass)).dead_tuple_count)::int8 FROM pg_inherits i
                WHERE i.inhparent = 'dapper_proof.change_sets'::regclass";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// What a change takes on the disk, with everything that belongs to it, while nobody reads.
async fn bytes_per_change(client: &Client, rows: i64) -> Result<i64> {
    let changes = (rows * 2_000).max(20_000);
    client
        .batch_execute("TRUNCATE dapper_proof.change_sets_0, dapper_proof.change_sets_1, dapper_proof.change_sets_2, dapper_proof.change_sets_3")
        .await?;
    let size = "SELECT sum(pg_total_relation_size(i.inhrelid))::int8 FROM pg_inherits i
                 WHERE i.inhparent = 'dapper_proof.change_sets'::regclass";
    let before: i64 = client.query_one(size, &[]).await?.get(0);
    client
        .batch_execute(&format!(
            "DO $$ BEGIN FOR n IN 1 .. {} LOOP
                INSERT INTO t SELECT generate_series(n * {rows}, n * {rows} + {rows} - 1); END LOOP; END $$",
            changes / rows
        ))
        .await?;
    let after: i64 = client.query_one(size, &[]).await?.get(0);
    Ok((after - before) / changes)
}
