//! The suite for every store, on PostgreSQL: with sessions and, as behind a pooler, without.

use std::sync::Arc;

use async_trait::async_trait;
use dapper_lock::LockStore;
use dapper_lock_conformance::{Harness, HarnessError, Needs, Suspect};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_testkit::{Database, Server, ServerOptions, StopMode};

/// A database of its own; one that restarts, on a server of its own.
struct Postgres<const SESSIONS: bool> {
    database: Database,
}

impl<const SESSIONS: bool> Postgres<SESSIONS> {
    async fn fresh(needs: Needs) -> Result<Self, HarnessError> {
        let database = if needs.restart {
            let server = tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default())).await??;
            Database::create_on(&server).await?
        } else {
            Database::create().await?
        };
        Ok(Self { database })
    }

    fn store(url: &str) -> Result<PostgresLockStore, HarnessError> {
        let options = PostgresLockOptions { use_sessions: SESSIONS, ..Default::default() };
        Ok(PostgresLockStore::new(url.parse()?, options))
    }
}

#[async_trait]
impl<const SESSIONS: bool> Harness for Postgres<SESSIONS> {
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(Self::store(&self.database.url())?))
    }

    async fn restart(&self) -> Result<(), HarnessError> {
        let server = self.database.server().clone();
        let restarted = tokio::task::spawn_blocking(move || {
            server.stop(StopMode::Immediate)?;
            server.restart()
        });
        Ok(restarted.await??)
    }

    async fn back_up(&self) -> Result<(), HarnessError> {
        let client = self.database.connect().await?;
        Ok(client.batch_execute("CREATE TABLE backup AS TABLE dapper_lock.leases").await?)
    }

    async fn restore(&self) -> Result<(), HarnessError> {
        let client = self.database.connect().await?;
        let restore =
            "BEGIN; TRUNCATE dapper_lock.leases; INSERT INTO dapper_lock.leases TABLE backup; COMMIT";
        Ok(client.batch_execute(restore).await?)
    }

    fn address(&self) -> Result<String, HarnessError> {
        Ok(self.database.url())
    }

    async fn attach(address: &str) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(Self::store(address)?))
    }

    async fn open_with_secret(&self, canary: &str) -> Result<Vec<Suspect>, HarnessError> {
        let urls = [
            self.database.url_as("nobody_at_all", canary),
            format!("postgres://someone:{canary}@127.0.0.1:1/db"),
            format!("host=127.0.0.1 port=1 user=someone password={canary}"),
        ];
        let suspects = urls.iter().map(|url| {
            let store = Self::store(url)?;
            let debug = format!("{store:?}");
            Ok(Suspect { store: Arc::new(store), debug })
        });
        suspects.collect()
    }
}

mod with_sessions {
    dapper_lock_conformance::suite!(super::Postgres::<true>::fresh);
}

mod without_sessions {
    dapper_lock_conformance::suite!(super::Postgres::<false>::fresh);
}
