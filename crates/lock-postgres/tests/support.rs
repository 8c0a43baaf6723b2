//! What the tests share: databases, stores, and a proxy that can hold back what the server says.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use dapper_lock::{HolderId, Lease, LeaseConfig, LockManager, LockStore, Resource, Term, TryAcquire};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_testkit::Database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};

pub(crate) const TTL: Duration = Duration::from_secs(10);
pub(crate) const SHORT: Duration = Duration::from_secs(1);

pub(crate) async fn database() -> Database {
    Database::create().await.unwrap()
}

pub(crate) fn config(database: &Database) -> Config {
    database.url().parse().unwrap()
}

pub(crate) fn store(database: &Database) -> PostgresLockStore {
    PostgresLockStore::new(config(database), PostgresLockOptions::default())
}

pub(crate) fn without_sessions(database: &Database) -> PostgresLockStore {
    let options = PostgresLockOptions { use_sessions: false, ..Default::default() };
    PostgresLockStore::new(config(database), options)
}

pub(crate) fn manager(store: PostgresLockStore, ttl: Duration) -> LockManager {
    LockManager::new(Arc::new(store), LeaseConfig::from_ttl(ttl).unwrap())
}

pub(crate) fn resource() -> Resource {
    Resource::new("it's \"orders\"").unwrap()
}

pub(crate) async fn acquire(manager: &LockManager) -> Lease {
    manager.acquire(&resource()).await.unwrap()
}

/// Lets `manager` wait for the lease, and returns once `count` sessions of the database are blocked on it.
pub(crate) async fn waiting(manager: &LockManager, watcher: &Client, count: i64) -> JoinHandle<Lease> {
    let manager = manager.clone();
    let task = tokio::spawn(async move { acquire(&manager).await });
    until(
        watcher,
        "SELECT count(*) >= $1 FROM pg_locks JOIN pg_database d ON d.oid = database \
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()",
        count,
    )
    .await;
    assert!(!task.is_finished());
    task
}

/// Waits until a query with one number as its parameter is true.
pub(crate) async fn until(watcher: &Client, query: &str, number: i64) {
    for _ in 0..1_000 {
        if watcher.query_one(query, &[&number]).await.unwrap().get(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not true within 10 s: {query}");
}

pub(crate) async fn granted(store: &PostgresLockStore, holder: HolderId, ttl: Duration) -> Term {
    match store.try_acquire(&resource(), &holder, ttl).await.unwrap() {
        TryAcquire::Granted(token) => Term { resource: resource(), holder, token },
        held @ TryAcquire::Held(_) => panic!("{held:?}"),
    }
}

/// The row's token, whether it says `session`, and the server process of its holder.
pub(crate) async fn row(watcher: &Client) -> (i64, bool, i32) {
    let row = watcher
        .query_one("SELECT token, session, backend FROM dapper_lock.leases WHERE resource <> ''", &[])
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

pub(crate) async fn kill_holder(watcher: &Client) {
    let (_, _, backend) = row(watcher).await;
    let killed = watcher.query_one("SELECT pg_terminate_backend($1)", &[&backend]).await.unwrap();
    assert!(killed.get::<_, bool>(0));
}

/// The error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Passes bytes on between clients and the server, unless it is told not to.
pub(crate) struct Proxy {
    port: u16,
    silent: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn before(database: &Database) -> Self {
        let config = config(database);
        let Some(Host::Tcp(host)) = config.get_hosts().first() else { panic!("the server has no TCP port") };
        let server = (host.clone(), config.get_ports().first().copied().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = watch::Sender::new(false);
        let answers = silent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pass(client_read, server_write, None));
                tokio::spawn(pass(server_read, client_write, Some(answers.subscribe())));
            }
        });
        Self { port, silent }
    }

    /// Keeps from now on everything back that the server says, the end of a connection included.
    pub(crate) fn silence(&self) {
        self.silent.send_replace(true);
    }

    /// Passes on what was kept back, and everything from now on.
    pub(crate) fn resume(&self) {
        self.silent.send_replace(false);
    }

    pub(crate) fn store(&self, database: &Database) -> PostgresLockStore {
        let original = config(database);
        let mut proxied = Config::new();
        proxied.host("127.0.0.1").port(self.port).dbname(database.name());
        proxied.user(original.get_user().unwrap()).password(original.get_password().unwrap());
        PostgresLockStore::new(proxied, PostgresLockOptions::default())
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut silent: Option<watch::Receiver<bool>>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if let Some(silent) = &mut silent {
            let _ = silent.wait_for(|silent| !silent).await;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
