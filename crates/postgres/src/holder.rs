//! What the one replica that holds the lease does: read, claim, hand out, advance.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dapper_core::{CancellationToken, EventSink, Receipt, Validity};
use dapper_lock::{Lease, LeaseValidity, StoreId};
use tokio_postgres::{Client, Statement};

use crate::PostgresError;
use crate::cursor::{Cursor, CursorStatements, Grant, Sealed};
use crate::events::Stamp;
use crate::meter::HolderMeter;
use crate::names::quote_identifier;
use crate::options::{Options, WakeUp as WakeUpOption};
use crate::parking::{May, Out, Parked, ParkingStatements};
use crate::pauses::Pausing;
use crate::progress::Progress;
use crate::reader::{Batch, Limits, Reader};
use crate::rotation::Rotation;
use crate::session::{Session, bounded};
use crate::wake_up::{Action, WakeUp};

mod foreign;
mod hand_out;

use foreign::Garbage;

/// Bounds of one batch: a change set holds at most 1,000 changes, and its payload some bytes for each.
const LIMITS: Limits = Limits { rows: 8_192, bytes: 256 * 1024 };
/// Events that are handed out together, about: the processes begin with them while the next are made.
const HANDED_OUT_AT_ONCE: usize = 1_024;
/// Batches handed out and not finished, at most.
const MAX_OUTSTANDING_BATCHES: usize = 1_000;
/// Events in these batches, beyond which no further one is read. Only where some events take far longer than others do
/// this many come together.
const MAX_OUTSTANDING_EVENTS: usize = 20_000;
/// Events that no process has handled, beyond which no further batch is handed out. After a crash all of them come again,
/// so there are no more than keep the processes busy: the larger bound is for those that handle as many within
/// [`QUICK`], the smaller one for those that take longer than [`SLOW`].
const MAX_UNSETTLED_EVENTS: (usize, usize) = (2_000, 16_384);
/// Events handled within this time are few.
const QUICK: Duration = Duration::from_millis(50);
/// Events that take longer are many.
const SLOW: Duration = Duration::from_millis(200);
/// Bytes of change sets with such events, beyond which no further batch is read: with row images one event may be large.
/// A batch that is read while there is room may go beyond by its own limit and one change set, which is at most about 1 MiB,
/// or one row's images of at most 64 MiB each.
const MAX_UNSETTLED_BYTES: usize = 32 * 1024 * 1024;
/// How often a reader without room looks whether a batch behind the oldest one has made some.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(5);
/// When so many programs have died while they had the same events, each of these is tried alone.
const ISOLATE_AFTER: u32 = 2;
/// While a batch takes longer than this, how many of its events are done is recorded all the same.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Reads and delivers for as long as the lease lasts.
pub(crate) struct Holder<'a> {
    client: &'a Client,
    options: &'a Options,
    sink: &'a EventSink,
    lease: LeaseValidity,
    validity: Arc<dyn Validity>,
    cursor: Cursor,
    reader: Reader,
    progress: Progress,
    /// Read and not claimed.
    ahead: Option<Ahead>,
    outstanding: VecDeque<Outstanding>,
    /// Events that may be unsettled at the moment.
    max_unsettled: usize,
    parked: Parked,
    pausing: Pausing,
    /// Holders that ended, one after the other, while what is in doubt was in their hands.
    crashes: u32,
    /// Events in doubt that were handed out to be tried alone.
    isolated: usize,
    /// Events of the batches that are done.
    completed: u64,
    /// When it was last recorded how many events are done.
    counted: Instant,
    wake_up: WakeUp,
    set_wake_up: Statement,
    /// The slot that writers write to, as last seen.
    slot: i64,
    stamp: Stamp,
    rotation: Rotation,
    garbage: Garbage,
    meter: HolderMeter,
}

/// A batch and as which attempt its repeats are to be delivered.
struct Ahead {
    batch: Batch,
    attempt: u32,
}

/// A part of a batch on its way.
struct Outstanding {
    receipt: Receipt,
    since: Instant,
    events: usize,
    /// Of the payloads it was made of.
    bytes: usize,
    /// For each change set its position and how many events of the batch it and those before it make up.
    ends: Vec<(i64, usize)>,
}

impl Outstanding {
    /// What its events that are not handled yet can take, in bytes: all of it may be in a single one.
    fn unsettled_bytes(&self) -> usize {
        if self.receipt.unsettled() > 0 { self.bytes } else { 0 }
    }
}

struct LeaseGuard(LeaseValidity);

impl Validity for LeaseGuard {
    fn is_valid(&self) -> bool {
        self.0.is_valid()
    }
}

/// What a standby has ready on the session that it would read by, so that its takeover takes the fewest round trips.
pub(crate) struct Prepared {
    cursor: CursorStatements,
    reader: Reader,
    parking: ParkingStatements,
    pauses: Statement,
    set_wake_up: Statement,
}

impl Prepared {
    pub(crate) async fn on(session: &Session, options: &Options) -> Result<Self, PostgresError> {
        let (client, schema) = (session.client(), &options.names.schema);
        let set_wake_up = format!(
            // A crash may undo it without harm: the next holder sets it anew. So nobody waits for the disk.
            "SELECT pg_catalog.setval('{}.wake_up', $1), pg_catalog.set_config('synchronous_commit', 'off', true)
               FROM {}.cursors WHERE partition = 0 AND token = $2",
            quote_identifier(schema).replace('\'', "''"),
            quote_identifier(schema),
        );
        let mut reader = Reader::prepare(client, schema, LIMITS).await?;
        reader.warm_up(client).await?;
        Ok(Self {
            cursor: CursorStatements::prepare(client, schema).await?,
            reader,
            parking: ParkingStatements::prepare(client, schema).await?,
            pauses: Pausing::prepare(client, schema).await?,
            set_wake_up: bounded("preparing", client.prepare(&set_wake_up)).await?,
        })
    }
}

impl<'a> Holder<'a> {
    /// Seals the cursor with the lease's token and takes up what the predecessor left.
    pub(crate) async fn seal(
        session: &'a Session,
        prepared: Prepared,
        options: &'a Options,
        sink: &'a EventSink,
        lease: &Lease,
        store: StoreId,
        (told, paused): (Arc<AtomicBool>, Arc<AtomicBool>),
    ) -> Result<Self, PostgresError> {
        let client = session.client();
        let notify = match options.wake_up {
            WakeUpOption::Auto => !session.server.prepared_transactions,
            WakeUpOption::Notify => true,
            WakeUpOption::Poll => false,
        };
        let listen = async {
            if !notify {
                return Ok(());
            }
            let listen = format!("LISTEN {}", quote_identifier(&options.names.channel));
            bounded("listening", client.batch_execute(&listen)).await
        };
        let grant = Grant { token: lease.token(), store };
        let mut parked = Parked::new(prepared.parking, told);
        let mut pausing = Pausing::new(prepared.pauses, paused, notify);
        // Sent at once, and run one after the other: what is parked is looked for when nobody else can park any more.
        let (sealed, listening, found, paused) = tokio::join!(
            biased;
            Cursor::seal(client, prepared.cursor, &session.server, grant),
            listen,
            parked.find(client),
            pausing.look(client)
        );
        let Sealed { cursor, position, promoted_from, crashes } = sealed?;
        listening?;
        let mut found = found?;
        if let Some(from) = promoted_from {
            let promoted = PostgresError::Promoted { from, to: session.server.timeline };
            tracing::warn!(input = options.names.id, "{promoted}");
            sink.report(promoted.into_input_error(&options.name));
            // Only the second try sealed it.
            found = parked.find(client).await?;
        }
        parked.take_over(client, &cursor, &found).await?;
        pausing.found(paused?);
        parked.pause(pausing.processes());
        Ok(Self {
            client,
            options,
            sink,
            lease: lease.validity(),
            validity: Arc::new(LeaseGuard(lease.validity())),
            parked,
            pausing,
            crashes,
            isolated: 0,
            completed: 0,
            counted: Instant::now(),
            reader: prepared.reader,
            progress: Progress::resume(position),
            ahead: None,
            outstanding: VecDeque::new(),
            max_unsettled: MAX_UNSETTLED_EVENTS.0,
            wake_up: WakeUp::new(notify),
            set_wake_up: prepared.set_wake_up,
            slot: 0,
            stamp: Stamp {
                trigger: options.names.id.as_str().into(),
                token: cursor.token().unsigned_abs(),
                operations: options.operations.clone(),
            },
            cursor,
            rotation: Rotation::new(&options.names.schema, options.retention, options.warn_size),
            garbage: Garbage::default(),
            meter: HolderMeter::new(&options.names.id),
        })
    }

    /// Runs until `stop`, or until something fails. When dropped at an await point the session must be given up, since a
    /// statement may still be running in it.
    pub(crate) async fn run(
        &mut self,
        notifications: &mut crate::session::Notifications,
        stop: &CancellationToken,
    ) -> Result<(), PostgresError> {
        while !stop.is_cancelled() {
            self.settle()?;
            self.show_progress().await?;
            self.mind_pauses().await?;
            let may = self.may();
            self.serve_parked(may).await?;
            self.report_foreign(&mut notifications.foreign);
            let warning = self
                .rotation
                .tick(self.client, &mut self.slot, self.progress.prev(), self.cursor.token())
                .await?;
            if let Some(warning) = warning {
                self.sink.report(warning.into_input_error(&self.options.name));
            }
            let action = match (self.has_room(), self.pausing.is_held_up()) {
                (true, _) => self.step().await?,
                (false, true) => self.rest().await?,
                (false, false) => Action::Wait(LOOK_FOR_ROOM),
            };
            let limit = match action {
                Action::ReadNow => continue,
                Action::SetAwake => {
                    self.flag(true).await?;
                    continue;
                }
                Action::SetAsleep => {
                    self.flag(false).await?;
                    let f = draw_xid(self.client).await?;
                    self.wake_up.drew(f);
                    continue;
                }
                Action::Pause(time) => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(time) => {}
                    }
                    continue;
                }
                Action::Wait(limit) => limit,
            };
            let limit = if self.outstanding.is_empty() { limit } else { limit.min(COUNT_EVERY) };
            let room = self.has_room();
            let may = self.may();
            let front = self.outstanding.front_mut().map(|front| &mut front.receipt);
            tokio::select! {
                () = stop.cancelled() => {}
                () = async { match front { Some(receipt) => receipt.await, None => std::future::pending().await } } => {}
                () = self.parked.ready(may) => {}
                () = notifications.wake.notified(), if room || self.pausing.is_held_up() => {}
                () = tokio::time::sleep(limit) => {}
            }
        }
        Ok(())
    }

    /// After a stop: waits until everything handed out is settled, then records how far it came.
    pub(crate) async fn finish(&mut self) -> Result<(), PostgresError> {
        self.store_and_settle().await?;
        while let Some(front) = self.outstanding.pop_front() {
            if front.receipt.is_handled() {
                self.completed += front.events as u64;
                self.progress.complete();
                continue;
            }
            let handled = front.receipt.handled_prefix();
            self.completed += handled as u64;
            if let Some(&(seq, _)) = front.ends.iter().rfind(|&&(_, events)| events <= handled) {
                self.progress.complete_partly(seq);
            }
            break;
        }
        self.count();
        // Nobody listens now, and whoever comes next reads before it sleeps: writers need not notify.
        let flag = set_flag(self.client, &self.set_wake_up, self.slot, true, self.cursor.token());
        let position = self.progress.position();
        // Sent at once, and run one after the other.
        let (left, flagged) = if self.progress.is_dirty() {
            tokio::join!(self.cursor.leave(self.client, &position), flag)
        } else {
            (Ok(()), flag.await)
        };
        left?;
        self.progress.saved();
        if flagged? { Ok(()) } else { Err(self.cursor.fenced(self.client).await) }
    }

    /// Waits until everything handed out is settled, and writes down what comes in to be parked meanwhile.
    async fn store_and_settle(&mut self) -> Result<(), PostgresError> {
        self.parked.stop();
        loop {
            self.serve_parked(May::Nothing).await?;
            let unsettled = self.outstanding.iter_mut().find(|batch| !batch.receipt.is_settled());
            match unsettled {
                None if !self.parked.is_busy() => break,
                None => self.parked.ready(May::Nothing).await,
                Some(batch) => tokio::select! {
                    () = &mut batch.receipt => {}
                    () = self.parked.ready(May::Nothing) => {}
                },
            }
        }
        self.parked.unclaim(self.client, &self.cursor).await
    }

    async fn serve_parked(&mut self, may: May) -> Result<(), PostgresError> {
        let out = Out { sink: self.sink, validity: &self.validity };
        let killers = self.parked.serve(self.client, &self.cursor, &out, may).await?;
        for killer in killers {
            self.sink.report(killer.into_error().into_input_error(&self.options.name));
        }
        Ok(())
    }

    /// What was parked is left alone until all that may be a repeat is in hand again: of one key, that comes first.
    fn may(&self) -> May {
        if self.progress.inherited().is_some() || self.pausing.is_input_paused() {
            return May::Nothing;
        }
        May::Claim { idle: self.outstanding.is_empty() }
    }

    /// Waits until everything handed out is handled or abandoned. The caller bounds it.
    pub(crate) async fn wait_until_settled(&mut self) {
        self.parked.close();
        self.parked.wait_until_settled().await;
        for outstanding in &mut self.outstanding {
            (&mut outstanding.receipt).await;
        }
    }

    fn has_room(&self) -> bool {
        let batches = &self.outstanding;
        let is_held_up = self.parked.has_suspects() && self.progress.inherited().is_none();
        !is_held_up
            && !self.pausing.is_held_up()
            && batches.len() < MAX_OUTSTANDING_BATCHES
            && batches.iter().map(|batch| batch.events).sum::<usize>() < MAX_OUTSTANDING_EVENTS
            && batches.iter().map(|batch| batch.receipt.unsettled()).sum::<usize>() < self.max_unsettled
            && batches.iter().map(Outstanding::unsettled_bytes).sum::<usize>() < MAX_UNSETTLED_BYTES
    }

    /// Takes up what somebody has paused or resumed.
    async fn mind_pauses(&mut self) -> Result<(), PostgresError> {
        if !self.pausing.is_due() {
            return Ok(());
        }
        if !self.wake_up.notifies() {
            // Nobody can tell of what a command has parked either.
            self.parked.look_again();
        }
        let found = self.pausing.look(self.client).await?;
        if !self.pausing.found(found) {
            return Ok(());
        }
        let (paused, processes) = (self.pausing.is_input_paused(), self.pausing.processes());
        tracing::info!(input = self.options.names.id, paused, ?processes, "what is paused has changed");
        self.parked.pause(processes);
        // What was held back may be due now.
        self.parked.look_again();
        Ok(())
    }

    /// Reads nothing. When nothing is under way any more, that is recorded.
    async fn rest(&mut self) -> Result<Action, PostgresError> {
        if self.pausing.begins_rest() {
            // Writers need not notify anybody now; whoever resumes does.
            self.flag(true).await?;
        }
        // What is read and not claimed may be skipped meanwhile, so it is read again.
        self.ahead = None;
        if self.outstanding.is_empty() {
            self.save(true).await?;
        }
        Ok(Action::Wait(self.pausing.every()))
    }

    /// Takes in what was handled, in order.
    fn settle(&mut self) -> Result<(), PostgresError> {
        while let Some(front) = self.outstanding.front().filter(|front| front.receipt.is_settled()) {
            if !front.receipt.is_handled() {
                return Err(PostgresError::Abandoned);
            }
            let events = front.events;
            let (least, most) = MAX_UNSETTLED_EVENTS;
            let wanted = match front.since.elapsed() {
                quick if quick < QUICK && events >= HANDED_OUT_AT_ONCE / 2 => self.max_unsettled * 2,
                slow if slow > SLOW => self.max_unsettled / 2,
                _ => self.max_unsettled,
            };
            self.max_unsettled = wanted.clamp(least, most);
            self.completed += events as u64;
            self.meter.settled(events);
            self.outstanding.pop_front();
            self.progress.complete();
        }
        Ok(())
    }

    /// Events that are done, those of unfinished batches too.
    fn count(&mut self) {
        let done = |batch: &Outstanding| batch.events.saturating_sub(batch.receipt.unsettled()) as u64;
        self.cursor.count(self.completed + self.outstanding.iter().map(done).sum::<u64>());
        self.counted = Instant::now();
    }

    /// Shows those who look from outside that events are being handled, when nothing else is written.
    async fn show_progress(&mut self) -> Result<(), PostgresError> {
        if self.outstanding.is_empty() || self.counted.elapsed() < COUNT_EVERY {
            return Ok(());
        }
        self.count();
        self.cursor.record_count(self.client).await
    }

    /// Sets or clears the flag that lets writers skip the NOTIFY, if we still hold the cursor.
    async fn flag(&mut self, awake: bool) -> Result<(), PostgresError> {
        let token = self.cursor.token();
        if set_flag(self.client, &self.set_wake_up, self.slot, awake, token).await? {
            return Ok(());
        }
        Err(self.cursor.fenced(self.client).await)
    }
}

/// Sets the wake-up flag; false when the cursor is another's.
async fn set_flag(
    client: &Client,
    set_wake_up: &Statement,
    slot: i64,
    awake: bool,
    token: i64,
) -> Result<bool, PostgresError> {
    let value = slot * 2 + i64::from(awake);
    let row = bounded("setting the wake-up flag", client.query_opt(set_wake_up, &[&value, &token])).await?;
    Ok(row.is_some())
}

/// Draws a transaction id, in a transaction of its own that has ended when this returns.
pub(crate) async fn draw_xid(client: &Client) -> Result<u64, PostgresError> {
    let row = bounded(
        "drawing a transaction id",
        client.query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[]),
    )
    .await?;
    let text: String = row.get(0);
    text.parse().map_err(|_| PostgresError::Unexpected { what: "a transaction id", value: text })
}
