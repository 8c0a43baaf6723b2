//! An input that is moved from one lock store to another.

use dapper_testkit::Database;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Dapper, Running, SMALL, Said, database};

/// A deployment whose leases were beside the cursor and are to be elsewhere.
struct Move {
    database: Database,
    client: Client,
    /// The new `[lock]` section, and its address.
    lock: &'static str,
    lock_url: String,
}

impl Move {
    fn new_pipeline(&self) -> String {
        format!("{}{SMALL}", self.lock)
    }

    fn start(&self, pipeline: &str) -> Running {
        Running::start_with(pipeline, &self.database, &[], &[("LOCK_URL", &self.lock_url)])
    }

    /// Moves the input to the lock store of `pipeline`, from that of `old`.
    fn accept(&self, pipeline: &str, old: Option<&str>) -> Said {
        let folder = tempfile::tempdir().unwrap();
        let old_file = folder.path().join("old.toml");
        let mut arguments = vec!["accept-lock-store", "pipeline.toml", "orders-input"];
        match old {
            None => arguments.push("--old-is-gone"),
            Some(old) => {
                std::fs::write(&old_file, old).unwrap();
                arguments.extend(["--old", old_file.to_str().unwrap()]);
            }
        }
        let dapper = Dapper::new(pipeline, &arguments).env("DATABASE_URL", &self.database.url());
        dapper.env("LOCK_URL", &self.lock_url).run()
    }

    /// Inserts a row and returns the token under which its event comes.
    async fn token_of(&self, id: i64, replica: &mut Running) -> u64 {
        self.client.execute("INSERT INTO orders VALUES ($1)", &[&id]).await.unwrap();
        loop {
            let event: Value = serde_json::from_str(&replica.printed().await).unwrap();
            if event["id"].as_str() == Some(&*id.to_string()) {
                return event["token"].as_u64().unwrap();
            }
        }
    }

    async fn refused_until_accepted(self) {
        let new = self.new_pipeline();
        let mut before = self.start(SMALL);
        before.logged("tables under capture").await;
        let first = self.token_of(1, &mut before).await;

        // Both at once: the new one must not read, and says what to do.
        let mut refused = self.start(&new);
        refused.logged("dapper accept-lock-store").await;
        refused.signal(Signal::SIGTERM);
        assert_eq!(refused.exit_code().await, Some(0));
        let held = self.accept(&new, Some(SMALL));
        assert_eq!((held.code, held.err.lines().count()), (Some(1), 1), "{held:?}");
        assert!(held.err.contains("still holds the lease of input \"orders-input\""), "{}", held.err);
        assert!(self.token_of(2, &mut before).await == first);
        before.signal(Signal::SIGTERM);
        assert_eq!(before.exit_code().await, Some(0));

        let moved = self.accept(&new, Some(SMALL));
        assert_eq!(moved.code, Some(0), "{moved:?}");
        assert!(moved.out.starts_with("orders-input: fenced by lock store "), "{}", moved.out);
        assert!(moved.out.ends_with(&format!("the next token is above {first}\n")), "{}", moved.out);
        let mut after = self.start(&new);
        let second = self.token_of(3, &mut after).await;
        assert!(second > first, "{second} after {first}");

        // Whoever was forgotten is refused in turn.
        let mut forgotten = self.start(SMALL);
        forgotten.logged("dapper accept-lock-store").await;
        let back = self.accept(SMALL, Some(&new));
        assert!(back.err.contains("still holds the lease"), "{back:?}");

        // A store that is gone can't be asked.
        after.signal(Signal::SIGKILL);
        after.exit_code().await;
        assert_eq!(self.accept(SMALL, None).code, Some(0));
        drop(forgotten);
        let third = self.token_of(4, &mut self.start(SMALL)).await;
        assert!(third > second, "{third} after {second}");
    }
}

#[tokio::test]
async fn to_another_database() {
    let (database, client) = database().await;
    let elsewhere = Database::create().await.unwrap();
    let lock = "[lock]\nbackend = \"postgres\"\nconnection_string = \"${LOCK_URL}\"\n";
    let moving = Move { database, client, lock, lock_url: elsewhere.url() };
    moving.refused_until_accepted().await;
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn to_etcd() {
    let etcd = dapper_testkit::EtcdServer::start(&dapper_testkit::EtcdOptions::default()).unwrap();
    let (database, client) = database().await;
    let lock = "[lock]\nbackend = \"etcd\"\nconnection_string = \"${LOCK_URL}\"\n";
    Move { database, client, lock, lock_url: etcd.url() }.refused_until_accepted().await;
}

#[test]
fn the_old_store_must_be_named_or_said_to_be_gone() {
    let said = Dapper::new(SMALL, &["accept-lock-store", "pipeline.toml", "orders-input"]).run();
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("--old <PIPELINE>"), "{}", said.err);
    let said =
        Dapper::new(SMALL, &["accept-lock-store", "pipeline.toml", "order-input", "--old-is-gone"]).run();
    assert!(said.err.contains("there is no input \"order-input\""), "{}", said.err);
    assert!(said.err.contains("orders-input"), "{}", said.err);
}
