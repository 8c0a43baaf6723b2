//! Tables made up at random, and statements for them.

use std::fmt::Write as _;

use fastrand::Rng;

use super::stage::Step;

/// The keys that rows may have, few enough to meet each other.
pub(super) const KEYS: u32 = 12;

/// The types of key columns, and the value of row `{n}`.
const TYPES: [(&str, &str); 9] = [
    ("int", "({n})"),
    ("bigint", "(9007199254740990 + ({n}))"),
    ("text", r#"concat(E'q"\\', ({n}), E'\n\u00e9')"#),
    ("uuid", "lpad(({n})::text, 32, '0')::uuid"),
    ("numeric", "(({n}) * 1.10)"),
    ("timestamptz", "(timestamptz '2026-10-25 00:30:00+00' + make_interval(mins => ({n}) * 15))"),
    ("bytea", "(decode('00ff', 'hex') || convert_to(({n})::text, 'UTF8'))"),
    ("int[]", "ARRAY[({n}), NULL]"),
    ("float8", "(({n}) + 0.1)::float8"),
];
pub(super) const TABLES: [&str; 8] =
    ["t", "tbl", "Ünï 語", "select", "with space", "we\"ird", "back\\slash's", "old_rows"];
const COLUMNS: [&str; 8] = ["id", "op", "Kéy", "ids", "a b", "order", "q\"uote", "state"];

/// How the rows of a table are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Primary,
    Deferrable,
    Unique,
    Replica,
    Id,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    None,
    /// By hash of the key, the second partition split again.
    Hash,
    /// By range of `v`, so that rows move while their keys stay.
    Range,
    /// A child that inherits.
    Inherited,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    key: Key,
    pub(super) parts: Parts,
    /// Column, type, value.
    columns: Vec<(String, &'static str, &'static str)>,
}

pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    pub(super) fn make(rng: &mut Rng, name: &str) -> Self {
        let key = *pick(
            rng,
            &[
                Key::Primary,
                Key::Primary,
                Key::Primary,
                Key::Deferrable,
                Key::Unique,
                Key::Replica,
                Key::Id,
                Key::None,
            ],
        );
        let parts = match key {
            Key::Replica | Key::Deferrable => Parts::None,
            Key::Id | Key::None => *pick(rng, &[Parts::None, Parts::Range, Parts::Inherited]),
            Key::Primary | Key::Unique => {
                *pick(rng, &[Parts::None, Parts::None, Parts::Hash, Parts::Inherited])
            }
        };
        let mut names: Vec<&str> = COLUMNS.to_vec();
        rng.shuffle(&mut names);
        names.retain(|name| *name != "id" || key != Key::None);
        let count = if key == Key::Id { 1 } else { rng.usize(1..=3) };
        if key == Key::Id {
            names = vec!["id"];
        }
        let columns = names
            .into_iter()
            .take(count)
            .map(|name| {
                let (kind, value) = *pick(rng, &TYPES);
                (name.to_owned(), kind, value)
            })
            .collect();
        Self { name: name.to_owned(), key, parts, columns }
    }

    pub(super) fn key(&self) -> Vec<String> {
        if self.key == Key::None {
            Vec::new()
        } else {
            self.columns.iter().map(|(name, ..)| name.clone()).collect()
        }
    }

    pub(super) fn is_unique(&self) -> bool {
        !matches!(self.key, Key::Id | Key::None)
    }

    pub(super) fn create(&self, schema: &str) -> String {
        let table = format!("{schema}.{}", quote(&self.name));
        let part = |suffix: &str| format!("{schema}.{}", quote(&format!("{}{suffix}", self.name)));
        let not_null = if self.is_unique() { " NOT NULL" } else { "" };
        let mut columns: Vec<String> =
            self.columns.iter().map(|(name, kind, _)| format!("{} {kind}{not_null}", quote(name))).collect();
        columns.extend(["v int".to_owned(), "r int".to_owned()]);
        let key = self.columns.iter().map(|(name, ..)| quote(name)).collect::<Vec<_>>().join(", ");
        let constraint = match self.key {
            Key::Primary => format!(", PRIMARY KEY ({key})"),
            Key::Deferrable => format!(", PRIMARY KEY ({key}) DEFERRABLE INITIALLY DEFERRED"),
            Key::Unique | Key::Replica => format!(", UNIQUE ({key})"),
            Key::Id | Key::None => String::new(),
        };
        let all = columns.join(", ");
        columns.reverse();
        let reversed = columns.join(", ");
        let mut sql = format!("CREATE TABLE {table} ({all}{constraint})");
        match self.parts {
            Parts::None => {}
            Parts::Hash => {
                let first = quote(&self.columns[0].0);
                let _ = write!(
                    sql,
                    " PARTITION BY HASH ({first}); CREATE TABLE {} ({reversed});
                     ALTER TABLE {table} ATTACH PARTITION {} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                     CREATE TABLE {} PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH ({first});
                     CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                    part("_a"), part("_a"), part("_b"), part("_c"), part("_b")
                );
            }
            Parts::Range => {
                let _ = write!(
                    sql,
                    " PARTITION BY RANGE (v); CREATE TABLE {} PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO (50);
                     CREATE TABLE {} PARTITION OF {table} DEFAULT",
                    part("_a"), part("_b")
                );
            }
            Parts::Inherited => {
                let _ = write!(sql, "; CREATE TABLE {} (w int{constraint}) INHERITS ({table})", part("_a"));
            }
        }
        if self.key == Key::Replica {
            let index = quote(&format!("{}_i", self.name));
            let _ = write!(
                sql,
                "; CREATE UNIQUE INDEX {index} ON {table} ({key}); ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index}"
            );
        }
        sql
    }
}

pub(super) fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

/// Writes statements for one table.
pub(super) struct Writer<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) schema: &'a str,
    pub(super) table: &'a Table,
    pub(super) next_row: &'a mut u32,
}

impl Writer<'_> {
    /// The table or one of its parts, and what tells the oracle that a parent was named.
    fn target(&mut self) -> (String, String) {
        let parts: &[&str] = match self.table.parts {
            Parts::None => &[""],
            Parts::Hash => &["", "", "", "_a", "_b", "_c"],
            Parts::Range => &["", "", "_a", "_b"],
            Parts::Inherited => &["", "_a"],
        };
        let part = *pick(self.rng, parts);
        let name = format!("{}.{}", self.schema, quote(&format!("{}{part}", self.table.name)));
        let note = if self.table.parts == Parts::Inherited && part.is_empty() {
            format!(" -- as {}.{}\n", self.schema, self.table.name)
        } else {
            String::new()
        };
        (name, note)
    }

    fn columns(&self) -> String {
        let own: String = self.table.columns.iter().map(|(name, ..)| format!("{}, ", quote(name))).collect();
        format!("({own}v, r)")
    }

    fn values(&self, n: &str, row: &str) -> String {
        let own: String =
            self.table.columns.iter().map(|(.., value)| format!("{}, ", value.replace("{n}", n))).collect();
        format!("{own}(({n}) * 37) % 100, {row}")
    }

    fn key_of(&self, n: &str) -> String {
        let each: Vec<String> = self
            .table
            .columns
            .iter()
            .map(|(name, _, value)| format!("{} = {}", quote(name), value.replace("{n}", n)))
            .collect();
        each.join(", ")
    }

    fn rows(&mut self) -> String {
        let count = *pick(self.rng, &[1, 1, 2, 4]);
        let rows: Vec<String> = (0..count)
            .map(|_| {
                *self.next_row += 1;
                let (n, row) = (self.rng.u32(..KEYS).to_string(), self.next_row.to_string());
                format!("({})", self.values(&n, &row))
            })
            .collect();
        rows.join(", ")
    }

    fn condition(&mut self) -> String {
        let row = self.rng.u32(..=*self.next_row);
        match self.rng.u32(..6) {
            0 => "true".to_owned(),
            1 => format!("r = {row}"),
            2 => format!("r >= {row}"),
            3 => format!("v < {}", self.rng.u32(..100)),
            4 => format!("r % 3 = {}", self.rng.u32(..3)),
            _ => format!("100 / (r - {row}) > -1000"),
        }
    }

    fn assignment(&mut self) -> String {
        let n = self.rng.u32(..KEYS);
        let key = match self.rng.u32(..4) {
            0 => self.key_of(&n.to_string()),
            1 => self.key_of(&format!("(r + {n}) % {KEYS}")),
            2 => self.key_of(&format!("CASE WHEN r % 2 = 0 THEN r % {KEYS} ELSE {n} END")),
            _ => format!("{0} = {0}", quote(&self.table.columns[0].0)),
        };
        match self.rng.u32(..4) {
            0 => key,
            1 => format!("{key}, v = {}", self.rng.u32(..100)),
            2 => format!("v = {}", self.rng.u32(..100)),
            _ => "v = 99 - v".to_owned(),
        }
    }

    pub(super) fn statement(&mut self) -> Step {
        let (table, note) = self.target();
        let columns = self.columns();
        let conflict = self.table.columns.iter().map(|(name, ..)| quote(name)).collect::<Vec<_>>().join(", ");
        let sql = match self.rng.u32(..40) {
            0..=9 => format!("INSERT INTO {table} {columns} VALUES {}", self.rows()),
            10..=12 => format!("INSERT INTO {table} {columns} VALUES {} ON CONFLICT DO NOTHING", self.rows()),
            13..=15 => {
                let (rows, set) = (
                    self.rows(),
                    self.assignment()
                        .replace("(r ", "(excluded.r ")
                        .replace(" r ", " excluded.r ")
                        .replace("99 - v", "99 - excluded.v")
                        .replace(&format!("= {conflict}"), &format!("= excluded.{conflict}")),
                );
                format!(
                    "INSERT INTO {table} {columns} VALUES {rows} ON CONFLICT ({conflict}) DO UPDATE SET {set}"
                )
            }
            16..=25 => {
                let (set, condition) = (self.assignment(), self.condition());
                format!("UPDATE {table} SET {set} WHERE {condition}")
            }
            26..=30 => format!("DELETE FROM {table} WHERE {}", self.condition()),
            31 | 32 => {
                *self.next_row += 1;
                let (row, set, n) =
                    (self.next_row.to_string(), self.assignment(), self.rng.u32(..KEYS).to_string());
                let values = self.values(&n, &row);
                let bound = self.rng.u32(..=*self.next_row);
                let set = set
                    .replace("(r ", "(t.r ")
                    .replace(" r ", " t.r ")
                    .replace("99 - v", "99 - t.v")
                    .replace(&format!("= {conflict}"), &format!("= t.{conflict}"));
                format!(
                    "MERGE INTO {table} t USING generate_series({bound}, {}) s(n) ON t.r = s.n WHEN MATCHED AND s.n % 3 = 0 THEN DELETE
                     WHEN MATCHED THEN UPDATE SET {set} WHEN NOT MATCHED AND s.n % 2 = 0 THEN INSERT {columns} VALUES ({values})",
                    bound + 3
                )
            }
            33 | 34 => {
                let condition = self.condition();
                *self.next_row += 1;
                let row = self.next_row.to_string();
                let n = self.rng.u32(..KEYS).to_string();
                format!(
                    "WITH gone AS (DELETE FROM {table} WHERE {condition} RETURNING r) INSERT INTO {table} {columns} SELECT {} FROM (SELECT count(*) AS c FROM gone) g WHERE c > 0",
                    self.values(&n, &row)
                )
            }
            35 => format!("TRUNCATE {table}"),
            36 => {
                *self.next_row += 3;
                let row = *self.next_row;
                return Step::Copy(
                    format!(
                        "COPY (SELECT {} FROM generate_series({}, {row}) s(n)) TO STDOUT",
                        self.values(&format!("n % {KEYS}"), "n"),
                        row - 2
                    ),
                    format!("COPY {table} {columns} FROM STDIN"),
                );
            }
            37 if self.rng.u32(..5) == 0 => {
                let (first, last) = (*self.next_row + 1, *self.next_row + self.rng.u32(990..1_010));
                *self.next_row = last;
                format!(
                    "INSERT INTO {table} {columns} SELECT {} FROM generate_series({first}, {last}) s(n)",
                    self.values("n + 100", "n")
                )
            }
            38 => format!(
                "INSERT INTO {table} {columns} SELECT {} FROM generate_series(1, 0) s(n)",
                self.values("n", "n")
            ),
            _ => format!("UPDATE {table} SET v = v"),
        };
        Step::Sql(format!("{sql}{note}"))
    }
}
