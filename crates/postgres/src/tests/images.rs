//! Row images: what is in them, what never is, and which of an update belong together.

use dapper_core::Event;
use expect_test::expect;
use serde_json::Value;

use super::support::{Fixture, config};

/// With row images, of tables in every schema.
pub(super) async fn fixture(sql: &str, images: &str, excluded: &[&str]) -> Fixture {
    let excluded: Value = excluded.iter().map(|&text| Value::from(text)).collect();
    Fixture::with(sql, |config| {
        config.options.insert("images".into(), images.into());
        config.options.insert("exclude_columns".into(), excluded);
        config.options.insert("tables".into(), Value::from(vec!["*.*"]));
    })
    .await
}

fn line(event: &Event) -> String {
    let image = |image: &Option<dapper_core::RawJson>| {
        image.as_ref().map_or("-".into(), |json| json.get().to_owned())
    };
    format!(
        "{} {} {:?} {} {}",
        event.location,
        event.operation,
        event.id,
        image(&event.old),
        image(&event.new)
    )
}

async fn lines(fixture: &mut Fixture) -> Vec<String> {
    fixture.events().await.iter().map(line).collect()
}

/// The same, sorted by operation and text: events of different keys have no order.
async fn sorted(fixture: &mut Fixture) -> String {
    let mut lines = lines(fixture).await;
    lines.sort();
    lines.join("\n")
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[tokio::test]
async fn new_is_the_row_as_it_was_left() {
    let mut fixture = fixture(T, "new", &[]).await;
    fixture.execute("INSERT INTO t VALUES (1, 'a'), (2, NULL)").await;
    fixture.execute("UPDATE t SET v = 'b' WHERE id = 2; DELETE FROM t WHERE id = 1").await;
    expect![[r#"
        t create "1" - {"id":1,"v":"a"}
        t create "2" - {"id":2,"v":null}
        t update "2" - {"id":2,"v":"b"}
        t delete "1" - -"#]]
    .assert_eq(&lines(&mut fixture).await.join("\n"));
}

#[tokio::test]
async fn old_and_new_are_paired_by_key() {
    let mut fixture = fixture(T, "old-and-new", &[]).await;
    fixture.execute("INSERT INTO t VALUES (1, 'a'), (3, 'c'), (5, 'e')").await;
    fixture.execute("UPDATE t SET v = v || '!' WHERE id = 1").await;
    lines(&mut fixture).await;
    // One after the other; then each takes the key of the next, which can only be done with deferrable keys.
    fixture.execute("UPDATE t SET id = 2 WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    expect![[r#"
        t delete "1" {"id":1,"v":"a!"} -
        t create "2" - {"id":2,"v":"a!"}
        t delete "2" {"id":2,"v":"a!"} -"#]]
    .assert_eq(&lines(&mut fixture).await.join("\n"));
    fixture.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE").await;
    fixture.execute("UPDATE t SET id = id + 2").await;
    expect![[r#"
        t create "7" - {"id":7,"v":"e"}
        t delete "3" {"id":3,"v":"c"} -
        t update "5" {"id":5,"v":"e"} {"id":5,"v":"c"}"#]]
    .assert_eq(&sorted(&mut fixture).await);
}

/// A column `id` without an index may hold a value twice.
#[tokio::test]
async fn rows_that_share_a_key_are_paired_in_their_order_and_each_has_its_event() {
    let mut fixture = fixture("CREATE TABLE t (id int, v int)", "old-and-new", &[]).await;
    fixture.execute("INSERT INTO t VALUES (1, 10), (1, 20), (2, 30)").await;
    lines(&mut fixture).await;
    fixture.execute("UPDATE t SET v = v + 1").await;
    let expected = expect![[r#"
        t update "1" {"id":1,"v":10} {"id":1,"v":11}
        t update "1" {"id":1,"v":20} {"id":1,"v":21}
        t update "2" {"id":2,"v":30} {"id":2,"v":31}"#]];
    expected.assert_eq(&lines(&mut fixture).await.join("\n"));
    // One of two becomes another's: the first with the key before goes with the first with it after.
    fixture.execute("UPDATE t SET id = 3 - id WHERE v <> 21").await;
    expect![[r#"
        t update "1" {"id":1,"v":11} {"id":1,"v":31}
        t update "2" {"id":2,"v":31} {"id":2,"v":11}"#]]
    .assert_eq(&sorted(&mut fixture).await);
    fixture.execute("UPDATE t SET id = 7").await;
    let lines = lines(&mut fixture).await;
    let of = |operation: &str| lines.iter().filter(|line| line.contains(operation)).count();
    assert_eq!((of("delete"), of("create"), lines.len()), (3, 3, 6), "{lines:?}");
}

const PARTITIONED: &str = "
    CREATE TABLE p (n int, v text) PARTITION BY LIST (n);
    CREATE TABLE p_even PARTITION OF p FOR VALUES IN (0, 2, 4);
    CREATE TABLE p_odd PARTITION OF p FOR VALUES IN (1, 3, 5)";

/// Nothing but the place tells which rows belong together; each row has its own, never changing tag.
#[tokio::test]
async fn without_a_key_old_and_new_are_paired_by_place() {
    let mut fixture = fixture(
        &format!(
            "{PARTITIONED}; CREATE TABLE bag (tag int, v int);
             CREATE TABLE up (tag int, u int UNIQUE, v int)"
        ),
        "old-and-new",
        &[],
    )
    .await;
    // Within the few that are collected at once, and beyond.
    for count in [5, 16, 17, 2_500] {
        fixture
            .execute(&format!(
                "TRUNCATE bag, p, up; INSERT INTO bag SELECT n, n FROM generate_series(1, {count}) n ORDER BY random();
                 INSERT INTO p SELECT n % 6, n::text FROM generate_series(1, {count}) n ORDER BY random();
                 INSERT INTO up SELECT n, n, n FROM generate_series(1, {count}) n WHERE n % 3 <> 0 ORDER BY random()"
            ))
            .await;
        lines(&mut fixture).await;
        fixture.execute("UPDATE bag SET v = -v").await;
        assert_pairs(&fixture.events().await, "tag", count);
        // Two of three move to the other partition.
        fixture.execute("UPDATE p SET n = (n + v::int % 3) % 6").await;
        assert_pairs(&fixture.events().await, "v", count);
        // Some are there and are updated, some are not.
        fixture
            .execute(&format!(
                "INSERT INTO up SELECT n, n, n FROM generate_series(1, {count}) n ORDER BY random()
                     ON CONFLICT (u) DO UPDATE SET v = -1"
            ))
            .await;
        let events = fixture.events().await;
        let updated: Vec<Event> =
            events.iter().filter(|event| event.operation.as_str() == "update").cloned().collect();
        assert_pairs(&updated, "tag", count - count / 3);
        assert_eq!(events.len(), count);
    }
}

fn assert_pairs(events: &[Event], tag: &str, count: usize) {
    let of = |image: &Option<dapper_core::RawJson>| {
        serde_json::from_str::<Value>(image.as_ref().expect("an image").get()).unwrap()[tag].clone()
    };
    for event in events {
        assert_eq!(of(&event.old), of(&event.new), "{}", event.to_json());
    }
    assert_eq!(events.len(), count);
}

/// A trigger may drop a row on its way to another partition.
#[tokio::test]
async fn rows_that_vanish_between_partitions_are_deleted() {
    for (images, key) in
        [("key", ", PRIMARY KEY (n, v)"), ("old-and-new", ", PRIMARY KEY (n, v)"), ("old-and-new", "")]
    {
        let sql = PARTITIONED.replace("v text)", &format!("v text{key})"));
        let mut fixture = fixture(
            &format!(
                "{sql}; CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS
                     'BEGIN IF new.v = ''gone'' THEN RETURN NULL; END IF; RETURN new; END';
                 CREATE TRIGGER vanish BEFORE INSERT ON p_odd FOR EACH ROW EXECUTE FUNCTION vanish()"
            ),
            images,
            &[],
        )
        .await;
        fixture.execute("INSERT INTO p VALUES (0, 'gone'), (2, 'gone'), (4, 'x')").await;
        lines(&mut fixture).await;
        let count = async |fixture: &mut Fixture| {
            let events = fixture.events().await;
            let of =
                |operation: &str| events.iter().filter(|event| event.operation.as_str() == operation).count();
            (of("delete"), of("create"), of("update"))
        };
        fixture.execute("UPDATE p SET n = 1 WHERE n = 0").await;
        assert_eq!(count(&mut fixture).await, (1, 0, 0), "{images} {key}");
        fixture.execute("UPDATE p SET n = n + 1").await;
        assert_eq!(count(&mut fixture).await, (2, 1, 0), "{images} {key}");
    }
}

const CANARY: &str = "canary-5d1c";

/// Everything in our schema, as text.
async fn everything_of_ours(fixture: &Fixture) -> String {
    let sql = "SELECT COALESCE(string_agg(c::text, ' '), '') FROM dapper_orders_input.change_sets c";
    fixture.client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The rows of the one event, with the canary somewhere in what is left out.
async fn without_canary(fixture: &mut Fixture, statement: &str) -> String {
    fixture.execute(statement).await;
    let ours = everything_of_ours(fixture).await;
    assert!(!ours.contains(CANARY), "{statement}: {ours}");
    sorted(fixture).await
}

#[tokio::test]
async fn what_is_excluded_never_leaves_the_table() {
    let mut fixture = fixture(
        "CREATE TABLE users (id int PRIMARY KEY, name text, password text, \"Secret \"\"key\"\"\" text);
         CREATE TABLE p (id int, secret text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF p FOR VALUES FROM (0) TO (1000000);
         CREATE TABLE kid (extra int) INHERITS (users);
         CREATE TABLE all_of_it (secret text PRIMARY KEY)",
        "old-and-new",
        &["public.users.password", "*.Secret *", "*.*.secret", "all_*.*"],
    )
    .await;
    let write = format!("INSERT INTO users VALUES (1, 'a', '{CANARY}', '{CANARY}')");
    expect![[r#"users create "1" - {"id":1,"name":"a"}"#]]
        .assert_eq(&without_canary(&mut fixture, &write).await);
    let move_key = format!("UPDATE users SET id = 2, password = '{CANARY}2'");
    expect![[r#"
        users create "2" - {"id":2,"name":"a"}
        users delete "1" {"id":1,"name":"a"} -"#]]
    .assert_eq(&without_canary(&mut fixture, &move_key).await);
    // Many at once, through the parent and in the leaf, and what inherits a column that is left out.
    for (table, count) in [("p", 2_000), ("leaf", 3)] {
        let start = if table == "p" { 0 } else { 5_000 };
        let many =
            format!("INSERT INTO {table} SELECT {start} + n, '{CANARY}' FROM generate_series(1, {count}) n");
        assert_eq!(without_canary(&mut fixture, &many).await.lines().count(), count);
    }
    let kid = format!("INSERT INTO kid (id, name, password, extra) VALUES (3, 'k', '{CANARY}', 7)");
    expect![[r#"kid create "3" - {"id":3,"name":"k","extra":7}"#]]
        .assert_eq(&without_canary(&mut fixture, &kid).await);
    // A key is a key whatever is excluded.
    fixture.execute("INSERT INTO all_of_it VALUES ('known')").await;
    expect![[r#"all_of_it create "known" - {}"#]].assert_eq(&sorted(&mut fixture).await);
}

/// The statement that asks the catalog leaves the same columns out, by the names they have then.
#[tokio::test]
async fn what_is_excluded_does_not_leak_while_a_table_changes() {
    let mut fixture = fixture(
        "CREATE TABLE users (id int PRIMARY KEY, name text, password text)",
        "old-and-new",
        &["public.*.pass*", "*.secret"],
    )
    .await;
    let insert = |columns: &str, values: &str| format!("INSERT INTO users ({columns}) VALUES ({values})");
    // A new column, before it is known: not in the image yet, whether it is to be left out or not.
    fixture.execute("ALTER TABLE users ADD secret text, ADD plain text").await;
    let write = insert("id, password, secret, plain", &format!("1, '{CANARY}', '{CANARY}', 'p'"));
    expect![[r#"users create "1" - {"id":1,"name":null}"#]]
        .assert_eq(&without_canary(&mut fixture, &write).await);
    fixture.reconcile().await;
    let write = insert("id, secret, plain", &format!("2, '{CANARY}', 'p'"));
    expect![[r#"users create "2" - {"id":2,"name":null,"plain":"p"}"#]]
        .assert_eq(&without_canary(&mut fixture, &write).await);
    // A column in the image is renamed or goes: the function's statement fails, and the catalog is asked.
    fixture.execute("ALTER TABLE users RENAME name TO title; ALTER TABLE users RENAME id TO number").await;
    let write = insert("number, title, password, secret", &format!("3, 't', '{CANARY}', '{CANARY}'"));
    expect![[r#"users create "3" - {"number":3,"title":"t","plain":null}"#]]
        .assert_eq(&without_canary(&mut fixture, &write).await);
    fixture.execute("ALTER TABLE users DROP title, ALTER number TYPE text").await;
    let write = insert("number, secret", &format!("'4', '{CANARY}'"));
    expect![[r#"users create "4" - {"number":"4","plain":null}"#]]
        .assert_eq(&without_canary(&mut fixture, &write).await);
    // The name is what counts, the new one as soon as the function was made anew; until then the column is not known.
    fixture.reconcile().await;
    fixture
        .execute("ALTER TABLE users RENAME secret TO open; ALTER TABLE users RENAME plain TO secret")
        .await;
    let write = insert("number, secret", &format!("'5', '{CANARY}'"));
    expect![[r#"users create "5" - {"number":"5","open":null}"#]]
        .assert_eq(&without_canary(&mut fixture, &write).await);
}

#[tokio::test]
async fn what_is_excluded_does_not_leak_from_a_table_that_is_just_made() {
    let mut fixture = fixture(
        "CREATE SCHEMA audit; CREATE TABLE parent (id int, pin text) PARTITION BY LIST (id)",
        "new",
        &["users.password", "audit.*.*_ip", "parent.pin"],
    )
    .await;
    let made = format!(
        "BEGIN;
         CREATE TABLE users (id int PRIMARY KEY, at timestamptz, password text);
         CREATE TABLE audit.log (id int PRIMARY KEY, client_ip text, clientXip text);
         CREATE TABLE leaf PARTITION OF parent DEFAULT;
         CREATE TABLE other (id int PRIMARY KEY, password text);
         SET TimeZone = 'Asia/Tokyo';
         INSERT INTO users VALUES (1, '2026-01-01 00:00:00+00', '{CANARY}');
         INSERT INTO audit.log VALUES (2, '{CANARY}', 'x');
         INSERT INTO leaf VALUES (3, '{CANARY}'); INSERT INTO parent VALUES (4, '{CANARY}');
         INSERT INTO other VALUES (5, 'kept');
         COMMIT; RESET TimeZone"
    );
    let expected = expect![[r#"
        audit.log create "2" - {"id":2,"clientxip":"x"}
        other create "5" - {"id":5,"password":"kept"}
        parent create "3" - {"id":3}
        parent create "4" - {"id":4}
        users create "1" - {"id":1,"at":"2026-01-01T00:00:00+00:00"}"#]];
    expected.assert_eq(&without_canary(&mut fixture, &made).await);
    // After the comparison the same.
    fixture.reconcile().await;
    let again = format!(
        "DELETE FROM leaf; INSERT INTO leaf VALUES (3, '{CANARY}'); DELETE FROM users;
         INSERT INTO users VALUES (1, '2026-01-01 00:00:00+00', '{CANARY}')"
    );
    assert!(without_canary(&mut fixture, &again).await.contains(r#"users create "1" - {"id":1,"at""#));
}

#[tokio::test]
async fn without_exclusions_an_image_has_the_columns_that_the_table_has_at_the_moment() {
    let mut fixture = fixture(T, "old-and-new", &[]).await;
    fixture.execute("INSERT INTO t VALUES (1, 'a')").await;
    fixture.execute("ALTER TABLE t ADD w int DEFAULT 5, DROP v").await;
    fixture.execute("INSERT INTO t VALUES (2)").await;
    fixture.execute("ALTER TABLE t RENAME w TO x; ALTER TABLE t ALTER x TYPE text").await;
    fixture.execute("UPDATE t SET x = x || '!'").await;
    fixture.execute("ALTER TABLE t DROP id; DELETE FROM t").await;
    let lines = lines(&mut fixture).await.join("\n");
    expect![[r#"
        t create "1" - {"id":1,"v":"a"}
        t create "2" - {"id":2,"w":5}
        t update "1" {"id":1,"x":"5"} {"id":1,"x":"5!"}
        t update "2" {"id":2,"x":"5"} {"id":2,"x":"5!"}
        t delete "" {"x":"5!"} -
        t delete "" {"x":"5!"} -"#]]
    .assert_eq(&lines);
}

#[tokio::test]
async fn names_of_every_kind() {
    let ugly = [
        "r",
        "x",
        "n",
        "o",
        "k",
        "i",
        "position",
        "state",
        "ids",
        "body",
        "changed",
        "new_rows",
        "old_rows",
        "row to json",
        "\"quo\"\"ted\"",
        "it's",
        "back\\slash",
        "%s %1$I",
        "{key}",
        "{image}",
        "tab\there",
        "line\nbreak",
        "ünï→☃",
        "select",
        "$1",
        "a.b",
    ];
    let long = "n".repeat(63);
    let columns: Vec<String> =
        ugly.iter().chain([&long.as_str()]).map(|&name| crate::names::quote_identifier(name)).collect();
    let sql = format!(
        "CREATE TABLE \"ta'b\\l\"\"e\" (\"id\"\"\" int PRIMARY KEY, {} int);
         CREATE TABLE bag ({} int)",
        columns.join(" int DEFAULT 1, "),
        columns.join(" int DEFAULT 1, "),
    );
    for excluded in [&[][..], &["absent.*", "*.*.never_there"]] {
        let mut fixture = fixture(&sql, "old-and-new", excluded).await;
        for table in ["\"ta'b\\l\"\"e\"", "bag"] {
            let insert = if table == "bag" { "\"r\"".to_owned() } else { "\"id\"\"\"".to_owned() };
            // Few, and so many that the catalog's statement takes over.
            for count in [1, 40] {
                fixture
                    .execute(&format!(
                        "INSERT INTO {table} ({insert}) SELECT n FROM generate_series(1, {count}) n;
                         UPDATE {table} SET \"x\" = 2; DELETE FROM {table}"
                    ))
                    .await;
                let events = fixture.events().await;
                assert_eq!(events.len(), 3 * count, "{table}");
                for event in events {
                    for image in [&event.old, &event.new].into_iter().flatten() {
                        let image: serde_json::Map<String, Value> =
                            serde_json::from_str(image.get()).unwrap();
                        assert!(
                            ugly.iter().chain([&long.as_str()]).all(|&name| image.contains_key(name)),
                            "{image:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Up to 16 rows the function collects by itself, more it leaves to the catalog's statement.
#[tokio::test]
async fn few_rows_and_many_come_out_alike() {
    let tables = [
        "CREATE TABLE t (a int, b text, v int, PRIMARY KEY (b, a))",
        "CREATE TABLE t (a timestamptz PRIMARY KEY, b text, v int)",
        "CREATE TABLE t (a int, b text, v int)",
    ];
    for (table, images) in tables.into_iter().flat_map(|table| [(table, "new"), (table, "old-and-new")]) {
        let mut fixture = fixture(table, images, &["t.c*"]).await;
        let a = if table.contains("timestamptz") { "to_timestamp(n)" } else { "n" };
        let mut seen = Vec::new();
        for count in [16, 17] {
            fixture
                .execute(&format!(
                    "INSERT INTO t SELECT {a}, 'b', n FROM generate_series(1, {count}) n; UPDATE t SET v = -v; DELETE FROM t"
                ))
                .await;
            let lines = lines(&mut fixture).await;
            assert_eq!(lines.len(), 3 * count, "{table}");
            // Those of the rows that are there both times.
            seen.push(lines.chunks(count).flat_map(|lines| lines[..16].to_vec()).collect::<Vec<_>>());
        }
        assert_eq!(seen[0], seen[1], "{table}, {images}");
        assert!(fixture.reconcile().await.changed.is_empty(), "the function is made anew each time");
    }
}

/// A pattern that is misspelled lets out what it should keep in.
#[tokio::test]
async fn the_doctor_names_patterns_that_leave_nothing_out() {
    let fixture = fixture(
        "CREATE TABLE users (id int, password text)",
        "new",
        &["users.pasword", "Users.password", "users.*word", "public.users.id", "secret"],
    )
    .await;
    let mut config = config("orders-input", fixture.database.url());
    config.options.insert("images".into(), "new".into());
    config.options.insert(
        "exclude_columns".into(),
        Value::from(vec!["users.pasword", "Users.password", "users.*word", "public.users.id", "secret"]),
    );
    let findings = crate::diagnose(&config).await.unwrap();
    let named: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.topic == "columns")
        .filter_map(|finding| finding.message.split(' ').nth(1))
        .collect();
    assert_eq!(named, ["*.users.pasword", "*.Users.password", "*.*.secret"]);
}
