//! One connection, driven by a task, every statement bounded in time.

use std::time::Duration;

use dapper_connect::ConnectionString;
use dapper_lock::FencingToken;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row};

use crate::error::PostgresLockError;
use crate::sql;

type Result<T, E = PostgresLockError> = std::result::Result<T, E>;

/// A parameter with its type, so that a statement needs no round trip to be prepared, and works behind a pooler.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The longest time that one transaction waits for the session lock.
pub(crate) const SLICE: Duration = Duration::from_millis(1_750);

/// A connection, and what its server session holds. Dropping it closes the socket at once, whatever is on its way;
/// the server then ends the session, and with it the session lock.
pub(crate) struct Session {
    client: Client,
    transport: Transport,
    closed: watch::Receiver<bool>,
    /// The server's process, as the first statement saw it.
    backend: i32,
    /// The server's default for this session.
    synchronous_commit: String,
    /// How long an ordinary statement may take; the time to live of the leases.
    pub(crate) limit: Duration,
    /// Whether other connections may share the server session: then it holds nothing.
    pub(crate) shared: bool,
    /// Whether this session has the session lock.
    pub(crate) locked: bool,
    /// The term that was granted on this session and is not known to be over.
    pub(crate) term: Option<FencingToken>,
    /// Whether the holder that the last try met has the session lock, so that waiting for it makes sense.
    pub(crate) holder_has_lock: bool,
}

/// The task that moves the messages.
struct Transport(JoinHandle<()>);

impl Drop for Transport {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Connects, and refuses a server in recovery. The caller bounds the time.
    pub(crate) async fn connect(
        connection: &ConnectionString,
        config: &Config,
        (connect_limit, limit): (Duration, Duration),
    ) -> Result<Self> {
        let connected = connection.connect_with(config, connect_limit).await;
        let (client, transport) = connected.map_err(|source| PostgresLockError::Connect { source })?;
        let (sender, closed) = watch::channel(false);
        let transport = tokio::spawn(async move {
            // Any end is the loss of the connection; its cause also reaches whoever has a statement on its way.
            let _ = transport.await;
            sender.send_replace(true);
        });
        let mut session = Self {
            client,
            transport: Transport(transport),
            closed,
            backend: 0,
            synchronous_commit: String::new(),
            limit,
            shared: false,
            locked: false,
            term: None,
            holder_has_lock: false,
        };
        let row = session.one("ask the server what it is", sql::IDENTIFY, &[]).await?;
        if row.get(1) {
            return Err(PostgresLockError::Standby);
        }
        session.backend = row.get(0);
        session.synchronous_commit = row.get(2);
        // A statement of its own: behind a pooler another session may run it.
        session.shared = session.backend().await? != session.backend;
        Ok(session)
    }

    /// Makes the server session fit for leases: it must outlive a silent client for as long as that client may trust
    /// its lease, and not much longer.
    pub(crate) async fn configure(&self) -> Result<()> {
        let settings = settings(self.limit, &self.synchronous_commit);
        let (names, values): (Vec<&str>, Vec<String>) = settings.into_iter().unzip();
        let parameters: [Parameter<'_>; 2] = [(&names, Type::TEXT_ARRAY), (&values, Type::TEXT_ARRAY)];
        self.run("set up the session", sql::CONFIGURE, &parameters).await?;
        Ok(())
    }

    /// Runs a statement. When it is not answered in time, the session must be dropped: the server may still run it.
    pub(crate) async fn run(
        &self,
        task: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        in_time(self.limit, task, self.client.query_typed(statement, parameters)).await
    }

    /// Runs a statement that always has one row.
    pub(crate) async fn one(
        &self,
        task: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Row> {
        in_time(self.limit, task, self.client.query_typed_one(statement, parameters)).await
    }

    /// As [`one`](Self::one), with a limit of its own and without parameters.
    pub(crate) async fn one_within(
        &self,
        limit: Duration,
        task: &'static str,
        statement: &str,
    ) -> Result<Row> {
        in_time(limit, task, self.client.query_typed_one(statement, &[])).await
    }

    /// Runs a statement without parameters or rows.
    pub(crate) async fn batch(&self, task: &'static str, statement: &str) -> Result<()> {
        self.batch_within(self.limit, task, statement).await
    }

    /// As [`batch`](Self::batch), with a limit of its own.
    pub(crate) async fn batch_within(
        &self,
        limit: Duration,
        task: &'static str,
        statement: &str,
    ) -> Result<()> {
        in_time(limit, task, self.client.batch_execute(statement)).await
    }

    /// Which server process runs a statement now.
    pub(crate) async fn backend(&self) -> Result<i32> {
        Ok(self.one("ask for the session", sql::BACKEND, &[]).await?.get(0))
    }

    /// Fails when a statement's answer came from another server process than the session's own.
    pub(crate) fn check_backend(&self, backend: i32) -> Result<()> {
        if self.shared || backend == self.backend { Ok(()) } else { Err(PostgresLockError::SessionShared) }
    }

    /// Whether this is known to be lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed() || *self.closed.borrow()
    }

    /// Becomes true, or loses its sender, when the connection is lost.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.clone()
    }

    /// Says goodbye to the server, in the background, instead of just closing the socket.
    pub(crate) fn close(self) {
        let Self { client, mut transport, .. } = self;
        drop(client);
        tokio::spawn(async move {
            // The transport ends by itself once the server has answered everything.
            let _ = timeout(Duration::from_secs(1), &mut transport.0).await;
        });
    }
}

async fn in_time<T>(
    limit: Duration,
    task: &'static str,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match timeout(limit, answer).await {
        Ok(result) => result.map_err(|source| PostgresLockError::Statement { task, source }),
        Err(_) => Err(PostgresLockError::StatementTimeout { task, limit }),
    }
}

/// The connection's side: whose it is, and when to notice that the server is gone.
pub(crate) fn prepare(connection: &ConnectionString, application_name: &str, ttl: Duration) -> Config {
    let second = Duration::from_secs(1);
    let mut config = connection.base().clone();
    config.application_name(connection.application_name(application_name));
    config.keepalives(true).keepalives_idle((ttl / 2).max(second)).keepalives_interval((ttl / 6).max(second));
    config.keepalives_retries(3).tcp_user_timeout(ttl.max(second));
    config
}

/// The server session's settings. A silent client is given up after `ttl` plus at least a second: sooner, and its
/// session lock would be free while it still trusts its lease.
fn settings(ttl: Duration, synchronous_commit: &str) -> Vec<(&'static str, String)> {
    let seconds = u64::try_from(ttl.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
    let total = seconds + 1;
    let idle = seconds.div_ceil(2).max(1);
    let interval = seconds.div_ceil(6).max(1);
    let count = total.saturating_sub(idle).div_ceil(interval).max(1);
    let statement = ttl.max(SLICE) + Duration::from_secs(1);
    let mut settings = vec![
        ("tcp_keepalives_idle", idle.to_string()),
        ("tcp_keepalives_interval", interval.to_string()),
        ("tcp_keepalives_count", count.to_string()),
        ("tcp_user_timeout", (total * 1_000).to_string()),
        // A standby that is gone must not get the session lock while it waits for it.
        ("client_connection_check_interval", "1000".to_owned()),
        ("idle_session_timeout", "0".to_owned()),
        ("statement_timeout", statement.as_millis().to_string()),
        ("lock_timeout", ttl.min(SLICE).as_millis().to_string()),
        ("default_transaction_isolation", "read committed".to_owned()),
        ("search_path", "pg_catalog".to_owned()),
    ];
    if synchronous_commit == "off" {
        // A grant or a renewal that a crash undoes would be a second holder, or a token issued twice.
        settings.push(("synchronous_commit", "on".to_owned()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_never_gives_up_a_client_that_may_trust_its_lease() {
        for millis in (100..3_600_000).step_by(77_777).chain([999, 1_000, 1_001, 10_000, 3_600_000]) {
            let ttl = Duration::from_millis(millis);
            let settings = settings(ttl, "on");
            let number = |wanted: &str| -> u64 {
                let setting = settings.iter().find(|(name, _)| *name == wanted).unwrap();
                setting.1.parse().unwrap()
            };
            let keepalive = number("tcp_keepalives_idle")
                + number("tcp_keepalives_interval") * number("tcp_keepalives_count");
            assert!(Duration::from_secs(keepalive) >= ttl, "{ttl:?}: {settings:?}");
            assert!(Duration::from_millis(number("tcp_user_timeout")) >= ttl, "{ttl:?}: {settings:?}");
            assert!(
                Duration::from_secs(keepalive) <= ttl * 2 + Duration::from_secs(4),
                "{ttl:?}: {settings:?}"
            );
        }
    }

    #[test]
    fn commits_are_made_durable_and_never_less_durable() {
        let setting = |value| {
            settings(Duration::from_secs(1), value).into_iter().find(|(n, _)| *n == "synchronous_commit")
        };
        assert_eq!(setting("off").unwrap().1, "on");
        assert_eq!(setting("remote_apply"), None);
    }
}
