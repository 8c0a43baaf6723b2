//! What the writers did, in few bytes: rows are changed in blocks of neighbouring keys, which share one history.

use std::collections::HashMap;

use crate::history::Operation;

/// The life of every key: change number n is `CYCLE[n % 3]`. So two changes that changed places, or one that is missing,
/// show in the operations alone.
pub(super) const CYCLE: [Operation; 3] = [Operation::Create, Operation::Update, Operation::Delete];
/// Keys of one block are `first..first + count`, and no two blocks are in one range of so many.
pub(super) const BLOCK_KEYS: u64 = 4096;
/// Changes of one key at most: what a key's record in the sink has room for.
pub(super) const MAX_CHANGES: usize = 30;

/// A captured table. Those of [`Table::ddl`] come and go during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Table(u16);

/// One transaction that was, or may have been, committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    /// What it wrote to the log of transactions.
    pub(super) id: i64,
    /// How many promotions came before it.
    pub(super) timeline: u32,
    /// Whether the server said that it committed.
    pub(super) acknowledged: bool,
}

/// Neighbouring keys of one table that are always changed together.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) table: Table,
    pub(super) first: u64,
    pub(super) count: u32,
    /// The transaction of each change, as an index.
    pub(super) changes: Vec<u32>,
}

/// What one writer did, or all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) transactions: Vec<Transaction>,
    pub(super) blocks: Vec<Block>,
    /// Rows that all writers update: the transactions of each, in no order.
    pub(super) contended: HashMap<(Table, u64), Vec<u32>>,
    /// Statements that failed though nothing was wrong with them.
    pub(super) failed_statements: Vec<String>,
}

impl Table {
    pub(super) const ORDERS: Self = Self(0);
    pub(super) const CUSTOMERS: Self = Self(1);
    pub(super) const ORDER_LINES: Self = Self(2);
    pub(super) const COUNTERS: Self = Self(3);
    pub(super) const FOLLOWUPS: Self = Self(4);
    const NAMES: [&str; 5] = ["orders", "customers", "order_lines", "counters", "followups"];
    const DDL_FROM: u16 = 100;

    /// The table that was the so-many-th to be made during the run.
    pub(super) fn ddl(number: u16) -> Self {
        Self(Self::DDL_FROM + number)
    }

    pub(super) fn name(self) -> String {
        match Self::NAMES.get(usize::from(self.0)) {
            Some(name) => (*name).to_owned(),
            None => format!("ddl_{}", self.0 - Self::DDL_FROM),
        }
    }

    /// By an event's `location`.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        if let Some(index) = Self::NAMES.iter().position(|other| *other == name) {
            return Some(Self(u16::try_from(index).ok()?));
        }
        Some(Self(name.strip_prefix("ddl_")?.parse::<u16>().ok()?.checked_add(Self::DDL_FROM)?))
    }

    /// The number that an event's `id` stands for.
    pub(super) fn number(self, id: &str) -> Option<u64> {
        match self {
            Self::CUSTOMERS => id.rsplit_once('-')?.1.parse().ok(),
            Self::ORDER_LINES => {
                let (order, line) = id.strip_prefix('[')?.strip_suffix(']')?.split_once(',')?;
                Some(order.parse::<u64>().ok()? * BLOCK_KEYS + line.parse::<u64>().ok()?)
            }
            _ => id.parse().ok(),
        }
    }

    /// The statement that does `operation` to the keys of a block.
    pub(super) fn sql(self, operation: Operation, first: u64, count: u32) -> String {
        let (name, last) = (self.name(), first + u64::from(count) - 1);
        let (order, line) = (first / BLOCK_KEYS, u64::from(count) - 1);
        let rows = match self {
            Self::CUSTOMERS => {
                format!(
                    "(code) SELECT 'w/\"ü\"-' || lpad(g::text, 15, '0') FROM generate_series({first}, {last}) g"
                )
            }
            Self::ORDER_LINES => {
                format!("(order_id, line) SELECT {order}, g FROM generate_series(0, {line}) g")
            }
            _ => format!("(id) SELECT g FROM generate_series({first}::bigint, {last}) g"),
        };
        let which = match self {
            Self::CUSTOMERS => {
                format!("code BETWEEN 'w/\"ü\"-{first:015}' AND 'w/\"ü\"-{last:015}'")
            }
            Self::ORDER_LINES => format!("order_id = {order} AND line BETWEEN 0 AND {line}"),
            _ => format!("id BETWEEN {first} AND {last}"),
        };
        match operation {
            Operation::Create => format!("INSERT INTO {name} {rows}"),
            Operation::Delete => format!("DELETE FROM {name} WHERE {which}"),
            _ => format!("UPDATE {name} SET n = n + 1 WHERE {which}"),
        }
    }
}

impl Block {
    /// Statements that make its next so many changes.
    pub(super) fn sql(&self, times: usize) -> Vec<String> {
        let operations = CYCLE.iter().cycle().skip(self.changes.len() % CYCLE.len()).take(times);
        operations.map(|operation| self.table.sql(*operation, self.first, self.count)).collect()
    }

    /// What its next change is.
    pub(super) fn next(&self) -> Operation {
        CYCLE[self.changes.len() % CYCLE.len()]
    }
}

impl Ledger {
    /// Adds what another writer did, who has other blocks.
    pub(super) fn extend(&mut self, other: Self) {
        let offset = u32::try_from(self.transactions.len()).unwrap_or(u32::MAX);
        let moved = |changes: Vec<u32>| changes.into_iter().map(|index| index + offset).collect::<Vec<_>>();
        self.transactions.extend(other.transactions);
        let blocks = other.blocks.into_iter();
        self.blocks.extend(blocks.map(|block| Block { changes: moved(block.changes), ..block }));
        for (key, changes) in other.contended {
            self.contended.entry(key).or_default().extend(moved(changes));
        }
        self.failed_statements.extend(other.failed_statements);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for table in [Table::ORDERS, Table::CUSTOMERS, Table::ORDER_LINES, Table::ddl(7)] {
            assert_eq!(Table::from_name(&table.name()), Some(table));
        }
        assert_eq!(Table::CUSTOMERS.number("w/\"ü\"-000000000000042"), Some(42));
        assert_eq!(Table::ORDER_LINES.number("[3,5]"), Some(3 * BLOCK_KEYS + 5));
        assert_eq!(Table::ORDERS.number("9"), Some(9));
        assert_eq!(
            Table::ORDER_LINES.sql(Operation::Update, 3 * BLOCK_KEYS, 6),
            "UPDATE order_lines SET n = n + 1 WHERE order_id = 3 AND line BETWEEN 0 AND 5"
        );
    }
}
