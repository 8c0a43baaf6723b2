//! What was committed, what was delivered, and whether the one follows from the other.
//!
//! The check is pure. For each row it compares the operations that were committed, in order, with the operations of
//! the first deliveries, in order of arrival.

mod check;
mod terms;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use check::check;
pub use terms::{RowWrite, Trust, fenced, longest_overlap, stale_writes, tokens_not_above_earlier};

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// An INSERT.
    Create,
    /// An UPDATE.
    Update,
    /// A DELETE.
    Delete,
    /// Anything that no writer here does.
    Other,
}

/// One change of one row, as its writer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table as events name it.
    pub table: String,
    /// The key as events write it in `id`.
    pub key: String,
    /// What happened.
    pub operation: Operation,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its changes must be delivered.
    Committed,
    /// None of its changes may be delivered.
    RolledBack,
    /// The connection broke during the commit: its changes may be delivered.
    Unknown,
}

/// The changes of one transaction, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// How it ended.
    pub outcome: Outcome,
    /// What it did.
    pub changes: Vec<Change>,
}

/// What the writers did. Transactions that touch the same row stand in the order of their commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// All transactions.
    pub transactions: Vec<Transaction>,
    /// Tables whose rows several writers change at once, so that only the numbers of operations can be compared.
    pub contended: BTreeSet<String>,
    /// Statements that failed though nothing was wrong with them; there must be none.
    pub failed_statements: Vec<String>,
}

/// One event as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Instant,
    /// The id that is the same for every delivery of one event.
    pub event_id: Option<String>,
    /// The fencing token of the deliverer.
    pub token: Option<u64>,
    /// 1 for a first delivery.
    pub attempt: Option<u64>,
    /// The table.
    pub table: String,
    /// The key.
    pub key: String,
    /// What happened.
    pub operation: Operation,
    /// When the change was captured, by the database's clock.
    pub captured_at: Option<String>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes of committed transactions.
    pub committed: usize,
    /// Deliveries, repeats included.
    pub deliveries: usize,
    /// Different events delivered.
    pub received: usize,
    /// Committed changes of which no event came.
    pub lost: usize,
    /// Events of which no change was committed.
    pub phantom: usize,
    /// Deliveries of an event delivered before that say so (`attempt` of 2 or more).
    pub repeats_marked: usize,
    /// Deliveries of an event delivered before that do not say so.
    pub repeats_unmarked: usize,
    /// First deliveries that say that they may be repeats.
    pub marked_first: usize,
    /// Events that came in another order than the changes of their row.
    pub out_of_order: usize,
    /// Deliveries with a lower token than one that came before: a deposed replica still delivers.
    pub stale: usize,
    /// Deliveries that reuse the id of another event.
    pub conflicting: usize,
    /// Deliveries without an event id or with a malformed time.
    pub malformed: usize,
    /// Statements of the writers that failed though nothing was wrong with them.
    pub failed_statements: usize,
    /// The first few findings in words.
    pub findings: Vec<String>,
}

impl Report {
    /// Whether every promise was kept: nothing lost, invented, repeated unmarked, out of order, ambiguous, and no
    /// statement of the writers failed. Stale deliveries are for the caller to judge: whether one can be avoided
    /// depends on the fault.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self {
            lost,
            phantom,
            repeats_unmarked,
            out_of_order,
            conflicting,
            malformed,
            failed_statements,
            ..
        } = self;
        [lost, phantom, repeats_unmarked, out_of_order, conflicting, malformed, failed_statements]
            .iter()
            .all(|&&count| count == 0)
    }
}

impl Operation {
    /// By the word that events use.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "create" => Self::Create,
            "update" => Self::Update,
            "delete" => Self::Delete,
            _ => Self::Other,
        }
    }
}

impl Change {
    /// A change.
    pub fn new(table: impl Into<String>, key: impl Into<String>, operation: Operation) -> Self {
        Self { table: table.into(), key: key.into(), operation }
    }
}

impl Writes {
    /// How many changes were committed.
    #[must_use]
    pub fn committed(&self) -> usize {
        let committed = self.transactions.iter().filter(|one| one.outcome == Outcome::Committed);
        committed.map(|one| one.changes.len()).sum()
    }

    /// Adds what other writers, who touch other rows or contended tables, did.
    pub fn extend(&mut self, other: Self) {
        self.transactions.extend(other.transactions);
        self.contended.extend(other.contended);
        self.failed_statements.extend(other.failed_statements);
    }
}

impl Delivery {
    /// Reads an event's JSON; what is missing is left empty and found by the check.
    #[must_use]
    pub fn from_event(event: &Value, at: Instant) -> Self {
        let text = |member: &str| event.get(member).and_then(Value::as_str);
        let number = |member: &str| event.get(member).and_then(Value::as_u64);
        Self {
            at,
            event_id: text("event_id").map(str::to_owned),
            token: number("token"),
            attempt: number("attempt"),
            table: text("location").unwrap_or_default().to_owned(),
            key: text("id").unwrap_or_default().to_owned(),
            operation: Operation::from_word(text("operation").unwrap_or_default()),
            captured_at: text("captured_at").map(str::to_owned),
        }
    }
}

/// How long after `fault` the first event came that a later term than all before it delivered; `None` if none did.
#[must_use]
pub fn takeover(deliveries: &[Delivery], fault: Instant) -> Option<Duration> {
    let before = deliveries.iter().filter(|delivery| delivery.at <= fault);
    let term = before.filter_map(|delivery| delivery.token).max();
    let next = deliveries.iter().filter(|delivery| delivery.at > fault && delivery.token > term);
    next.map(|delivery| delivery.at - fault).min()
}
