//! A database with one of the ways of telling changes on it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dapper_testkit::{Database, Server};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::bench::{Bench, Kind};
use crate::child::{Child, beside};
use crate::sql;

const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How changes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Not at all.
    Nothing,
    Dapper,
    Ancestor,
    Journal,
    Logical,
    /// A NOTIFY with nothing but the id.
    BareNotify,
    /// A query every 100 ms.
    Polling,
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no capture",
            Self::Dapper => "dapper",
            Self::Ancestor => "ancestor",
            Self::Journal => "row journal with NOTIFY",
            Self::Logical => "logical decoding",
            Self::BareNotify => "bare LISTEN/NOTIFY",
            Self::Polling => "polling every 100 ms",
        }
    }

    const fn kind(self, disk: Disk) -> Kind {
        match (self, disk) {
            (Self::Logical, Disk::Waits) => Kind::Logical,
            (Self::Logical, Disk::Ignored) => Kind::LogicalFast,
            (_, Disk::Waits) => Kind::Plain,
            (_, Disk::Ignored) => Kind::Fast,
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::Nothing | Self::Dapper => "",
            Self::Ancestor => sql::ANCESTOR,
            Self::Journal => sql::JOURNAL,
            Self::Logical => "CREATE PUBLICATION bench FOR ALL TABLES",
            Self::BareNotify => sql::BARE_NOTIFY,
            Self::Polling => sql::POLLED,
        }
    }

    const fn reader(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Dapper | Self::Logical => None,
            Self::Ancestor => Some("ancestor"),
            Self::Journal => Some("journal"),
            Self::BareNotify => Some("bare"),
            Self::Polling => Some("poll"),
        }
    }
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Disk {
    /// For the disk, as it should.
    #[default]
    Waits,
    /// For nothing.
    Ignored,
}

/// How a way is set up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) disk: Disk,
    /// Lines of dapper's input.
    pub(crate) options: &'static str,
    /// How long the process works on an event, in microseconds.
    pub(crate) work_us: u32,
    /// How many events it works on at a time; as `dapper run` does by itself when absent.
    pub(crate) concurrency: Option<u16>,
    /// Whether the program counts what it allocates.
    pub(crate) is_counted: bool,
}

/// The database, and what its reader needs.
pub(crate) struct Site {
    pub(crate) way: Way,
    pub(crate) database: Database,
    pub(crate) client: Client,
    setup: Setup,
    folder: TempDir,
}

impl Site {
    /// Makes a database on the way's own kind of server, with the tables of `tables`.
    pub(crate) async fn create(bench: &Bench, way: Way, tables: &str, setup: Setup) -> Result<Self> {
        Self::create_on(bench.server(way.kind(setup.disk)).await?, way, tables, setup).await
    }

    pub(crate) async fn create_on(server: &Server, way: Way, tables: &str, setup: Setup) -> Result<Self> {
        let database = Database::create_on(server).await?;
        let client = database.connect().await?;
        client.batch_execute(tables).await.context("cannot make the tables")?;
        client.batch_execute(way.sql()).await.with_context(|| format!("cannot set up {}", way.name()))?;
        let site = Self { way, database, client, setup, folder: tempfile::tempdir()? };
        std::fs::write(site.pipeline(), site.pipeline_text())?;
        if way == Way::Dapper {
            site.install().await?;
        }
        Ok(site)
    }

    fn pipeline(&self) -> PathBuf {
        self.folder.path().join("pipeline.toml")
    }

    fn pipeline_text(&self) -> String {
        let Setup { options, work_us, .. } = self.setup;
        format!(
            "[[inputs]]\nname = \"bench\"\ntype = \"postgres\"\nconnection_string = \"${{DATABASE_URL}}\"\n{options}\n\
             [[processes]]\nname = \"probe\"\ntype = \"probe\"\n[processes.execution_context]\nwork_us = \"{work_us}\"\n\
             [[links]]\ninput = \"bench\"\nprocess = \"probe\"\n"
        )
    }

    async fn install(&self) -> Result<()> {
        let mut command = tokio::process::Command::new(beside("bench-replica")?);
        command.arg("--log-level=warn").arg("install").arg(self.pipeline());
        command.env("DATABASE_URL", self.database.url()).kill_on_drop(true);
        let output = tokio::time::timeout(INSTALL_LIMIT, command.output())
            .await
            .context("installing takes too long")?
            .context("cannot run the replica")?;
        if !output.status.success() {
            bail!("dapper install: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// A copy of the database as it is, change sets included; nobody may be connected to it but this.
    pub(crate) async fn copy(&mut self) -> Result<Self> {
        let server = self.database.server().clone();
        // Ends the only session, which would be in the way.
        self.client = dapper_testkit::connect(&server.url("postgres")).await?;
        let copy = Database::create_on(&server).await?;
        let (from, to) = (self.database.name(), copy.name());
        for attempt in 0.. {
            self.client.batch_execute(&format!("DROP DATABASE IF EXISTS {to}")).await?;
            let made = format!("CREATE DATABASE {to} TEMPLATE {from} STRATEGY file_copy");
            match self.client.batch_execute(&made).await {
                Ok(()) => break,
                // A session that has just ended is seen for a moment longer.
                Err(error) if attempt > 50 => return Err(error).context("cannot copy a database"),
                Err(_) => tokio::time::sleep(LOOK_EVERY * 5).await,
            }
        }
        let client = copy.connect().await?;
        let site =
            Self { way: self.way, database: copy, client, setup: self.setup, folder: tempfile::tempdir()? };
        std::fs::write(site.pipeline(), site.pipeline_text())?;
        Ok(site)
    }

    /// Removes the database: a copy of millions of rows is not kept for the rest of the run.
    pub(crate) async fn remove(self) -> Result<()> {
        let client = dapper_testkit::connect(&self.database.server().url("postgres")).await?;
        drop(self.client);
        client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.database.name())).await?;
        Ok(())
    }

    /// Its reader, started, and ready for what comes next; absent where there is none.
    pub(crate) async fn reader(&self) -> Result<Option<Child>> {
        match self.way {
            Way::Nothing => Ok(None),
            Way::Logical => self.logical_reader().await.map(Some),
            Way::Dapper | Way::Ancestor | Way::Journal | Way::BareNotify | Way::Polling => {
                let mut child = self.start()?;
                self.wait_until_ready(&mut child).await?;
                Ok(Some(child))
            }
        }
    }

    /// Its reader, not waited for.
    pub(crate) fn start(&self) -> Result<Child> {
        let environment = [("DATABASE_URL", self.database.url())];
        if let Some(reader) = self.way.reader() {
            let program = std::env::current_exe().context("cannot tell where this program is")?;
            return Child::start(&program, &["reader".into(), reader.into()], &environment);
        }
        let program = beside(if self.setup.is_counted { "bench-counted" } else { "bench-replica" })?;
        let mut arguments: Vec<OsString> =
            vec!["--log-level=warn".into(), "run".into(), self.pipeline().into_os_string()];
        if let Some(concurrency) = self.setup.concurrency {
            arguments.extend(["--concurrency".into(), concurrency.to_string().into()]);
        }
        Child::start(&program, &arguments, &environment)
    }

    /// Changes something until the reader has heard of it.
    async fn wait_until_ready(&self, child: &mut Child) -> Result<()> {
        let ready = tokio::time::timeout(CATCH_UP_LIMIT, async {
            loop {
                self.client.batch_execute("INSERT INTO orders (note) VALUES ('ready?')").await?;
                for _ in 0..10 {
                    if child.events().await? > 0 {
                        return anyhow::Ok(());
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
        ready.await.with_context(|| format!("the reader of {} does not get ready", self.way.name()))??;
        caught_up(child).await
    }

    /// `pg_recvlogical`, which comes with the server, and which does nothing with what it gets.
    async fn logical_reader(&self) -> Result<Child> {
        // A slot of an earlier turn would begin with what that has left.
        self.drop_slot().await?;
        self.client.batch_execute(sql::MAKE_SLOT).await.context("cannot make a slot")?;
        let bin = self.database.server().bin().context("the benches need a server of local binaries")?;
        let arguments: Vec<OsString> = [
            "--start",
            "--slot",
            "bench",
            "--file",
            "/dev/null",
            "--status-interval",
            "1",
            "--fsync-interval",
            "0",
            "--option",
            "proto_version=1",
            "--option",
            "publication_names=bench",
            "--dbname",
        ]
        .iter()
        .map(Into::into)
        .chain([self.database.url().into()])
        .collect();
        let child = Child::start_mute(&bin.join("pg_recvlogical"), &arguments)?;
        while !self.client.query_one(sql::IS_SLOT_ACTIVE, &[]).await?.get::<_, bool>(0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(child)
    }

    /// Waits until `pg_recvlogical` was sent all that is written now.
    pub(crate) async fn wait_for_logical_reader(&self) -> Result<()> {
        if self.way != Way::Logical {
            return Ok(());
        }
        let sent = tokio::time::timeout(CATCH_UP_LIMIT, async {
            while !self.client.query_one(sql::IS_SENT, &[]).await?.get::<_, bool>(0) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        });
        sent.await.context("pg_recvlogical does not catch up")?
    }

    /// Ends a reader, and with it what the server keeps for it.
    pub(crate) async fn stop(&self, child: Option<Child>) -> Result<()> {
        if let Some(child) = child {
            child.stop().await?;
        }
        if self.way == Way::Logical { self.drop_slot().await } else { Ok(()) }
    }

    async fn drop_slot(&self) -> Result<()> {
        for attempt in 0.. {
            match self.client.batch_execute(sql::DROP_SLOT).await {
                Ok(()) => break,
                // Its reader has ended, but is seen for a moment longer.
                Err(error) if attempt > 100 => return Err(error).context("cannot drop a slot"),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        Ok(())
    }
}

/// Waits until nothing comes any more: the next turn must find a quiet machine.
pub(crate) async fn caught_up(child: &mut Child) -> Result<()> {
    let mut last = child.events().await?;
    loop {
        tokio::time::sleep(LOOK_EVERY * 10).await;
        let now = child.events().await?;
        if now == last {
            return Ok(());
        }
        last = now;
    }
}
