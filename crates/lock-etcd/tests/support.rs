//! What the tests share: servers, stores, and a proxy that can hold back what the server says.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dapper_lock::{HolderId, Lease, LeaseConfig, LockManager, LockStore, Resource, Term, TryAcquire};
use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore};
use dapper_testkit::{EtcdOptions, EtcdServer};
use etcd_client::{Client, EventType, WatchOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub(crate) const TTL: Duration = Duration::from_secs(10);
pub(crate) const SHORT: Duration = Duration::from_secs(1);
/// Much less than any time to live here.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(500);
/// How much later than its time an etcd lease may end: the server looks every half second.
pub(crate) const LATE: Duration = Duration::from_millis(1_500);

/// Keys of one test's own, on some server.
pub(crate) struct Bed {
    pub(crate) server: Arc<EtcdServer>,
    prefix: String,
}

impl Bed {
    /// On the server that all tests share.
    pub(crate) fn shared() -> Self {
        static SHARED: OnceLock<Arc<EtcdServer>> = OnceLock::new();
        let start = || Arc::new(EtcdServer::start(&EtcdOptions::default()).unwrap());
        Self::on(Arc::clone(SHARED.get_or_init(start)))
    }

    /// On a server of its own.
    pub(crate) fn private(options: &EtcdOptions) -> Self {
        Self::on(Arc::new(EtcdServer::start(options).unwrap()))
    }

    fn on(server: Arc<EtcdServer>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self { server, prefix: format!("test{}/", NUMBER.fetch_add(1, Ordering::Relaxed)) }
    }

    pub(crate) fn options(&self) -> EtcdLockOptions {
        let endpoints = vec![self.server.url().parse().unwrap()];
        EtcdLockOptions { endpoints, prefix: self.prefix.clone(), ..EtcdLockOptions::default() }
    }

    pub(crate) fn store(&self) -> EtcdLockStore {
        EtcdLockStore::new(self.options())
    }

    /// A store that knows the server by this address alone.
    pub(crate) fn store_at(&self, url: &str) -> EtcdLockStore {
        EtcdLockStore::new(EtcdLockOptions { endpoints: vec![url.parse().unwrap()], ..self.options() })
    }

    pub(crate) fn manager(&self, ttl: Duration) -> LockManager {
        manager(self.store(), ttl)
    }

    /// The client library itself, for what is done by hand.
    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.server.url()], None).await.unwrap()
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of [`resource`].
    pub(crate) fn key(&self) -> String {
        format!("{}leases/{}", self.prefix, resource())
    }

    /// Resolves when the key of [`resource`] is put the next time.
    pub(crate) async fn granted(&self) -> JoinHandle<()> {
        let mut client = self.client().await;
        let mut stream = client.watch(self.key(), Some(WatchOptions::new())).await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = stream.message().await.unwrap() {
                if message.events().iter().any(|event| event.event_type() == EventType::Put) {
                    return;
                }
            }
        })
    }

    /// How many etcd leases there are, all tests' on this server.
    pub(crate) async fn leases(&self) -> usize {
        self.client().await.leases().await.unwrap().leases().len()
    }
}

pub(crate) fn manager(store: EtcdLockStore, ttl: Duration) -> LockManager {
    LockManager::new(Arc::new(store), LeaseConfig::from_ttl(ttl).unwrap())
}

pub(crate) fn resource() -> Resource {
    Resource::new("it's \"orders\"").unwrap()
}

pub(crate) async fn acquire(manager: &LockManager) -> Lease {
    manager.acquire(&resource()).await.unwrap()
}

/// Lets `manager` wait for the lease that somebody has.
pub(crate) async fn waiting(manager: &LockManager) -> JoinHandle<Lease> {
    let manager = manager.clone();
    let task = tokio::spawn(async move {
        // A manager gives up after a few failures in a row, and a restart may take longer than these.
        loop {
            match manager.acquire(&resource()).await {
                Err(error) if error.is_transient() => sleep(Duration::from_millis(10)).await,
                acquired => return acquired.unwrap(),
            }
        }
    });
    // There is no sign of a watch from outside; later is as good as earlier, since it starts from what was read.
    sleep(Duration::from_millis(200)).await;
    assert!(!task.is_finished());
    task
}

pub(crate) async fn granted(store: &EtcdLockStore, holder: HolderId, ttl: Duration) -> Term {
    match store.try_acquire(&resource(), &holder, ttl).await.unwrap() {
        TryAcquire::Granted(token) => Term { resource: resource(), holder, token },
        held @ TryAcquire::Held(_) => panic!("{held:?}"),
    }
}

/// Waits until it is true.
pub(crate) async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let within = async {
        while !is_true().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TTL, within).await.unwrap_or_else(|_| panic!("not within {TTL:?}: {what}"));
}

/// The error and its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Passes bytes on between clients and the server, the server's a little later, unless it is told not to.
pub(crate) struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    Silent,
}

/// How much later the server's answers are: so long that a test can act between what the server does and its answer.
pub(crate) const ANSWER_DELAY: Duration = Duration::from_millis(100);

impl Proxy {
    pub(crate) async fn before(bed: &Bed) -> Self {
        let server = bed.server.port();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = watch::Sender::new(Mode::Pass);
        let cuts = watch::Sender::new(0);
        let (modes, later_cuts) = (mode.clone(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                tokio::spawn(serve(client, server, modes.subscribe(), later_cuts.subscribe()));
            }
        });
        Self { port, mode, cuts }
    }

    /// Keeps from now on everything back that the server says, the end of a connection included.
    pub(crate) fn silence(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// Passes on what was kept back, and everything from now on.
    pub(crate) fn resume(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    /// Closes all connections, with the answers on their way; new ones are served.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn serve(
    client: TcpStream,
    server: TcpStream,
    mut mode: watch::Receiver<Mode>,
    mut cuts: watch::Receiver<u32>,
) {
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let there = async { tokio::io::copy(&mut client_read, &mut server_write).await.map(drop) };
    let back = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let count = server_read.read(&mut buffer).await?;
            sleep(ANSWER_DELAY).await;
            let _ = mode.wait_for(|mode| *mode != Mode::Silent).await;
            if count == 0 {
                return std::io::Result::Ok(());
            }
            client_write.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        _ = there => {}
        _ = back => {}
        _ = cuts.changed() => {}
    }
}
