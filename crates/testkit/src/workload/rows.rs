//! Which rows a writer has, and what it does to them next.

use std::fmt::Write;

use fastrand::Rng;

use super::{COUNTERS, WorkloadOptions};
use crate::history::{Change, Operation};

/// Few enough that each row changes often.
const LIVE_LIMIT: usize = 40;
/// Some deleted rows come back under the same key.
const REVIVAL_PERCENT: u32 = 30;
const TABLES: [Table; 3] = [Table::Orders, Table::Customers, Table::OrderLines];

/// The rows of one writer, over one connection. Nobody else touches them, so the order of their changes is known.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    writer: u32,
    epoch: u32,
    tables: [Keys; 3],
}

/// One transaction to be run.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) statements: Vec<Statement>,
    /// What the statements change, in order.
    pub(super) changes: Vec<Change>,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    /// How many rows it must affect.
    pub(super) rows: u64,
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Orders,
    Customers,
    OrderLines,
}

#[derive(Clone, Debug, Default)]
struct Keys {
    live: Vec<u32>,
    dead: Vec<u32>,
    next: u32,
}

impl Rows {
    pub(super) fn new(writer: u32, epoch: u32) -> Self {
        Self { writer, epoch, tables: Default::default() }
    }

    /// Plans a transaction, and changes the rows as it will.
    pub(super) fn plan(&mut self, random: &mut Rng, options: &WorkloadOptions) -> Plan {
        let mut plan = Plan::default();
        for _ in 0..random.u32(1..=options.max_statements.max(1)) {
            let count = random.usize(1..=options.max_rows.max(1) as usize);
            let index = random.usize(..TABLES.len());
            self.statement(random, index, count, &mut plan);
        }
        // The contended row last and only one: it is held briefly, and two writers cannot block each other.
        if options.counters > 0 && random.u32(0..4) == 0 {
            let id = random.u32(1..=options.counters);
            plan.changes.push(Change::new(COUNTERS, id.to_string(), Operation::Update));
            let sql = format!("UPDATE counters SET n = n + 1 WHERE id = {id}");
            plan.statements.push(Statement { sql, rows: 1 });
        }
        plan
    }

    fn statement(&mut self, random: &mut Rng, index: usize, count: usize, plan: &mut Plan) {
        let table = TABLES[index];
        let keys = &mut self.tables[index];
        let operation = match random.u32(0..10) {
            _ if keys.live.len() < count => Operation::Create,
            0..3 if keys.live.len() < LIVE_LIMIT => Operation::Create,
            0..5 => Operation::Delete,
            _ => Operation::Update,
        };
        let chosen = match operation {
            Operation::Create => keys.create(random, count),
            Operation::Delete => keys.delete(random, count),
            _ => keys.some(random, count),
        };
        let keys: Vec<Key> =
            chosen.into_iter().map(|number| Key { writer: self.writer, epoch: self.epoch, number }).collect();
        plan.changes.extend(keys.iter().map(|key| Change::new(table.name(), table.id(key), operation)));
        plan.statements.push(Statement { sql: table.sql(operation, &keys), rows: keys.len() as u64 });
    }
}

impl Keys {
    fn create(&mut self, random: &mut Rng, count: usize) -> Vec<u32> {
        let mut made = Vec::with_capacity(count);
        for _ in 0..count {
            let revived = !self.dead.is_empty() && random.u32(0..100) < REVIVAL_PERCENT;
            made.push(if revived {
                self.dead.swap_remove(random.usize(..self.dead.len()))
            } else {
                self.next += 1;
                self.next
            });
        }
        self.live.extend(&made);
        made
    }

    fn delete(&mut self, random: &mut Rng, count: usize) -> Vec<u32> {
        let gone: Vec<u32> =
            (0..count).map(|_| self.live.swap_remove(random.usize(..self.live.len()))).collect();
        self.dead.extend(&gone);
        gone
    }

    fn some(&mut self, random: &mut Rng, count: usize) -> Vec<u32> {
        random.shuffle(&mut self.live);
        self.live[..count].to_vec()
    }
}

/// A key's parts; each table makes a key of its own type from them.
struct Key {
    writer: u32,
    epoch: u32,
    number: u32,
}

impl Key {
    fn owner(&self) -> u64 {
        u64::from(self.epoch) * 10_000 + u64::from(self.writer) + 1
    }
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Customers => "customers",
            Self::OrderLines => "order_lines",
        }
    }

    const fn columns(self) -> &'static str {
        match self {
            Self::Orders => "(id)",
            Self::Customers => "(code)",
            Self::OrderLines => "(order_id, line)",
        }
    }

    /// The key as events write it.
    fn id(self, key: &Key) -> String {
        let (owner, number) = (key.owner(), key.number);
        match self {
            Self::Orders => (owner * 1_000_000_000 + u64::from(number)).to_string(),
            Self::Customers => format!("w{owner}/\"ü\"-{number}"),
            Self::OrderLines => format!("[{owner},{number}]"),
        }
    }

    /// The key as a row of SQL.
    fn literal(self, key: &Key) -> String {
        match self {
            Self::Orders => format!("({})", self.id(key)),
            Self::Customers => format!("('{}')", self.id(key)),
            Self::OrderLines => format!("({}, {})", key.owner(), key.number),
        }
    }

    fn sql(self, operation: Operation, keys: &[Key]) -> String {
        let mut list = String::new();
        for key in keys {
            let comma = if list.is_empty() { "" } else { ", " };
            let _ = write!(list, "{comma}{}", self.literal(key));
        }
        let (name, columns) = (self.name(), self.columns());
        match operation {
            Operation::Create => format!("INSERT INTO {name} {columns} VALUES {list}"),
            Operation::Delete => format!("DELETE FROM {name} WHERE {columns} IN ({list})"),
            _ => format!("UPDATE {name} SET n = n + 1 WHERE {columns} IN ({list})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_rows_life_makes_sense_and_the_seed_fixes_it() {
        let options = WorkloadOptions::default();
        let lives = |seed| {
            let (mut random, mut rows) = (Rng::with_seed(seed), Rows::new(3, 0));
            let plans =
                (0..500).flat_map(move |_| rows.plan(&mut random, &WorkloadOptions::default()).changes);
            plans.collect::<Vec<Change>>()
        };
        let changes = lives(7);
        assert_eq!(changes, lives(7));
        assert_ne!(changes, lives(8));
        let mut alive: BTreeMap<(&str, &str), bool> = BTreeMap::new();
        for change in changes.iter().filter(|change| change.table != COUNTERS) {
            let alive = alive.entry((&change.table, &change.key)).or_default();
            assert_eq!(*alive, change.operation != Operation::Create, "{change:?}");
            *alive = change.operation != Operation::Delete;
        }
        let count = |operation| changes.iter().filter(|change| change.operation == operation).count();
        for operation in [Operation::Create, Operation::Update, Operation::Delete] {
            assert!(count(operation) > 100, "{operation:?}");
        }
        assert!(options.counters > 0 && changes.iter().any(|change| change.table == COUNTERS));
    }

    #[test]
    fn sql_names_the_keys_of_its_events() {
        let keys = [Key { writer: 1, epoch: 0, number: 5 }, Key { writer: 1, epoch: 2, number: 6 }];
        assert_eq!(
            Table::OrderLines.sql(Operation::Update, &keys),
            "UPDATE order_lines SET n = n + 1 WHERE (order_id, line) IN ((2, 5), (20002, 6))"
        );
        assert_eq!(Table::OrderLines.id(&keys[1]), "[20002,6]");
        assert_eq!(
            Table::Orders.sql(Operation::Delete, &keys[..1]),
            "DELETE FROM orders WHERE (id) IN ((2000000005))"
        );
        assert_eq!(Table::Customers.id(&keys[0]), "w2/\"ü\"-5");
    }
}
