//! The readers of the other ways. Each is a program of its own, as dapper's replica is: `bench reader WAY` with the
//! connection string in `DATABASE_URL`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::StreamExt;
use futures::channel::mpsc;
use serde::Deserialize;
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};

use crate::probe::Probe;
use crate::sql;

/// How often the poller looks.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Which reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reader {
    /// Takes each notification's text for the change.
    Ancestor,
    /// Is woken by a NOTIFY and takes out the journal's rows.
    Journal,
    /// Takes each notification's text for the id.
    Bare,
    /// Looks every 100 ms.
    Poll,
}

/// What the ancestor's notification holds.
#[derive(Deserialize)]
struct Change {
    tbl: String,
    id: i64,
    op: String,
}

impl Reader {
    pub(crate) async fn run(self) -> Result<()> {
        let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
        let probe = Arc::new(Probe::default());
        probe.serve();
        let (client, notifications) = listen(&url).await?;
        match self {
            Self::Ancestor => ancestor(&client, notifications, &probe).await,
            Self::Journal => journal(&client, notifications, &probe).await,
            Self::Bare => bare(&client, notifications, &probe).await,
            Self::Poll => poll(&client, &probe).await,
        }
    }
}

/// A session, and what it is notified of.
async fn listen(url: &str) -> Result<(Client, mpsc::UnboundedReceiver<Notification>)> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (sender, receiver) = mpsc::unbounded();
    tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message
                && sender.unbounded_send(notification).is_err()
            {
                break;
            }
        }
    });
    Ok((client, receiver))
}

async fn ancestor(
    client: &Client,
    mut notifications: mpsc::UnboundedReceiver<Notification>,
    probe: &Probe,
) -> Result<()> {
    client.batch_execute("LISTEN seed").await?;
    while let Some(notification) = notifications.next().await {
        let change: Change = serde_json::from_str(notification.payload())?;
        // What a process would be given: the operation in lower case, the id as text.
        let event = (change.tbl, change.op.to_ascii_lowercase(), change.id.to_string());
        probe.hit(&std::hint::black_box(event).2);
    }
    Ok(())
}

async fn journal(
    client: &Client,
    mut notifications: mpsc::UnboundedReceiver<Notification>,
    probe: &Probe,
) -> Result<()> {
    client.batch_execute("LISTEN journal").await?;
    let take = client.prepare(sql::TAKE_FROM_JOURNAL).await?;
    loop {
        let mut rows = client.query(&take, &[]).await?;
        // A DELETE returns its rows in no order.
        rows.sort_by_key(|row| row.get::<_, i64>(0));
        for row in &rows {
            let event: (&str, i64, &str) = (row.get(1), row.get(2), row.get(3));
            probe.hit(&std::hint::black_box(event).1.to_string());
        }
        if rows.is_empty() {
            notifications.next().await.context("the connection is lost")?;
        }
        // Those that have come meanwhile say nothing new.
        while notifications.try_recv().is_ok() {}
    }
}

async fn bare(
    client: &Client,
    mut notifications: mpsc::UnboundedReceiver<Notification>,
    probe: &Probe,
) -> Result<()> {
    client.batch_execute("LISTEN bare").await?;
    while let Some(notification) = notifications.next().await {
        probe.hit(notification.payload());
    }
    Ok(())
}

async fn poll(client: &Client, probe: &Probe) -> Result<()> {
    let poll = client.prepare(sql::POLL).await?;
    let mut last = 0_i64;
    loop {
        for row in client.query(&poll, &[&last]).await? {
            last = row.get(0);
            probe.hit(&row.get::<_, i64>(1).to_string());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
