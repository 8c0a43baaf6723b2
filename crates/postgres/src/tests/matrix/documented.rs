//! The statements that `docs/capture.md` lists, run, and its tables compared with what came of them.
//!
//! `cargo xtask capture --document` writes the tables anew.

use std::path::PathBuf;

use super::stage::{Stage, Step, line, server};

const SCHEMA: &str = "
    CREATE TABLE orders (id int PRIMARY KEY DEFERRABLE, v text);
    CREATE TABLE items (id int PRIMARY KEY, v text);
    CREATE TABLE customers (id int PRIMARY KEY);
    CREATE TABLE invoices (id int PRIMARY KEY, customer int REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE notes (id int PRIMARY KEY, customer int REFERENCES customers ON DELETE SET NULL ON UPDATE SET NULL);
    CREATE TABLE places (shop int, shelf text, v int, PRIMARY KEY (shop, shelf));
    CREATE TABLE log (line text);
    CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000) PARTITION BY RANGE (id);
    CREATE TABLE parts_top PARTITION OF parts_high FOR VALUES FROM (100) TO (1000);
    CREATE TABLE readings (id int, day int, r int) PARTITION BY LIST (day);
    CREATE TABLE readings_1 PARTITION OF readings FOR VALUES IN (1);
    CREATE TABLE readings_2 PARTITION OF readings FOR VALUES IN (2);
    CREATE TABLE people (id int PRIMARY KEY, name text);
    CREATE TABLE staff (PRIMARY KEY (id)) INHERITS (people);
    CREATE VIEW big_items AS SELECT * FROM items WHERE id > 100;
    CREATE MATERIALIZED VIEW item_count AS SELECT count(*) FROM items;
    CREATE SCHEMA audit; CREATE TABLE audit.entries (id int PRIMARY KEY);
    CREATE TABLE touched (id int PRIMARY KEY, at int);
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE touched SET at = 1 WHERE id = NEW.id; RETURN NULL; END';
    CREATE TRIGGER zzz_touch AFTER INSERT ON touched FOR EACH ROW EXECUTE FUNCTION touch()";

/// Before each of them.
const ROWS: &str = "
    DELETE FROM orders; INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (3, 'c');
    DELETE FROM items; INSERT INTO items VALUES (1, 'a'), (2, 'b'), (3, 'c');
    DELETE FROM invoices; DELETE FROM notes; DELETE FROM customers; INSERT INTO customers VALUES (1), (2);
    INSERT INTO invoices VALUES (10, 1), (20, 2); INSERT INTO notes VALUES (10, 1), (20, 2);
    DELETE FROM places; INSERT INTO places VALUES (1, 'a', 0); DELETE FROM log; INSERT INTO log VALUES ('x');
    DELETE FROM parts; INSERT INTO parts VALUES (1, 'a'), (101, 'b');
    DELETE FROM readings; INSERT INTO readings VALUES (1, 1, 1), (2, 2, 2);
    DELETE FROM people; INSERT INTO people VALUES (1, 'a'); INSERT INTO staff VALUES (2, 'b');
    DELETE FROM audit.entries; DELETE FROM touched";

/// What is documented: a heading, the first major version that knows it, and the messages.
struct Example {
    chapter: &'static str,
    since: u32,
    messages: &'static [&'static str],
}

const fn example(chapter: &'static str, messages: &'static [&'static str]) -> Example {
    Example { chapter, since: 13, messages }
}

const STATEMENTS: &str = "statements";
const KEYS: &str = "keys";
const TRANSACTIONS: &str = "transactions";
const HIERARCHIES: &str = "partitions";
const OTHERS: &str = "others";

const EXAMPLES: &[Example] = &[
    example(STATEMENTS, &["INSERT INTO items VALUES (4, 'd')"]),
    example(STATEMENTS, &["INSERT INTO items VALUES (4, 'd'), (5, 'e')"]),
    example(STATEMENTS, &["COPY items FROM STDIN"]),
    example(
        STATEMENTS,
        &["INSERT INTO items VALUES (3, 'x'), (4, 'y') ON CONFLICT (id) DO UPDATE SET v = excluded.v"],
    ),
    example(STATEMENTS, &["INSERT INTO items VALUES (3, 'x') ON CONFLICT (id) DO UPDATE SET id = 7"]),
    example(STATEMENTS, &["INSERT INTO items VALUES (3, 'x'), (4, 'y') ON CONFLICT DO NOTHING"]),
    Example {
        chapter: STATEMENTS,
        since: 15,
        messages: &[
            "MERGE INTO items i USING generate_series(2, 4) n ON i.id = n WHEN MATCHED AND n = 2 THEN DELETE WHEN MATCHED THEN UPDATE SET v = 'x' WHEN NOT MATCHED THEN INSERT VALUES (n, 'y')",
        ],
    },
    example(STATEMENTS, &["UPDATE items SET v = 'x' WHERE id < 3"]),
    example(STATEMENTS, &["UPDATE items SET v = v WHERE id = 1"]),
    example(STATEMENTS, &["DELETE FROM items WHERE id < 3"]),
    example(
        STATEMENTS,
        &[
            "WITH gone AS (DELETE FROM items WHERE id = 3 RETURNING *), changed AS (UPDATE items SET v = 'x' WHERE id = 2) INSERT INTO places SELECT id, v FROM gone",
        ],
    ),
    example(STATEMENTS, &["UPDATE items SET v = 'x' WHERE id = 99"]),
    example(STATEMENTS, &["UPDATE items SET v = 1 / (id - 2)"]),
    example(STATEMENTS, &["DELETE FROM customers WHERE id = 1"]),
    example(STATEMENTS, &["UPDATE customers SET id = 9 WHERE id = 1"]),
    example(STATEMENTS, &["TRUNCATE items"]),
    example(STATEMENTS, &["TRUNCATE customers CASCADE"]),
    example(STATEMENTS, &["INSERT INTO big_items VALUES (200, 'x')"]),
    example(KEYS, &["UPDATE items SET id = 9 WHERE id = 1"]),
    example(KEYS, &["UPDATE orders SET id = id + 1"]),
    example(KEYS, &["UPDATE orders SET id = CASE id WHEN 1 THEN 2 ELSE 1 END WHERE id < 3"]),
    example(KEYS, &["INSERT INTO places VALUES (2, 'b', 0)"]),
    example(KEYS, &["UPDATE places SET shelf = 'z'"]),
    example(KEYS, &["INSERT INTO log VALUES ('y'), ('z')"]),
    example(KEYS, &["INSERT INTO readings VALUES (NULL, 1)"]),
    example(
        TRANSACTIONS,
        &[
            "BEGIN",
            "INSERT INTO items VALUES (4)",
            "UPDATE items SET v = 'x' WHERE id = 4",
            "DELETE FROM items WHERE id = 4",
            "COMMIT",
        ],
    ),
    example(
        TRANSACTIONS,
        &[
            "BEGIN",
            "INSERT INTO items VALUES (4)",
            "SAVEPOINT s",
            "INSERT INTO items VALUES (5)",
            "ROLLBACK TO s",
            "COMMIT",
        ],
    ),
    example(TRANSACTIONS, &["BEGIN", "INSERT INTO items VALUES (4)", "ROLLBACK"]),
    example(
        TRANSACTIONS,
        &[
            "BEGIN",
            "INSERT INTO items VALUES (4)",
            "PREPARE TRANSACTION '{database}'",
            "COMMIT PREPARED '{database}'",
        ],
    ),
    example(
        TRANSACTIONS,
        &[
            "BEGIN",
            "INSERT INTO items VALUES (4)",
            "PREPARE TRANSACTION '{database}'",
            "ROLLBACK PREPARED '{database}'",
        ],
    ),
    example(HIERARCHIES, &["INSERT INTO parts VALUES (2, 'x'), (102, 'y')"]),
    example(HIERARCHIES, &["INSERT INTO parts_top VALUES (102, 'y')"]),
    example(HIERARCHIES, &["UPDATE parts SET id = 150 WHERE id = 1"]),
    example(HIERARCHIES, &["UPDATE readings SET day = 2 WHERE id = 1"]),
    example(HIERARCHIES, &["TRUNCATE parts"]),
    example(HIERARCHIES, &["TRUNCATE parts_low"]),
    example(HIERARCHIES, &["INSERT INTO staff VALUES (3, 'c')"]),
    example(HIERARCHIES, &["UPDATE people SET name = 'x' -- as people\n"]),
    example(HIERARCHIES, &["UPDATE ONLY people SET name = 'x'"]),
    example(OTHERS, &["INSERT INTO audit.entries VALUES (1)"]),
    example(OTHERS, &["INSERT INTO touched VALUES (1)"]),
    example(OTHERS, &["CREATE TEMP TABLE items (id int)", "INSERT INTO items VALUES (7)", "DISCARD TEMP"]),
    example(OTHERS, &["REFRESH MATERIALIZED VIEW item_count"]),
    example(
        OTHERS,
        &[
            "SET session_replication_role = replica",
            "INSERT INTO items VALUES (4)",
            "RESET session_replication_role",
        ],
    ),
    example(OTHERS, &["CREATE TABLE copies AS SELECT * FROM items", "DROP TABLE copies"]),
];

pub(super) fn page() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/capture.md"))
}

/// Compares the part of the page that is called `name` with `text`, or writes it where that is asked for.
pub(super) fn compare_with_page(name: &str, text: &str) {
    let page_text = std::fs::read_to_string(page()).unwrap();
    let (begin, end) = (format!("<!-- BEGIN {name} -->\n"), format!("<!-- END {name} -->"));
    let from =
        page_text.find(&begin).unwrap_or_else(|| panic!("docs/capture.md has no {begin}")) + begin.len();
    let to = from + page_text[from..].find(&end).unwrap();
    if std::env::var("DAPPER_TEST_WRITE_DOCS").is_ok() {
        std::fs::write(page(), format!("{}{text}{}", &page_text[..from], &page_text[to..])).unwrap();
        return;
    }
    assert_eq!(&page_text[from..to], text, "docs/capture.md is not current: cargo xtask capture --help");
}

#[tokio::test]
async fn documented_events() {
    let mut stage = Stage::on(server().await, SCHEMA, |config| {
        config.options.insert("tables".into(), serde_json::json!(["public.*", "audit.*"]));
        config.operations = Some(serde_json::from_str(r#"["create","update","delete","truncate"]"#).unwrap());
    })
    .await;
    let keyed = [
        "orders",
        "items",
        "customers",
        "invoices",
        "notes",
        "parts",
        "readings",
        "people",
        "staff",
        "audit.entries",
        "touched",
        "copies",
    ];
    stage.keys.extend(keyed.map(|table| (table.to_owned(), vec!["id".to_owned()])));
    stage.keys.insert("places".to_owned(), vec!["shop".to_owned(), "shelf".to_owned()]);
    stage.parents.insert("staff".to_owned(), "people".to_owned());
    // Written to through their parent in ROWS.
    stage.unordered.extend(["people", "staff"].map(str::to_owned));
    let version: i32 = stage
        .fixture
        .client
        .query_one("SELECT current_setting('server_version_num')::int / 10000", &[])
        .await
        .unwrap()
        .get(0);
    for chapter in [STATEMENTS, KEYS, TRANSACTIONS, HIERARCHIES, OTHERS] {
        let mut rows = "| statement | events |\n| --- | --- |\n".to_owned();
        let mut complete = true;
        for example in EXAMPLES.iter().filter(|example| example.chapter == chapter) {
            if i64::from(version) < i64::from(example.since) {
                complete = false;
                continue;
            }
            let events = play(&mut stage, example).await;
            let told: Vec<String> = example
                .messages
                .iter()
                .map(|message| {
                    format!("`{}`", message.split(" -- as").next().unwrap().replace("{database}", "t"))
                })
                .collect();
            let events = if events.is_empty() { "none".to_owned() } else { events.join(", ") };
            rows.push_str(&format!("| {} | {events} |\n", told.join("; ")));
        }
        if complete {
            compare_with_page(chapter, &rows);
        }
    }
}

async fn play(stage: &mut Stage, example: &Example) -> Vec<String> {
    for row in ROWS.split(';') {
        let row = row.trim();
        let step = if row == "DELETE FROM people" { format!("{row} -- as people\n") } else { row.to_owned() };
        stage.step(0, &step.into()).await.unwrap().unwrap();
    }
    stage.verify("^(public|audit)").await.unwrap_or_else(|difference| panic!("before: {difference}"));
    for message in example.messages {
        let step = if message.starts_with("COPY") {
            Step::Copy(
                "COPY (SELECT n, 'x' FROM generate_series(4, 5) n) TO STDOUT".to_owned(),
                (*message).to_owned(),
            )
        } else {
            Step::Sql((*message).to_owned())
        };
        let _ = stage.step(0, &step).await.unwrap_or_else(|difference| panic!("{difference}"));
    }
    let events = stage
        .verify("^(public|audit)")
        .await
        .unwrap_or_else(|difference| panic!("{:?}: {difference}", example.messages));
    let mut lines: Vec<_> = events.iter().map(line).collect();
    // The events of one operation on one table have no order among themselves.
    for group in lines.chunk_by_mut(|a, b| (&a.location, &a.operation) == (&b.location, &b.operation)) {
        group.sort();
    }
    lines.iter().map(|line| format!("`{}`", line.to_string().trim_end())).collect()
}
