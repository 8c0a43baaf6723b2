//! The suite for every store, on etcd.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapper_lock::LockStore;
use dapper_lock_conformance::{Harness, HarnessError, Needs, Suspect};
use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore};
use dapper_testkit::EtcdOptions;
use tokio::task::spawn_blocking;

use crate::support::Bed;

/// Keys of its own; where etcd itself is disturbed, on an etcd of its own.
struct Etcd(Bed);

impl Etcd {
    async fn fresh(needs: Needs) -> Result<Self, HarnessError> {
        let is_private = needs.restart || needs.restore;
        let bed = move || if is_private { Bed::private(&EtcdOptions::default()) } else { Bed::shared() };
        Ok(Self(spawn_blocking(bed).await?))
    }

    /// Does something to the data of an etcd that is killed for it and started again.
    async fn while_dead(&self, act: fn(&Path) -> io::Result<()>) -> Result<(), HarnessError> {
        let server = Arc::clone(&self.0.server);
        let acted = spawn_blocking(move || {
            server.kill_9()?;
            act(server.directory())?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(server.restart()?)
        });
        Ok(acted.await??)
    }
}

#[async_trait]
impl Harness for Etcd {
    async fn open(&self) -> Result<Arc<dyn LockStore>, HarnessError> {
        Ok(Arc::new(self.0.store()))
    }

    fn ttl_granularity(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn restart(&self) -> Result<(), HarnessError> {
        self.while_dead(|_| Ok(())).await
    }

    async fn back_up(&self) -> Result<(), HarnessError> {
        self.while_dead(|folder| copy(&folder.join("data"), &folder.join("backup"))).await
    }

    async fn restore(&self) -> Result<(), HarnessError> {
        self.while_dead(|folder| {
            fs::remove_dir_all(folder.join("data"))?;
            copy(&folder.join("backup"), &folder.join("data"))
        })
        .await
    }

    fn address(&self) -> Result<String, HarnessError> {
        Ok(format!("{} {}", self.0.server.url(), self.0.prefix()))
    }

    async fn attach(address: &str) -> Result<Arc<dyn LockStore>, HarnessError> {
        let (url, prefix) = address.split_once(' ').ok_or("no address of an etcd")?;
        let (endpoints, prefix) = (vec![url.parse()?], prefix.to_owned());
        Ok(Arc::new(EtcdLockStore::new(EtcdLockOptions { endpoints, prefix, ..Default::default() })))
    }

    async fn open_with_secret(&self, canary: &str) -> Result<Vec<Suspect>, HarnessError> {
        let addresses = [
            // Refused, since this etcd knows no users; and nobody there.
            self.0.server.url().replace("http://", &format!("http://someone:{canary}@")),
            format!("http://someone:{canary}@127.0.0.1:1"),
            format!("https://someone:{canary}@127.0.0.1:1"),
        ];
        let suspects = addresses.map(|address| {
            let store = EtcdLockStore::new(EtcdLockOptions::from_connection_string(&address.into())?);
            let debug = format!("{store:?}");
            Ok(Suspect { store: Arc::new(store), debug })
        });
        suspects.into_iter().collect()
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

dapper_lock_conformance::suite!(Etcd::fresh);
