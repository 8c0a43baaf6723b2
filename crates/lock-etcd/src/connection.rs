//! One connection to one member, and the time that a call may take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, TlsOptions, WatchClient,
};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};

use crate::error::{ClientError, EtcdLockError};
use crate::options::{Endpoint, EtcdLockOptions};

/// Pings that show a dead peer to the watches. A server of etcd hangs up on whoever pings every five seconds or oftener.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Until when a call must be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) end: Instant,
    /// How long it was in the beginning.
    pub(crate) limit: Duration,
}

/// A connection, served by the runtime in which it was made.
pub(crate) struct Connection {
    client: Client,
    endpoint: Endpoint,
    broken: AtomicBool,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, limit }
    }

    pub(crate) fn remaining(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// An equal share of the time that is left.
    pub(crate) fn share(self, shares: usize) -> Duration {
        self.remaining() / u32::try_from(shares.max(1)).unwrap_or(u32::MAX)
    }
}

impl Connection {
    /// Connects and authenticates. The client connects no earlier than it must, so this proves nothing yet.
    pub(crate) async fn open(
        options: &EtcdLockOptions,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Self, EtcdLockError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(limit)
            .with_keep_alive(PING_EVERY, PING_LIMIT)
            .with_keep_alive_while_idle(false)
            // A member that has lost the others says so, and ends its watches.
            .with_require_leader(true);
        if endpoint.is_tls() {
            let tls = TlsOptions::new();
            connect = connect.with_tls(match &options.tls_roots[..] {
                [] => tls.with_native_roots(),
                roots => tls.ca_certificate(Certificate::from_pem(roots)),
            });
        }
        if let Some(user) = &options.user {
            connect = connect.with_user(&user.name, user.password.expose_secret());
        }
        let failed =
            |error| EtcdLockError::Connect { endpoint: endpoint.to_string(), source: ClientError(error) };
        Ok(Self {
            client: Client::connect([endpoint.as_str()], Some(connect)).await.map_err(failed)?,
            endpoint: endpoint.clone(),
            broken: AtomicBool::new(false),
        })
    }

    /// Whether the next call may use it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Runs one request. After a failure that is not etcd's own answer the connection is not used again.
    pub(crate) async fn call<T>(
        &self,
        task: &'static str,
        deadline: Deadline,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdLockError> {
        match timeout_at(deadline.end, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(task, error)),
            Err(_) => {
                self.broken.store(true, Ordering::Relaxed);
                Err(EtcdLockError::RequestTimeout { task, limit: deadline.limit })
            }
        }
    }

    /// Takes note of a failure.
    pub(crate) fn failed(&self, task: &'static str, error: etcd_client::Error) -> EtcdLockError {
        let source = ClientError(error);
        if !source.leaves_connection() {
            self.broken.store(true, Ordering::Relaxed);
        }
        EtcdLockError::Request { task, source }
    }

    pub(crate) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client()
    }

    pub(crate) fn leases(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(crate) fn watches(&self) -> WatchClient {
        self.client.watch_client()
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient {
        self.client.maintenance_client()
    }
}
