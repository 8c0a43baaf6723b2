//! Tables and statements made up from a seed, checked as the matrix is.
//!
//! `DAPPER_TEST_CASES` says how many, `DAPPER_TEST_SEED` which is the first; a case that fails is told with its seed, after
//! all messages that it fails without were left out.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;

use super::stage::{Stage, Step, server};

const ORDINARY_CASES: u64 = 200;
/// Catalogs that nobody vacuums slow down; then there are new databases.
const CASES_PER_STAGE: u64 = 250;
/// How often a case that fails is tried with fewer messages.
const SHRINKS: u32 = 200;
/// The keys that rows may have, few enough to meet each other.
const KEYS: u32 = 12;

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
const TABLES: [&str; 8] =
    ["t", "tbl", "Ünï 語", "select", "with space", "we\"ird", "back\\slash's", "old_rows"];
const COLUMNS: [&str; 8] = ["id", "op", "Kéy", "ids", "a b", "order", "q\"uote", "state"];

/// How the rows of a table are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Primary,
    Deferrable,
    Unique,
    Replica,
    Id,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    None,
    /// By hash of the key, the second partition split again.
    Hash,
    /// By range of `v`, so that rows move while their keys stay.
    Range,
    /// A child that inherits.
    Inherited,
}

#[derive(Debug)]
struct Table {
    name: String,
    key: Key,
    parts: Parts,
    /// Column, type, value.
    columns: Vec<(String, &'static str, &'static str)>,
}

/// One thing that a case does.
#[derive(Clone, Debug)]
enum Act {
    /// A session sends a message.
    Say(usize, Step),
    /// The schema is changed, and then compared.
    Change(String),
    Reconcile,
    Verify,
}

struct Case {
    create: String,
    /// Whether tables and triggers are compared before anything is written.
    reconcile: bool,
    /// Location, and key columns, of each table that rows are in.
    keys: Vec<(String, Vec<String>)>,
    unordered: Vec<String>,
    parents: Vec<(String, String)>,
    acts: Vec<Act>,
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    fn make(rng: &mut Rng, name: &str) -> Self {
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

    fn key(&self) -> Vec<String> {
        if self.key == Key::None {
            Vec::new()
        } else {
            self.columns.iter().map(|(name, ..)| name.clone()).collect()
        }
    }

    fn is_unique(&self) -> bool {
        !matches!(self.key, Key::Id | Key::None)
    }

    fn create(&self, schema: &str) -> String {
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

fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

/// Writes statements for one table.
struct Writer<'a> {
    rng: &'a mut Rng,
    schema: &'a str,
    table: &'a Table,
    next_row: &'a mut u32,
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

    fn statement(&mut self) -> Step {
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

impl Case {
    fn make(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let schema = format!("c{seed}");
        let mut names = TABLES.to_vec();
        rng.shuffle(&mut names);
        let tables: Vec<Table> =
            names[..rng.usize(1..=2)].iter().map(|name| Table::make(&mut rng, name)).collect();
        let creates: Vec<String> = tables.iter().map(|table| table.create(&schema)).collect();
        let mut case = Self {
            create: format!("CREATE SCHEMA {schema}; {}", creates.join("; ")),
            reconcile: false,
            keys: Vec::new(),
            unordered: Vec::new(),
            parents: Vec::new(),
            acts: Vec::new(),
        };
        for table in &tables {
            for suffix in ["", "_a", "_b", "_c"] {
                let location = format!("{schema}.{}{suffix}", table.name);
                case.keys.push((location.clone(), table.key()));
                if !table.is_unique() || table.parts == Parts::Inherited {
                    case.unordered.push(location.clone());
                }
                if suffix == "_a" && table.parts == Parts::Inherited {
                    case.parents.push((location, format!("{schema}.{}", table.name)));
                }
            }
        }
        // Half of the cases begin with what the event trigger made; but that leaves such names to the comparison, and
        // does not see that a table becomes a partition.
        case.reconcile = rng.bool()
            || tables
                .iter()
                .any(|table| table.name.contains(['"', '\\', '\'']) || table.parts == Parts::Hash);
        case.acts.push(Act::Say(
            1,
            "SET TimeZone = 'Asia/Kolkata'; SET bytea_output = 'escape'; SET extra_float_digits = -5".into(),
        ));
        let mut next_row = 0;
        let mut open = [false; 2];
        for _ in 0..rng.usize(8..30) {
            let act = case.act(&mut rng, &schema, &tables, &mut next_row, &mut open);
            case.acts.push(act);
        }
        case
    }

    fn act(
        &self,
        rng: &mut Rng,
        schema: &str,
        tables: &[Table],
        next_row: &mut u32,
        open: &mut [bool; 2],
    ) -> Act {
        let session = if rng.u32(..3) == 0 { 1 } else { 0 };
        let control = match rng.u32(..16) {
            0 | 1 if !open[session] => {
                open[session] = true;
                Some(*pick(
                    rng,
                    &[
                        "BEGIN",
                        "BEGIN",
                        "BEGIN ISOLATION LEVEL REPEATABLE READ",
                        "BEGIN ISOLATION LEVEL SERIALIZABLE",
                    ],
                ))
            }
            0..=2 if open[session] => {
                open[session] = false;
                Some(*pick(rng, &["COMMIT", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION '{database}'"]))
            }
            3 if open[session] => Some("SAVEPOINT s"),
            4 if open[session] => Some(*pick(rng, &["ROLLBACK TO s", "ROLLBACK TO s", "RELEASE s"])),
            5 if !open[session] => {
                Some(*pick(rng, &["COMMIT PREPARED '{database}'", "ROLLBACK PREPARED '{database}'"]))
            }
            6 => return Act::Verify,
            7 if !open[0] && !open[1] => return Act::Reconcile,
            8 if !open[0] && !open[1] && rng.u32(..3) == 0 => {
                let table = pick(rng, tables);
                let name = format!("{schema}.{}", quote(&table.name));
                let part = format!("{schema}.{}", quote(&format!("{}_a", table.name)));
                return Act::Change(match (table.parts, rng.u32(..3)) {
                    (Parts::Hash, 0) => format!("ALTER TABLE {name} DETACH PARTITION {part}"),
                    (Parts::Hash, 1) => format!(
                        "ALTER TABLE {name} ATTACH PARTITION {part} FOR VALUES WITH (MODULUS 2, REMAINDER 0)"
                    ),
                    (Parts::Range, 0) => format!("ALTER TABLE {name} DETACH PARTITION {part}"),
                    (Parts::Range, 1) => format!(
                        "ALTER TABLE {name} ATTACH PARTITION {part} FOR VALUES FROM (MINVALUE) TO (50)"
                    ),
                    _ => format!("ALTER TABLE {name} ADD COLUMN extra{} int DEFAULT 7", rng.u32(..1_000)),
                });
            }
            _ => None,
        };
        match control {
            Some(sql) => Act::Say(session, sql.into()),
            None => {
                let table = pick(rng, tables);
                Act::Say(session, Writer { rng, schema, table, next_row }.statement())
            }
        }
    }
}

/// Runs a case in a schema of its own.
async fn run(stage: &mut Stage, seed: u64, case: &Case, acts: &[Act]) -> Result<usize, String> {
    stage.execute(&case.create).await;
    stage.watch().await;
    if case.reconcile {
        stage.fixture.reconcile().await;
    }
    stage.keys.extend(case.keys.iter().cloned());
    stage.unordered.extend(case.unordered.iter().cloned());
    stage.parents.extend(case.parents.iter().cloned());
    let result = play(stage, seed, acts).await;
    for session in [0, 1] {
        let _ = stage.step(session, &"ROLLBACK".into()).await;
        let _ = stage.step(session, &"RESET ALL; SET lock_timeout = '30ms'".into()).await;
    }
    let _ = stage.step(0, &"ROLLBACK PREPARED '{database}'".into()).await;
    let verified = stage.verify(&format!("^c{seed}\\.")).await;
    stage.execute(&format!("DROP SCHEMA c{seed} CASCADE")).await;
    let count = result?;
    verified.map(|events| count + events.len())
}

async fn play(stage: &mut Stage, seed: u64, acts: &[Act]) -> Result<usize, String> {
    let mut events = 0;
    for act in acts {
        match act {
            Act::Say(session, step) => {
                let _ = stage.step(*session, step).await?;
            }
            Act::Change(sql) => {
                let _ = stage.step(0, &Step::Sql(sql.clone())).await?;
                let _ = stage.step(0, &"SELECT oracle.watch()".into()).await?;
                stage.fixture.reconcile().await;
            }
            Act::Reconcile => {
                stage.fixture.reconcile().await;
            }
            Act::Verify => events += stage.verify(&format!("^c{seed}\\.")).await?.len(),
        }
    }
    Ok(events)
}

/// Leaves out what a failure does not need, and tells the rest.
async fn shrink(seed: u64, operations: &str, case: &Case, first: String) -> String {
    let (mut acts, mut found) = (case.acts.clone(), first);
    let (mut size, mut tries) = (acts.len().div_ceil(2), 0);
    let mut stage = stage(operations).await;
    while size > 0 && tries < SHRINKS {
        let mut at = 0;
        while at < acts.len() && tries < SHRINKS {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + size).min(acts.len()));
            tries += 1;
            match run(&mut stage, seed, case, &fewer).await {
                Err(difference) => (acts, found) = (fewer, difference),
                Ok(_) => at += size,
            }
        }
        size /= 2;
    }
    let told: String = acts.iter().fold(String::new(), |mut told, act| {
        let _ = writeln!(told, "  {act:?}");
        told
    });
    format!(
        "seed {seed} (replay: DAPPER_TEST_SEED={seed} DAPPER_TEST_CASES=1)\n{}\n{told}{found}",
        case.create
    )
}

async fn stage(operations: &str) -> Stage {
    let mut stage = Stage::on(server().await, "", |config| {
        config.options.insert("tables".into(), serde_json::json!(["*.*"]));
        config.options.insert("exclude".into(), serde_json::json!(["oracle.*"]));
        config.operations = Some(serde_json::from_str(operations).unwrap());
    })
    .await;
    stage.open().await;
    stage
}

/// Which operations are asked for depends on the seed alone.
fn operations(seed: u64) -> &'static str {
    match seed / CASES_PER_STAGE % 4 {
        1 => r#"["create","update","delete"]"#,
        3 => r#"["update","truncate"]"#,
        _ => r#"["create","update","delete","truncate"]"#,
    }
}

/// What all workers did together.
#[derive(Default)]
struct Tally {
    next: AtomicU64,
    cases: AtomicU64,
    events: AtomicU64,
    carried_out: AtomicU64,
    refused: AtomicU64,
}

async fn worker(tally: Arc<Tally>, (first, last): (u64, u64), start: Instant) -> Result<(), String> {
    let mut current: Option<(u64, Stage)> = None;
    loop {
        let seed = first + tally.next.fetch_add(1, Ordering::Relaxed);
        if seed >= last {
            return Ok(());
        }
        let epoch = seed / CASES_PER_STAGE;
        let (_, stage) = match current.take() {
            Some((made, stage)) if made == epoch => current.insert((made, stage)),
            _ => current.insert((epoch, stage(operations(seed)).await)),
        };
        let case = Case::make(seed);
        match run(stage, seed, &case, &case.acts).await {
            Ok(count) => {
                tally.events.fetch_add(count as u64, Ordering::Relaxed);
                tally.carried_out.fetch_add(stage.outcomes.0.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                tally.refused.fetch_add(stage.outcomes.1.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
            Err(difference) => return Err(shrink(seed, operations(seed), &case, difference).await),
        }
        let done = tally.cases.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(500) {
            eprintln!("{done} of {} cases, {:.0} s", last - first, start.elapsed().as_secs_f64());
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_cases() {
    let first = number("DAPPER_TEST_SEED", 0);
    let last = first + number("DAPPER_TEST_CASES", ORDINARY_CASES);
    let (tally, start) = (Arc::<Tally>::default(), Instant::now());
    let workers: Vec<_> =
        (0..3).map(|_| tokio::spawn(worker(Arc::clone(&tally), (first, last), start))).collect();
    let mut wrong = Vec::new();
    for worker in workers {
        wrong.extend(worker.await.unwrap().err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let total = |count: &AtomicU64| count.load(Ordering::Relaxed);
    eprintln!(
        "{} cases from seed {first}: {} messages carried out, {} refused, {} events, {:.0} s",
        last - first,
        total(&tally.carried_out),
        total(&tally.refused),
        total(&tally.events),
        start.elapsed().as_secs_f64()
    );
    assert!(total(&tally.events) > 0, "nothing was captured");
}
