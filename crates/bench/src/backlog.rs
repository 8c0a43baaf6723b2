//! Backlogs: changes that were captured while nobody read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use tokio_postgres::Client;

use crate::site::Site;
use crate::sql;

const SESSIONS: u64 = 2;
/// Statements that one transaction of [`fill`](crate::sql::fill) holds.
const CHUNK: u64 = 500;

/// Captures about so many changes, in statements of `rows` each, and says how many are recorded now.
pub(crate) async fn fill(site: &Site, changes: u64, rows: u64) -> Result<u64> {
    let statements = (changes / rows / SESSIONS).max(1);
    let mut fillers = Vec::new();
    for _ in 0..SESSIONS {
        let client = site.database.connect().await?;
        fillers.push(tokio::spawn(async move {
            client.batch_execute("SET synchronous_commit = off").await?;
            client.batch_execute(&sql::fill(statements, rows, CHUNK.min(statements))).await
        }));
    }
    for filler in fillers {
        filler.await.context("a filler ended")??;
    }
    // The site's own session is elsewhere while the database is copied.
    let client = site.database.connect().await?;
    let recorded: i64 = client.query_one(sql::RECORDED, &[]).await?.get(0);
    client.batch_execute("CHECKPOINT").await?;
    Ok(recorded.try_into()?)
}

/// How long it takes to read what a statement returns and look at nothing.
pub(crate) async fn read(client: &Client, statement: &str) -> Result<Duration> {
    let statement = client.prepare(statement).await?;
    let started = Instant::now();
    let rows = client.query_raw(&statement, std::iter::empty::<i32>()).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.next().await {
        row?;
    }
    Ok(started.elapsed())
}
