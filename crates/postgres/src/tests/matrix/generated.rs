//! Tables and statements made up from a seed, checked as the matrix is.
//!
//! `DAPPER_TEST_CASES` says how many, `DAPPER_TEST_SEED` which is the first; a case that fails is told with its seed, after
//! all messages that it fails without were left out.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;

use super::made_up::{Parts, TABLES, Table, Writer, pick, quote};
use super::stage::{Stage, Step, server};

const ORDINARY_CASES: u64 = 200;
/// Catalogs that nobody vacuums slow down; then there are new databases.
const CASES_PER_STAGE: u64 = 250;
/// How often a case that fails is tried with fewer messages.
const SHRINKS: u32 = 200;

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
    stage.reopen().await;
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
                stage.reopen().await;
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
