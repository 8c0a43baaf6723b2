//! [`PostgresInput`]: waits for the lease, holds it, and lets go of it in order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapper_core::{CancellationToken, EventSink, Input, InputConfig, InputError};
use dapper_lock::{Lease, LockManager, Resource, StoreId};

use crate::PostgresError;
use crate::coverage::{self, Coverage, Drift, Mode};
use crate::holder::{Holder, Prepared};
use crate::layout::{self, Access};
use crate::meter::{InputMeter, State};
use crate::names::stable_hash;
use crate::options::Options;
use crate::presence::Presence;
use crate::session::Session;

/// How often tables and triggers are compared with what they should be: a table created while running is covered at the
/// latest this much later.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
/// How long a fresh holder leaves the tables alone.
const COVER_AFTER: Duration = Duration::from_millis(100);
/// So much of a holder's id tells it from the others.
const HOLDER_CHARACTERS: usize = 8;
/// How long the end of a holder waits for what is in the processes' hands.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Captures every committed change of a database's tables and delivers it, from one replica at a time.
///
/// Any number of replicas may run inputs of the same name on the same database; the lease decides which of them reads.
pub struct PostgresInput {
    options: Options,
    locks: Arc<LockManager>,
    presence: Presence,
    meter: InputMeter,
}

impl std::fmt::Debug for PostgresInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresInput").field("options", &self.options).finish_non_exhaustive()
    }
}

impl PostgresInput {
    /// Checks the configuration, connects once, and makes sure that the server can be used.
    ///
    /// # Errors
    /// An option or a connection string that can't be used; a server that can't be reached, is a standby or too old; a
    /// schema of ours that is missing and that this role may not create.
    pub async fn new(config: InputConfig, locks: Arc<LockManager>) -> Result<Self, PostgresError> {
        let options = Options::parse(&config)?;
        let session = Session::open(&options.connection, &replica_name(&options, &locks)).await?;
        layout::ensure(&session, &options).await?;
        let meter = InputMeter::new(&options.names.id);
        meter.is(Some(State::Starting));
        Ok(Self { presence: Presence::new(locks.holder_id()), options, locks, meter })
    }

    /// The input's id: its name with `-` replaced by `_`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.options.names.id
    }

    /// See [`Input::handle`]. Waits for the lease, then delivers until `stop`, or until the lease or the connection is
    /// lost.
    ///
    /// Dropping the future gives the connection up; what was handed out is delivered again, marked.
    ///
    /// # Errors
    /// What ended it; another replica may have taken over already.
    pub async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
        self.meter.is(Some(State::Starting));
        let ended = self.attempt(&sink, &stop).await;
        self.meter.is(None);
        ended.map_err(|error| {
            self.presence.failed(&error);
            error.into_input_error(&self.options.name)
        })
    }

    async fn attempt(&self, sink: &EventSink, stop: &CancellationToken) -> Result<(), PostgresError> {
        let name = replica_name(&self.options, &self.locks);
        let mut session = Session::open(&self.options.connection, &name).await?;
        self.meter.sessions.increment(1);
        let access = layout::ensure(&session, &self.options).await?;
        let prepared = Prepared::on(&session, &self.options).await?;
        let names = &self.options.names;
        self.presence.announce(session.client(), &names.schema, &application_name(&self.options)).await?;
        let resource = resource(&self.options, &session)?;
        let store = self.locks.store_id().await?;
        self.meter.is(Some(State::StandingBy));
        let holder = self.locks.holder_id();
        tracing::info!(input = self.id(), resource = resource.as_str(), %holder, "standing by");
        let lease = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = session.closed() => return Err(PostgresError::ConnectionLost),
            lease = self.locks.acquire(&resource) => lease?,
        };
        let token = lease.token().get();
        tracing::info!(input = self.id(), token, %holder, "lease acquired");
        reach!(AfterGrant);
        let outcome = self.hold(&mut session, (prepared, &access), (&lease, store), sink, stop).await;
        if outcome.is_err() {
            lease.revoke();
        }
        reach!(BeforeRelease);
        // Releasing is a courtesy to the next holder: when it fails, the lease ends by itself.
        let released = lease.release().await;
        tracing::info!(input = self.id(), token, released = released.is_ok(), "lease given up");
        outcome
    }

    async fn hold(
        &self,
        session: &mut Session,
        (prepared, access): (Prepared, &Access),
        (lease, store): (&Lease, StoreId),
        sink: &EventSink,
        stop: &CancellationToken,
    ) -> Result<(), PostgresError> {
        let lost =
            |reason: String| PostgresError::LeaseLost { resource: self.options.names.schema.clone(), reason };
        let mut notifications = session.take_notifications();
        reach!(BeforeSeal);
        let told = (Arc::clone(&notifications.parked), Arc::clone(&notifications.paused));
        let mut holder = Holder::seal(session, prepared, &self.options, sink, lease, store, told).await?;
        self.meter.is(Some(State::Leading));
        self.meter.token.set(lease.token().get() as f64);
        self.meter.takeovers.increment(1);
        reach!(AfterSeal);
        let outcome = tokio::select! {
            biased;
            reason = lease.lost() => Err(lost(format!("{reason:?}"))),
            () = session.closed() => Err(PostgresError::ConnectionLost),
            never = self.keep_covered(access, sink) => match never {},
            outcome = holder.run(&mut notifications, stop) => outcome,
        };
        match outcome {
            Ok(()) => {
                // What is in the processes' hands is finished under the lease; if that ends first, nothing is recorded.
                tokio::select! {
                    biased;
                    reason = lease.lost() => Err(lost(format!("{reason:?}"))),
                    finished = tokio::time::timeout(SETTLE_LIMIT, holder.finish()) => {
                        finished.unwrap_or(Err(PostgresError::Abandoned))
                    }
                }
            }
            Err(error) => {
                // No event is handed to a process any more; those that have one finish before a successor starts.
                lease.revoke();
                let _ = tokio::time::timeout(SETTLE_LIMIT, holder.wait_until_settled()).await;
                Err(error)
            }
        }
    }

    /// Brings tables under capture and keeps them there, on a connection of its own: waiting for a table's lock must not
    /// hold up the reader.
    async fn keep_covered(&self, access: &Access, sink: &EventSink) -> std::convert::Infallible {
        let report = |error: PostgresError| {
            sink.report(error.into_input_error(&self.options.name));
        };
        let mode = match access {
            Access::Full => Mode::Repair,
            Access::ReadOnly(reason) => {
                tracing::info!(input = self.id(), "changes nothing of what is installed: {reason}");
                Mode::Report(reason)
            }
        };
        // The changes that wait go first; the predecessor has left the tables covered.
        tokio::time::sleep(COVER_AFTER).await;
        let mut announced = false;
        let mut pauses = coverage::Pauses::default();
        loop {
            let name = replica_name(&self.options, &self.locks);
            match Session::open(&self.options.connection, &name).await {
                Err(error) => report(error),
                Ok(session) => loop {
                    match coverage::reconcile(session.client(), &self.options, mode, &mut pauses).await {
                        Ok(round) => {
                            self.tell(&round, &mut announced);
                            round.failed.into_iter().for_each(report);
                        }
                        Err(error) => {
                            report(error);
                            break;
                        }
                    }
                    tokio::time::sleep(COMPARE_EVERY).await;
                },
            }
            tokio::time::sleep(COMPARE_EVERY).await;
        }
    }

    /// Logs what a round did. What somebody did to our triggers is worth a warning, even though it is repaired: changes
    /// in between are not captured.
    fn tell(&self, round: &Coverage, announced: &mut bool) {
        for (table, drifts) in &round.changed {
            if drifts
                .iter()
                .any(|drift| matches!(drift, Drift::Missing(_) | Drift::Disabled(_) | Drift::Foreign(_)))
            {
                tracing::warn!(
                    input = self.id(),
                    table,
                    "repaired: {}; changes in between may not have been captured",
                    coverage::describe(drifts)
                );
            }
        }
        if !round.changed.is_empty() || !*announced {
            tracing::info!(
                input = self.id(),
                covered = round.covered,
                changed = round.changed.len(),
                failed = round.failed.len(),
                "tables under capture"
            );
            *announced = true;
        }
    }
}

#[async_trait]
impl Input for PostgresInput {
    fn id(&self) -> &str {
        self.id()
    }

    async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError> {
        self.handle(sink, stop).await
    }
}

/// Inputs of one name on one database exclude each other; the same name on another database does not, even where both
/// use one lock store.
pub(crate) fn resource(options: &Options, session: &Session) -> Result<Resource, PostgresError> {
    let server = &session.server;
    // A database's name may be long, and may hold anything; its hash does for telling databases apart.
    let name = format!(
        "{}@{}.{:016x}",
        options.names.schema,
        server.system_identifier,
        stable_hash(&server.database)
    );
    Resource::new(name.clone())
        .map_err(|_| PostgresError::Unexpected { what: "the lease's resource", value: name })
}

/// What `pg_stat_activity` shows for a replica's connections: which input, and the start of the id by which the lease
/// names its holder.
fn replica_name(options: &Options, locks: &LockManager) -> String {
    let holder: String = locks.holder_id().to_string().chars().take(HOLDER_CHARACTERS).collect();
    format!("{} {holder}", application_name(options))
}

/// What the name of each of our connections is, or starts with, in `pg_stat_activity`.
pub(crate) fn application_name(options: &Options) -> String {
    options.names.schema.replacen('_', " ", 1)
}
