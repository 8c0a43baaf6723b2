//! The application: writers that change blocks of rows, straight on the primary, and remember what they did.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::ledger::{BLOCK_KEYS, Block, Ledger, MAX_CHANGES, Table, Transaction};
use super::sink::Link;
use crate::connect;

/// Where the application's database is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) url: String,
    /// How many promotions there were.
    pub(super) timeline: u32,
}

/// What all writers share.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) target: watch::Receiver<Target>,
    pub(super) committed: AtomicU64,
    pub(super) stopping: AtomicBool,
    pub(super) link: Arc<Link>,
    /// Changes per second.
    pub(super) rate: f64,
    pub(super) due: Mutex<Instant>,
    pub(super) forgiven: Mutex<Forgiven>,
}

/// A part of the backlog that will never come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forgiven {
    changes: u64,
    /// How many promotions there were then.
    timeline: u32,
}

/// The tables; and, which are not captured, what a process of type `sql` writes, and the log of transactions. One row says of a transaction that it committed.
pub(super) const TABLES: &str = "
CREATE TABLE orders (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, note text);
CREATE TABLE customers (code text PRIMARY KEY, n int NOT NULL DEFAULT 0, note text);
CREATE TABLE order_lines (order_id bigint, line int, n int NOT NULL DEFAULT 0, PRIMARY KEY (order_id, line));
CREATE TABLE counters (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0);
CREATE TABLE followups (id bigserial PRIMARY KEY, note text);
CREATE SCHEMA audit;
CREATE SCHEMA effects;
CREATE TABLE effects.effects (event_id text, location text, id text);
CREATE TABLE audit.transactions (id bigint PRIMARY KEY);
INSERT INTO counters SELECT generate_series(1, 8);
";

const COUNTERS: u64 = 8;
const KINDS: [Table; 3] = [Table::ORDERS, Table::CUSTOMERS, Table::ORDER_LINES];
/// Blocks of one writer that may change again.
const LIVE_BLOCKS: usize = 24;
/// Changes that may be on their way before the writers wait.
const BACKLOG: u64 = 8_000;
/// A backlog that has not moved for so long since a promotion is what that took away.
const FORGIVE_AFTER: Duration = Duration::from_secs(20);
/// The same without a promotion: crashes take something away, too, if little.
const FORGIVE_ANYHOW_AFTER: Duration = Duration::from_secs(120);
/// Changes of one block in one transaction.
const MOST_AT_ONCE: usize = 3;
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// What was missed while the server was away is made up for as far as this.
const CATCH_UP: Duration = Duration::from_secs(20);
/// Transactions of different writers never have the same number.
const NUMBERS_PER_WRITER: i64 = 1 << 40;

/// Writers at work, until `stopping` is set.
pub(super) fn start(count: u32, seed: u64, pace: &Arc<Pace>) -> JoinSet<Ledger> {
    let mut writers = JoinSet::new();
    for number in 0..count {
        let random = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number)));
        writers.spawn(Writer::new(number, random, Arc::clone(pace)).write());
    }
    writers
}

/// One application's client: writes transactions and their outcome down.
pub(super) struct Writer {
    number: u32,
    random: Rng,
    pace: Arc<Pace>,
    ledger: Ledger,
    /// Indexes of blocks that may change again.
    live: Vec<usize>,
    next_block: u64,
}

/// What a transaction is to do to some rows.
struct Step {
    /// One statement for each change.
    sql: Vec<String>,
    rows: u64,
    change: Change,
}

enum Change {
    /// Of a block in the ledger.
    Old(usize),
    New(Block),
    Contended(u64),
}

/// How a transaction ended.
#[derive(Debug)]
enum End {
    Committed,
    RolledBack,
    /// It may have committed, and the session is not to be used any more.
    Unknown,
}

impl Step {
    fn changes(&self) -> u64 {
        self.rows * self.sql.len() as u64
    }
}

impl Writer {
    pub(super) fn new(number: u32, random: Rng, pace: Arc<Pace>) -> Self {
        Self { number, random, pace, ledger: Ledger::default(), live: Vec::new(), next_block: 0 }
    }

    async fn write(mut self) -> Ledger {
        while !self.pace.is_over() {
            let target = self.pace.target.borrow().clone();
            if let Ok(client) = connect(&target.url).await {
                // Rows whose fate is unknown are never touched again.
                self.live.clear();
                self.write_over(&client, target.timeline).await;
            }
            if !self.pace.is_over() {
                sleep(RECONNECT_PAUSE).await;
            }
        }
        self.ledger
    }

    async fn write_over(&mut self, client: &Client, timeline: u32) {
        while !self.pace.is_over() {
            let steps = self.plan();
            let changes: u64 = steps.iter().map(Step::changes).sum();
            if !self.pace.wait_for_turn(changes).await {
                return;
            }
            if !self.transaction(client, timeline, steps).await {
                return;
            }
        }
    }

    fn plan(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut used = Vec::new();
        for _ in 0..self.random.u32(1..=3) {
            let old = self.random.usize(0..=self.live.len().max(4));
            // Changes of one key right after one another are what its order is about.
            let times = if self.random.u32(0..5) == 0 { self.random.usize(2..=MOST_AT_ONCE) } else { 1 };
            let step = match self.live.get(old).copied().filter(|index| !used.contains(index)) {
                Some(index) => {
                    used.push(index);
                    let block = &self.ledger.blocks[index];
                    Step { sql: block.sql(times), rows: block.count.into(), change: Change::Old(index) }
                }
                None => {
                    let block = self.new_block();
                    Step { sql: block.sql(times), rows: block.count.into(), change: Change::New(block) }
                }
            };
            steps.push(step);
        }
        // The contended row last and only one: it is held briefly, and two writers cannot block each other.
        if self.random.u32(0..6) == 0 {
            let id = self.random.u64(1..=COUNTERS);
            let sql = vec![format!("UPDATE counters SET n = n + 1 WHERE id = {id}")];
            steps.push(Step { sql, rows: 1, change: Change::Contended(id) });
        }
        steps
    }

    fn new_block(&mut self) -> Block {
        // Most changes come in large statements, most statements are small.
        let count = match self.random.u32(0..100) {
            0..50 => self.random.u32(1..=5),
            50..97 => self.random.u32(20..=200),
            97..99 => self.random.u32(500..=1000),
            _ => self.random.u32(1001..=2500),
        };
        self.next_block += 1;
        let first = ((u64::from(self.number) << 28) + self.next_block) * BLOCK_KEYS;
        let table = KINDS[self.random.usize(0..KINDS.len())];
        Block { table, first, count, changes: Vec::new() }
    }

    /// Runs one transaction; false when the session is not to be used any more.
    async fn transaction(&mut self, client: &Client, timeline: u32, steps: Vec<Step>) -> bool {
        let roll_back = self.random.u32(0..100) < 4;
        let asynchronous = self.random.u32(0..100) < 8;
        let pause = if self.random.u32(0..100) < 4 { self.random.u64(5..200) } else { 0 };
        let index = u32::try_from(self.ledger.transactions.len()).unwrap_or(u32::MAX);
        let id = i64::from(self.number) * NUMBERS_PER_WRITER + i64::from(index);
        let end = self.run(client, id, &steps, (roll_back, asynchronous, pause)).await;
        if matches!(end, End::RolledBack) {
            return !client.is_closed();
        }
        let acknowledged = matches!(end, End::Committed);
        self.ledger.transactions.push(Transaction { id, timeline, acknowledged });
        let mut changes = 0;
        for step in steps {
            changes += step.changes();
            match step.change {
                Change::Old(block) => self.record(block, index, step.sql.len()),
                Change::New(block) => {
                    self.ledger.blocks.push(block);
                    self.record(self.ledger.blocks.len() - 1, index, step.sql.len());
                }
                Change::Contended(id) => {
                    self.ledger.contended.entry((Table::COUNTERS, id)).or_default().push(index);
                }
            }
        }
        if acknowledged {
            self.pace.committed.fetch_add(changes, Ordering::Relaxed);
        }
        acknowledged && !client.is_closed()
    }

    fn record(&mut self, index: usize, transaction: u32, times: usize) {
        let block = &mut self.ledger.blocks[index];
        block.changes.extend(std::iter::repeat_n(transaction, times));
        self.live.retain(|other| *other != index);
        if block.changes.len() + MOST_AT_ONCE <= MAX_CHANGES {
            self.live.push(index);
        }
        if self.live.len() > LIVE_BLOCKS {
            self.live.swap_remove(self.random.usize(0..LIVE_BLOCKS));
        }
    }

    async fn run(&mut self, client: &Client, id: i64, steps: &[Step], how: (bool, bool, u64)) -> End {
        let (roll_back, asynchronous, pause) = how;
        let mut sql = String::from("BEGIN; ");
        if asynchronous {
            sql.push_str("SET LOCAL synchronous_commit = off; ");
        }
        for statement in steps.iter().flat_map(|step| &step.sql) {
            sql.push_str(statement);
            sql.push_str("; ");
        }
        sql.push_str(&format!("INSERT INTO audit.transactions VALUES ({id})"));
        match client.simple_query(&sql).await {
            Ok(messages) => self.check_counts(&messages, steps),
            Err(error) => return self.refused(client, &error).await,
        }
        if pause > 0 {
            sleep(Duration::from_millis(pause)).await;
        }
        let last = if roll_back { "ROLLBACK" } else { "COMMIT" };
        match client.batch_execute(last).await {
            Ok(()) if roll_back => End::RolledBack,
            Ok(()) => End::Committed,
            Err(_) if roll_back => End::RolledBack,
            Err(error) if error.as_db_error().is_some() => self.refused(client, &error).await,
            Err(_) => End::Unknown,
        }
    }

    /// Each writer is alone with its rows, so it knows how many there are.
    fn check_counts(&mut self, messages: &[SimpleQueryMessage], steps: &[Step]) {
        let counts = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(count) => Some(*count),
            _ => None,
        });
        let counts: Vec<u64> = counts.collect();
        // The last is of the log of transactions.
        let wanted: Vec<u64> =
            steps.iter().flat_map(|step| std::iter::repeat_n(step.rows, step.sql.len())).collect();
        let own = counts.len().checked_sub(wanted.len() + 1).map(|from| &counts[from..counts.len() - 1]);
        if own != Some(&wanted[..]) {
            let finding = format!("statements changed {counts:?} rows, not {wanted:?}");
            self.ledger.failed_statements.push(finding);
        }
    }

    /// A statement failed, or the server says that a commit did. Class 57P is the server going away, which is a fault's
    /// doing; anything else has no reason to happen.
    async fn refused(&mut self, client: &Client, error: &tokio_postgres::Error) -> End {
        if let Some(refusal) = error.as_db_error()
            && !refusal.code().code().starts_with("57P")
        {
            self.ledger.failed_statements.push(format!("a statement failed: {}", crate::chain(error)));
        }
        let _ = client.batch_execute("ROLLBACK").await;
        // Nothing commits before COMMIT, and a refused one has not committed, unless the server went away during it.
        if client.is_closed() || error.as_db_error().is_none() { End::Unknown } else { End::RolledBack }
    }

    /// Runs steps of whoever plans them, such as those on tables that come and go.
    pub(super) async fn run_block(
        &mut self,
        client: &Client,
        timeline: u32,
        block: Option<usize>,
        (table, count): (Table, u32),
        key: &str,
    ) -> Option<usize> {
        let (change, rows, sql) = match block {
            Some(index) => {
                let block = &self.ledger.blocks[index];
                let sql = block.table.sql(block.next(), block.first, block.count);
                (Change::Old(index), block.count, sql)
            }
            None => {
                let block = Block { table, count, ..self.new_block() };
                let sql = block.table.sql(block.next(), block.first, block.count);
                (Change::New(block), count, sql)
            }
        };
        let sql = sql.replace("(id)", &format!("({key})")).replace("WHERE id", &format!("WHERE {key}"));
        let step = Step { sql: vec![sql], rows: rows.into(), change };
        let blocks = self.ledger.blocks.len();
        let going = self.transaction_plain(client, timeline, step).await;
        going.then(|| block.unwrap_or(blocks))
    }

    async fn transaction_plain(&mut self, client: &Client, timeline: u32, step: Step) -> bool {
        // Neither rolled back nor asynchronous, so that whoever planned it can go on with the next.
        let index = u32::try_from(self.ledger.transactions.len()).unwrap_or(u32::MAX);
        let id = i64::from(self.number) * NUMBERS_PER_WRITER + i64::from(index);
        let steps = [step];
        let end = self.run(client, id, &steps, (false, false, 0)).await;
        if matches!(end, End::RolledBack) {
            return false;
        }
        let acknowledged = matches!(end, End::Committed);
        self.ledger.transactions.push(Transaction { id, timeline, acknowledged });
        let [step] = steps;
        match step.change {
            Change::Old(block) => self.ledger.blocks[block].changes.push(index),
            Change::New(mut block) => {
                block.changes.push(index);
                self.ledger.blocks.push(block);
            }
            Change::Contended(_) => {}
        }
        if acknowledged {
            self.pace.committed.fetch_add(step.rows, Ordering::Relaxed);
        }
        acknowledged && !client.is_closed()
    }

    /// A statement of the application that changes no row.
    pub(super) async fn define(&mut self, client: &Client, sql: &str) -> bool {
        match client.batch_execute(sql).await {
            Ok(()) => true,
            Err(error) => {
                if let Some(refusal) = error.as_db_error()
                    && !refusal.code().code().starts_with("57P")
                {
                    self.ledger.failed_statements.push(format!("{sql}: {}", crate::chain(&error)));
                }
                false
            }
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn into_ledger(self) -> Ledger {
        self.ledger
    }
}

impl Pace {
    fn is_over(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn is_too_much(&self, backlog: u64) -> bool {
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        if backlog < BACKLOG + forgiven.changes {
            return false;
        }
        let timeline = self.target.borrow().timeline;
        let after = if timeline > forgiven.timeline { FORGIVE_AFTER } else { FORGIVE_ANYHOW_AFTER };
        if self.link.quiet_for() > after {
            *forgiven = Forgiven { changes: backlog, timeline };
        }
        true
    }

    /// Waits until these changes are due and the backlog is small; false when all is over.
    async fn wait_for_turn(&self, changes: u64) -> bool {
        loop {
            if self.is_over() {
                return false;
            }
            let events = self.link.counts().events;
            let backlog = self.committed.load(Ordering::Relaxed).saturating_sub(events);
            if !self.is_too_much(backlog) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let turn = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = *due;
            let earliest = Instant::now().checked_sub(CATCH_UP).unwrap_or(turn);
            *due = turn.max(earliest) + Duration::from_secs_f64(changes as f64 / self.rate);
            turn
        };
        while Instant::now() < turn && !self.is_over() {
            sleep((turn - Instant::now()).min(Duration::from_millis(100))).await;
        }
        !self.is_over()
    }
}
