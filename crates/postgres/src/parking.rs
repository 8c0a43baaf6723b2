//! The holder's side of parking: writes down what processes can't handle now, and hands it out again when it is due.
//!
//! Everything is written in transactions that lock the cursor row and check the token in it, so that a holder that was
//! replaced parks nothing and takes nothing back. A row is claimed, which counts the try and is flushed to disk, before
//! the process gets its event.

mod handle;
mod held;
pub(crate) mod sql;
mod statements;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dapper_core::{Delivery, Entry, Event, EventSink, Fate, Receipt, Settle, Stored, Terms, Validity};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::{Client, Row, Statement};

use crate::PostgresError;
use crate::cursor::Cursor;
use crate::session::bounded;

pub(crate) use handle::lane;
use handle::{Handle, OfDelivery, Origin, Sent, Source};
use held::HeldLanes;
pub(crate) use statements::ParkingStatements;
use statements::{Parameter, bury_parameters, park_parameters};
use work::Work;
pub(crate) use work::{Counts, Reason, Rows};

/// Rows that are being tried, at most.
const MOST_RESUMED: usize = 64;
/// The suspicion of a row that is tried alone.
const ALONE: i32 = 2;
/// Parcels and bytes of one transaction, at most; a single parcel may have more bytes.
const MOST_PARCELS: usize = 1_000;
const MOST_BYTES: usize = 8 << 20;
/// How often it is tried to know every held lane one by one again.
const RELOAD_EVERY: Duration = Duration::from_secs(60);
/// No more lanes than this are known one by one when that succeeds.
const MOST_RELOADED: i64 = 32_768;

/// See the [module](self).
pub(crate) struct Parked {
    statements: ParkingStatements,
    handle: Arc<Handle>,
    sent: mpsc::UnboundedReceiver<Sent>,
    /// Taken from `sent` and not yet written.
    queue: Vec<Sent>,
    /// The tries that are in hand. They go by numbers of their own: a row that was put back may be claimed again before
    /// the receipt of its last try says that this is over.
    resumed: HashMap<u64, Resumed>,
    tries: u64,
    receipts: FuturesUnordered<BoxFuture<'static, (u64, bool)>>,
    /// Settled and not yet written.
    settled: Vec<(u64, bool)>,
    next_due: Option<Instant>,
    /// How suspicious the most suspicious row is that waits; nothing when none is.
    suspicion: Option<i32>,
    reloaded: Instant,
    /// Since the input stops: rows that came back unfinished.
    given_up: Option<Vec<i64>>,
    /// Set when somebody else has put something into the table.
    told: Arc<AtomicBool>,
}

/// A row that is being tried.
struct Resumed {
    number: i64,
    lane: i64,
    /// The program may die of it.
    suspect: bool,
    /// It was put back or has become a dead letter: there is nothing to remove.
    is_over: bool,
    /// What is to be made of it once it is done.
    joins: Vec<Sent>,
}

/// Where rows go that are due.
pub(crate) struct Out<'a> {
    pub(crate) sink: &'a EventSink,
    pub(crate) validity: &'a Arc<dyn Validity>,
}

/// What may be handed out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Nothing.
    Nothing,
    /// What is due; and what has to be alone, if nothing else is in anybody's hands.
    Claim { idle: bool },
}

/// A program died while it had an event, as often as it may.
pub(crate) struct Killer {
    pub(crate) process: String,
    pub(crate) location: String,
    pub(crate) id: String,
}

impl Killer {
    pub(crate) fn into_error(self) -> PostgresError {
        let Self { process, location, id } = self;
        PostgresError::Killer { process, location, id }
    }
}

impl Parked {
    pub(crate) fn new(statements: ParkingStatements, told: Arc<AtomicBool>) -> Self {
        let (handle, sent) = Handle::new();
        Self {
            statements,
            handle,
            sent,
            queue: Vec::new(),
            resumed: HashMap::new(),
            tries: 0,
            receipts: FuturesUnordered::new(),
            settled: Vec::new(),
            next_due: None,
            suspicion: None,
            reloaded: Instant::now(),
            given_up: None,
            told,
        }
    }

    /// Reads what a predecessor left. May be sent along behind the statement that seals the cursor, and counts if that did.
    pub(crate) async fn find(&mut self, client: &Client) -> Result<Vec<Row>, PostgresError> {
        let (loaded, looked) =
            tokio::join!(load(client, &self.statements, &self.handle), self.statements.look(client));
        loaded?;
        looked
    }

    /// Takes up what was [found](Self::find). Must be called before anything is handed out.
    pub(crate) async fn take_over(
        &mut self,
        client: &Client,
        cursor: &Cursor,
        found: &[Row],
    ) -> Result<(), PostgresError> {
        if self.looked(found) {
            let statements = &self.statements;
            let suspect = vec![(&statements.suspect, Vec::new())];
            self.statements.transact(client, cursor, suspect).await?;
            let looked = self.statements.look(client).await?;
            self.looked(&looked);
        }
        Ok(())
    }

    /// Where the events of change sets are stored; `ends` says for each its position and how many events it and those
    /// before it make up.
    pub(crate) fn of_change_sets(&self, ends: &[(i64, usize)]) -> Arc<dyn dapper_core::Parking> {
        Arc::new(OfDelivery { handle: Arc::clone(&self.handle), origin: Origin::ChangeSets(ends.into()) })
    }

    /// Which of these events are stored already, at which processes.
    pub(crate) async fn stored(
        &mut self,
        client: &Client,
        events: &[Event],
    ) -> Result<Stored, PostgresError> {
        let ids: Vec<&str> = events.iter().filter_map(|event| event.event_id.as_deref()).collect();
        let rows =
            bounded("looking for parked events", client.query(&self.statements.stored, &[&ids])).await?;
        if rows.is_empty() {
            return Ok(Stored::default());
        }
        let mut places = HashMap::new();
        for (place, event) in events.iter().enumerate() {
            places.insert(event.event_id.as_deref().unwrap_or_default(), place);
        }
        let place = |row: &Row| Some((*places.get(row.get::<_, &str>(0))?, row.get::<_, String>(1)));
        let mut at: Vec<(usize, String)> = rows.iter().filter_map(place).collect();
        at.sort();
        Ok(Stored { at })
    }

    /// Whether suspects are being tried, or wait for everything else to be out of hand so that they can be.
    pub(crate) fn has_suspects(&self) -> bool {
        self.suspicion.is_some() || self.resumed.values().any(|resumed| resumed.suspect)
    }

    /// Whether rows are being tried.
    pub(crate) fn is_busy(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// From now on these processes are paused, and no others.
    pub(crate) fn pause(&self, processes: &BTreeSet<String>) {
        self.handle.pause(processes);
    }

    /// Has what others may have parked looked for, as when somebody has told of it.
    pub(crate) fn look_again(&self) {
        self.told.store(true, Ordering::Release);
    }

    /// Resolves when there is something to [`serve`](Self::serve). Cancel-safe.
    pub(crate) async fn ready(&mut self, may: May) {
        if !self.queue.is_empty() || !self.settled.is_empty() {
            return;
        }
        let due = self.next_due.filter(|_| may != May::Nothing && self.resumed.len() < MOST_RESUMED);
        tokio::select! {
            Some(sent) = self.sent.recv() => self.queue.push(sent),
            Some(settled) = self.receipts.next(), if !self.receipts.is_empty() => self.settled.push(settled),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            else => std::future::pending().await,
        }
    }

    /// Writes down what has come in, and hands out what is due, as far as it may. Returns the dead letters that were made
    /// of what kills programs.
    pub(crate) async fn serve(
        &mut self,
        client: &Client,
        cursor: &Cursor,
        out: &Out<'_>,
        may: May,
    ) -> Result<Vec<Killer>, PostgresError> {
        if self.told.swap(false, Ordering::AcqRel) {
            let looked = self.statements.look(client).await?;
            self.looked(&looked);
        }
        let work = self.collect()?;
        let is_free = may == (May::Claim { idle: true }) && self.resumed.is_empty();
        let mut killers = Vec::new();
        if is_free && self.suspicion >= Some(ALONE) {
            killers = self.bury_killers(client, cursor).await?;
        }
        let room = MOST_RESUMED - self.resumed.len().min(MOST_RESUMED);
        let due = self.next_due.is_some_and(|due| due <= Instant::now());
        let claim = match (may, self.suspicion) {
            (May::Claim { .. }, Some(suspicion)) if is_free => {
                let most = if suspicion >= ALONE { 1 } else { MOST_RESUMED };
                Some((&self.statements.claim_suspects, most as i64))
            }
            (May::Claim { .. }, None)
                if !self.has_suspects() && room > 0 && (due || !work.lanes.is_empty()) =>
            {
                Some((&self.statements.claim, room as i64))
            }
            _ => None,
        };
        if work.is_empty() && claim.is_none() {
            return Ok(killers);
        }
        let claimed =
            self.write(client, cursor, work, claim.map(|(claim, room)| (claim.clone(), room))).await?;
        if !claimed.is_empty() {
            reach!(AfterResume);
        }
        self.hand_out(&claimed, cursor.token(), out).await?;
        if self.handle.with_held(|held| held.is_coarse()) && self.reloaded.elapsed() >= RELOAD_EVERY {
            self.reload(client).await?;
        }
        Ok(killers)
    }

    /// The input stops: what comes back unfinished is no error from now on.
    pub(crate) fn stop(&mut self) {
        self.given_up.get_or_insert_default();
    }

    /// Takes no more parcels: what is or comes here is abandoned.
    pub(crate) fn close(&mut self) {
        self.sent.close();
        while self.sent.try_recv().is_ok() {}
        self.queue.clear();
        self.resumed.values_mut().for_each(|resumed| resumed.joins.clear());
    }

    /// Waits until what is being tried is settled. Cancel-safe.
    pub(crate) async fn wait_until_settled(&mut self) {
        while let Some(settled) = self.receipts.next().await {
            self.settled.push(settled);
        }
    }

    /// Gives up what was claimed and came back unfinished; only when nothing is being tried any more.
    pub(crate) async fn unclaim(&mut self, client: &Client, cursor: &Cursor) -> Result<(), PostgresError> {
        let given_up = self.given_up.take().unwrap_or_default();
        if given_up.is_empty() {
            return Ok(());
        }
        let statements = &self.statements;
        self.statements
            .transact(client, cursor, vec![(&statements.unclaim, vec![&given_up as Parameter<'_>])])
            .await?;
        Ok(())
    }

    /// What has come in, as far as one transaction takes it.
    fn collect(&mut self) -> Result<Work, PostgresError> {
        while self.queue.len() < MOST_PARCELS {
            let Ok(sent) = self.sent.try_recv() else { break };
            self.queue.push(sent);
        }
        while let Some(Some(settled)) = self.receipts.next().now_or_never() {
            self.settled.push(settled);
        }
        let mut work = Work::default();
        let mut queue = std::mem::take(&mut self.queue).into_iter();
        while work.bytes < MOST_BYTES {
            let Some(sent) = queue.next() else { break };
            self.sort_in(sent, &mut work);
        }
        self.queue = queue.collect();
        // A row's parcels are written before its receipt says that all of them are.
        for (of_try, handled) in std::mem::take(&mut self.settled) {
            let Some(resumed) = self.resumed.remove(&of_try) else { continue };
            if !handled {
                self.given_up.as_mut().ok_or(PostgresError::Abandoned)?.push(resumed.number);
                continue;
            }
            if !resumed.is_over {
                work.finish(resumed.number, resumed.lane);
            }
            resumed.joins.into_iter().for_each(|sent| work.add(sent));
        }
        Ok(work)
    }

    fn sort_in(&mut self, mut sent: Sent, work: &mut Work) {
        let resumed = sent.source.from.and_then(|of_try| self.resumed.get_mut(&of_try));
        match (&sent.parcel.fate, resumed) {
            (Fate::Joined { .. }, Some(resumed)) => {
                // Made with the end of the row, which stays until then: nothing is lost in between.
                std::mem::replace(&mut sent.parcel.settle, Settle::new(|| ())).stored();
                resumed.joins.push(sent);
            }
            (Fate::Retry { .. } | Fate::Dead { .. }, Some(resumed)) if sent.source.row.is_some() => {
                resumed.is_over = true;
                work.add(sent);
            }
            _ => work.add(sent),
        }
    }

    /// One transaction: everything of `work`, and the claim if there is one. Returns what was claimed.
    async fn write(
        &mut self,
        client: &Client,
        cursor: &Cursor,
        work: Work,
        claim: Option<(Statement, i64)>,
    ) -> Result<Vec<Row>, PostgresError> {
        let lanes: Vec<i64> = work.lanes.iter().copied().collect();
        let nobody: Vec<String> = Vec::new();
        let token = cursor.token();
        let s = &self.statements;
        let mut run: Vec<(&Statement, Vec<Parameter<'_>>)> = Vec::new();
        if !work.park.is_empty() {
            run.push((&s.park, park_parameters(&work.park, &nobody)));
        }
        if !work.bury.is_empty() {
            run.push((&s.bury, bury_parameters(&work.bury)));
        }
        if !work.put_back.numbers.is_empty() {
            let back = &work.put_back;
            run.push((&s.put_back, vec![&back.numbers, &back.tries, &back.errors, &back.after_ms]));
        }
        if !work.remove.is_empty() {
            run.push((&s.remove, vec![&work.remove]));
        }
        run.extend(work.joins.iter().map(|(rows, unless)| (&s.park, park_parameters(rows, unless))));
        if !lanes.is_empty() {
            run.push((&s.unhead, vec![&lanes]));
            run.push((&s.head, vec![&lanes]));
        }
        let claims = claim.as_ref().map(|(statement, room)| {
            run.push((statement, vec![&token, room]));
            run.len() - 1
        });
        run.push((&s.empty, vec![&lanes]));
        run.push((&s.look, Vec::new()));
        reach!(BeforePark);
        let mut results = self.statements.transact(client, cursor, run).await?;
        reach!(AfterPark);
        let looked = results.pop().unwrap_or_default();
        let empty = results.pop().unwrap_or_default();
        let claimed = claims.map_or_else(Vec::new, |at| std::mem::take(&mut results[at]));
        self.looked(&looked);
        self.handle.with_held(|held| {
            work.marked.iter().for_each(|&lane| held.arrived(lane));
            empty.iter().for_each(|row| held.emptied(row.get(0)));
        });
        work.settle.into_iter().for_each(Settle::stored);
        Ok(claimed)
    }

    async fn hand_out(&mut self, rows: &[Row], token: i64, out: &Out<'_>) -> Result<(), PostgresError> {
        for row in rows {
            let (number, process, lane): (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
            self.tries += 1;
            let of_try = self.tries;
            let source =
                Source { seq: row.get(3), position: row.get(4), row: Some(number), from: Some(of_try) };
            let text: &str = row.get(5);
            let (attempt, tries): (i32, i32) = (row.get(6), row.get(7));
            let suspect: bool = row.get(8);
            let mut event: Event = serde_json::from_str(text)
                .map_err(|_| PostgresError::Unexpected { what: "a parked event", value: text.to_owned() })?;
            event.attempt = Some(attempt.unsigned_abs());
            event.token = Some(token.unsigned_abs());
            let origin = Origin::Row(source, process.clone());
            let terms = Terms {
                validity: Some(Arc::clone(out.validity)),
                parking: Some(Arc::new(OfDelivery { handle: Arc::clone(&self.handle), origin })),
                entry: Entry::Resumed { process, tries: tries.unsigned_abs(), suspect },
                stored: Stored::default(),
            };
            let (delivery, receipt) = Delivery::with_terms(vec![event], terms);
            self.resumed.insert(of_try, Resumed { number, lane, suspect, is_over: false, joins: Vec::new() });
            self.receipts.push(settled(of_try, receipt).boxed());
            out.sink.send(delivery).await.map_err(|_| PostgresError::SinkClosed)?;
        }
        Ok(())
    }

    async fn bury_killers(&mut self, client: &Client, cursor: &Cursor) -> Result<Vec<Killer>, PostgresError> {
        let s = &self.statements;
        let buried = self.statements.transact(client, cursor, vec![(&s.bury_killers, Vec::new())]).await?;
        let rows = buried.into_iter().flatten().collect::<Vec<_>>();
        let killer = |row: &Row| Killer { process: row.get(1), location: row.get(2), id: row.get(3) };
        let killers: Vec<Killer> = rows.iter().map(killer).collect();
        if !killers.is_empty() {
            // Whatever is behind them becomes the head of its lane.
            let lanes = rows.iter().map(|row| row.get(0)).collect();
            self.write(client, cursor, Work { lanes, ..Work::default() }, None).await?;
        }
        Ok(killers)
    }

    /// Takes in what [`look`](ParkingStatements::look) found; says whether anything is claimed.
    fn looked(&mut self, rows: &[Row]) -> bool {
        let Some(row) = rows.first() else { return false };
        self.suspicion = row.get(1);
        let seconds: Option<f64> = row.get(2);
        let due_in = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(RELOAD_EVERY);
        self.next_due = seconds.map(|seconds| Instant::now() + due_in(seconds).min(RELOAD_EVERY));
        row.get(0)
    }

    /// Knows the held lanes one by one again, if there are few enough by now.
    async fn reload(&mut self, client: &Client) -> Result<(), PostgresError> {
        self.reloaded = Instant::now();
        let sql = format!(
            "SELECT pg_catalog.count(*) FROM (SELECT FROM {}.parked p WHERE p.head LIMIT {}) c",
            self.statements.schema,
            MOST_RELOADED + 1
        );
        let row = bounded("counting parked keys", client.query_one(&sql, &[])).await?;
        if row.get::<_, i64>(0) <= MOST_RELOADED {
            load(client, &self.statements, &self.handle).await?;
        }
        Ok(())
    }
}

/// Gives each of these lanes the head that it should have; in a transaction that holds the cursor row's lock.
pub(crate) async fn reopen_lanes(client: &Client, schema: &str, lanes: &[i64]) -> Result<(), PostgresError> {
    for sql in [sql::UNHEAD, sql::HEAD] {
        let sql = sql.replace("{schema}", schema);
        bounded("opening lanes", client.execute(&sql, &[&lanes])).await?;
    }
    Ok(())
}

/// Parks rows by a command; in a transaction that holds the cursor row's lock. Returns how many were not parked already.
pub(crate) async fn park_by_command(
    client: &Client,
    schema: &str,
    rows: &Rows,
) -> Result<u64, PostgresError> {
    let nobody = Vec::new();
    let sql = sql::PARK.replace("{schema}", schema);
    let parked = bounded("parking", client.execute(&sql, &park_parameters(rows, &nobody))).await?;
    reopen_lanes(client, schema, &rows.lanes).await?;
    Ok(parked)
}

async fn load(client: &Client, statements: &ParkingStatements, handle: &Handle) -> Result<(), PostgresError> {
    let doing = "reading which keys are parked";
    let none: [i64; 0] = [];
    let rows = bounded(doing, client.query_raw(&statements.lanes, none)).await?;
    handle.with_held(HeldLanes::reload);
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = bounded(doing, rows.try_next()).await? {
        handle.with_held(|held| held.found(row.get(0)));
    }
    Ok(())
}

async fn settled(of_try: u64, mut receipt: Receipt) -> (u64, bool) {
    (&mut receipt).await;
    (of_try, receipt.is_handled())
}
