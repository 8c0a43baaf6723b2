//! Row images: what is in them, what never is, and which of an update belong together.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::Event;
use dapper_lock::MemoryStore;
use dapper_testkit::Database;
use expect_test::expect;
use serde_json::Value;

use super::support::{Fixture, Replica, config, locks};

async fn fixture(sql: &str, images: &str, excluded: &[&str]) -> Fixture {
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

const VALUES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so "so"');
    CREATE TYPE pair AS (a numeric, "b c" timestamptz[]);
    CREATE DOMAIN code AS text CHECK (value <> '');
    CREATE TABLE v (
        id int PRIMARY KEY, i8 bigint, n numeric, f4 real, f8 double precision, t text, b bytea, ts timestamp, tz timestamptz,
        d date, tm time, tmz timetz, iv interval, u uuid, bo boolean, j json, jb jsonb, ia int[], ta text[], tza timestamptz[],
        e mood, p pair, c code, m money, r tstzrange, ip inet, bits bit(3), x xml, reg regclass, ch "char", nul int,
        doubled bigint GENERATED ALWAYS AS (i8 / 2 * 2) STORED);
    CREATE TABLE other (id int PRIMARY KEY)"#;

/// Of the session that writes; none of them may show.
const ODD_SETTINGS: &str = "
    SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German, DMY'; SET bytea_output = 'escape'; SET extra_float_digits = -5;
    SET IntervalStyle = 'iso_8601'; SET quote_all_identifiers = on; SET search_path = pg_catalog; SET xmlbinary = 'hex';
    SET lc_monetary = 'C.UTF-8'";

#[tokio::test]
async fn values_of_every_type_keep_every_digit_whatever_the_session_that_writes_has_set() {
    let mut fixture = fixture(VALUES, "old-and-new", &[]).await;
    fixture.execute(ODD_SETTINGS).await;
    fixture
        .execute(
            r#"INSERT INTO public.v VALUES (
                1, 9223372036854775807, 12345678901234567890123456789.0987654321000, 0.1, 0.1, E'q"\\ é\n\t\u0001', '\x00ff',
                '2026-01-02 03:04:05.000001', '2026-01-02 03:04:05.000001+00', '2026-01-02', '03:04:05.5', '03:04:05+02',
                '1 year 2 mons -3 days 04:05:06.7', '00000000-0000-0000-0000-00000000000a', true,
                E'{ "a" : [1.10, 1e400],\n "a" : "\\u0000 \\ud800" }', '{"b": 1.10, "n": 12345678901234567890.5}',
                '[0:1]={1,NULL}', '{"a,b",NULL,"NULL","{"}', '{"2026-01-02 00:00:00+00",infinity}',
                'so "so"', ROW(1.50, '{"2026-01-02 00:00:00+00"}'), 'x', '1.25', '[2026-01-02 00:00:00+00,infinity)',
                '10.0.0.1/8', B'101', '<a>&amp;</a>', 'public.other', 'x', NULL)"#,
        )
        .await;
    fixture
        .execute(
            "INSERT INTO public.v (id, n, f4, f8, ts, tz, d, iv) VALUES
                (2, 'NaN', 'NaN', '-Infinity', 'infinity', '-infinity', '0044-03-15 BC', '-1 month'),
                (3, -0.00, '-0', 1e300, '0001-01-01', '294276-12-31 23:59:59+00', '5874897-12-31', '0')",
        )
        .await;
    fixture.execute("UPDATE public.v SET nul = 1 WHERE id = 1").await;
    let events = fixture.events().await;
    expect![[r#"{"id":1,"i8":9223372036854775807,"n":12345678901234567890123456789.0987654321000,"f4":0.1,"f8":0.1,"t":"q\"\\ é\n\t\u0001","b":"\\x00ff","ts":"2026-01-02T03:04:05.000001","tz":"2026-01-02T03:04:05.000001+00:00","d":"2026-01-02","tm":"03:04:05.5","tmz":"03:04:05+02","iv":"1 year 2 mons -3 days +04:05:06.7","u":"00000000-0000-0000-0000-00000000000a","bo":true,"j":{"a":[1.10,1e400],"a":"\u0000 \ud800"},"jb":{"b":1.10,"n":12345678901234567890.5},"ia":[1,null],"ta":["a,b",null,"NULL","{"],"tza":["2026-01-02T00:00:00+00:00","infinity"],"e":"so \"so\"","p":{"a":1.50,"b c":["2026-01-02T00:00:00+00:00"]},"c":"x","m":"$1.25","r":"[\"2026-01-02 00:00:00+00\",infinity)","ip":"10.0.0.1/8","bits":"101","x":"<a>&amp;</a>","reg":"public.other","ch":"x","nul":null,"doubled":9223372036854775806}"#]]
    .assert_eq(events[0].new.as_ref().unwrap().get());
    // The same as what the table holds, read back by a session that has nothing set.
    let reader = fixture.database.connect().await.unwrap();
    reader.batch_execute("SET TimeZone = 'UTC'; SET search_path = pg_catalog").await.unwrap();
    for event in &events[1..3] {
        let sql = "SELECT row_to_json(v)::text FROM public.v WHERE id::text = $1";
        let row = reader.query_one(sql, &[&event.id]).await.unwrap();
        assert_eq!(event.new.as_ref().unwrap().get(), row.get::<_, &str>(0));
    }
    assert_eq!(events[3].old, events[0].new);
    // On one line whatever line breaks a value has, and back again from it.
    for event in &events {
        let json = event.to_json();
        assert!(!json.contains('\n'));
        assert_eq!(&serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}

#[tokio::test]
async fn generated_values_and_large_ones_that_did_not_change_are_in_the_image() {
    let mut fixture = fixture(
        "CREATE TABLE t (id int PRIMARY KEY, doc text, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
         ALTER TABLE t ALTER doc SET STORAGE EXTERNAL",
        "old-and-new",
        &[],
    )
    .await;
    let doc = "d".repeat(100_000);
    fixture.execute(&format!("INSERT INTO t (id, doc, v) VALUES (1, '{doc}', 1)")).await;
    fixture.execute("UPDATE t SET v = 2; DELETE FROM t").await;
    let image = |v: i32| format!(r#"{{"id":1,"doc":"{doc}","v":{v},"twice":{}}}"#, 2 * v);
    let events = fixture.events().await;
    let images = |event: &Event| {
        [&event.old, &event.new].map(|image| image.as_ref().map(|image| image.get().to_owned()))
    };
    assert_eq!(images(&events[0]), [None, Some(image(1))]);
    assert_eq!(images(&events[1]), [Some(image(1)), Some(image(2))]);
    assert_eq!(images(&events[2]), [Some(image(2)), None]);
}

/// Bytes of the largest payload, and how many change sets there are.
async fn payloads(fixture: &Fixture) -> (i64, i64) {
    let sql = "SELECT max(octet_length(payload))::int8, count(*) FROM dapper_orders_input.change_sets";
    let row = fixture.client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn change_sets_with_images_are_cut_by_bytes_and_a_large_row_stands_alone() {
    const MIB: i64 = 1024 * 1024;
    let mut fixture = fixture("CREATE TABLE t (id int PRIMARY KEY, doc text)", "old-and-new", &[]).await;
    // 40 MiB in rows of 20 kB, and in order.
    fixture.execute("INSERT INTO t SELECT n, repeat('x', 20000) FROM generate_series(1, 2000) n").await;
    let (largest, count) = payloads(&fixture).await;
    assert!(largest < MIB + 30_000 && (35..=45).contains(&count), "{largest} {count}");
    let ids: Vec<u32> = fixture.events().await.iter().map(|event| event.id.parse().unwrap()).collect();
    assert_eq!(ids, (1..=2000).collect::<Vec<_>>());
    // Few rows, each of them large, among small ones.
    fixture.execute("TRUNCATE dapper_orders_input.change_sets_0").await;
    fixture
        .execute(
            "INSERT INTO t SELECT n, repeat('x', CASE WHEN n % 2 = 0 THEN 3000000 ELSE 3 END)
               FROM generate_series(10001, 10005) n",
        )
        .await;
    assert_eq!(payloads(&fixture).await.1, 5);
    fixture.execute("UPDATE t SET doc = doc || 'y' WHERE id > 10000 AND id % 2 = 1").await;
    assert_eq!(payloads(&fixture).await.1, 6);
    let events = fixture.events().await;
    let lengths: Vec<usize> = events.iter().map(|event| event.new.as_ref().unwrap().get().len()).collect();
    assert_eq!(lengths, [24, 3_000_021, 24, 3_000_021, 24, 25, 25, 25]);
}

/// The server can't make a text of more than 1 GiB, and a replica should not have to take one of more than 64 MiB.
#[tokio::test]
async fn a_row_that_is_too_large_for_an_image_is_captured_without_one() {
    let mut fixture =
        fixture("CREATE TABLE t (id int PRIMARY KEY, doc bytea, a bool[], b bool[])", "old-and-new", &[])
            .await;
    let bytes = |id: i32, mb: i32| {
        format!("INSERT INTO t VALUES ({id}, convert_to(repeat('x', {mb} * 1000000), 'UTF8'))")
    };
    fixture.execute(&bytes(1, 5)).await;
    fixture.execute(&bytes(2, 40)).await;
    // Each element takes one byte, and six as JSON.
    fixture.execute("ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL").await;
    fixture
        .execute(
            "INSERT INTO t (id, a, b) SELECT 3, a, a FROM (SELECT array_fill(false, ARRAY[90000000]) AS a) f",
        )
        .await;
    fixture.execute("INSERT INTO t VALUES (4)").await;
    let seen: Vec<(String, Option<usize>)> = fixture
        .events()
        .await
        .iter()
        .map(|event| {
            (format!("{} {}", event.operation, event.id), event.new.as_ref().map(|image| image.get().len()))
        })
        .collect();
    let expected =
        [("create 1", Some(10_000_038)), ("create 2", None), ("create 3", None), ("create 4", Some(37))];
    assert_eq!(seen, expected.map(|(what, length)| (what.to_owned(), length)));
}

const RANDOM: &str = "
    CREATE TYPE pair AS (a numeric, b text);
    CREATE TABLE r (id int PRIMARY KEY, n numeric, f double precision, g real, i8 bigint, t text, b bytea, tz timestamptz,
                    iv interval, ta text[], jb jsonb, p pair, na numeric[], tr tstzrange)";

/// The image of each row says what a session with nothing set reads, and the row can be made again from it.
#[tokio::test]
async fn the_image_of_any_row_is_the_row() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut fixture = fixture(RANDOM, "new", &[]).await;
    for (round, settings) in ["", ODD_SETTINGS].into_iter().enumerate() {
        fixture.execute(settings).await;
        let rows = 150 * i32::try_from(round + 1).unwrap();
        let first = 1_000 * i32::try_from(round).unwrap();
        let mut column = |value: fn(&mut fastrand::Rng) -> String| -> Vec<Option<String>> {
            (0..rows).map(|_| (random.u8(..) > 25).then(|| value(&mut random))).collect()
        };
        let (numbers, floats, integers) = (column(number), column(float), column(|r| r.i64(..).to_string()));
        let (texts, times, jsons) =
            (column(text), column(time), column(|r| serde_json::to_string(&text(r)).unwrap()));
        let insert = format!(
            "INSERT INTO public.r
             SELECT {first} + v.id, v.n::numeric, v.f::float8, (v.f::float8 / 1e280)::real, v.i::int8, v.t, decode(md5(v.t), 'hex'),
                    v.tz::timestamptz, '1 s'::interval * (v.i::float8 / 1e6), ARRAY[v.t, NULL, v.j], v.j::jsonb,
                    ROW(v.n::numeric, v.t)::public.pair, ARRAY[v.n::numeric], tstzrange(v.tz::timestamptz, NULL)
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
                    WITH ORDINALITY v(n, f, i, t, tz, j, id)"
        );
        let insert = insert.as_str();
        // In one statement of many rows, and one row at a time.
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&numbers, &floats, &integers, &texts, &times, &jsons];
        fixture.client.execute(insert, &parameters).await.unwrap();
        for id in 0..20 {
            fixture
                .execute(&format!(
                    "UPDATE public.r SET i8 = COALESCE(i8, 0) / 2 WHERE id = {first} + {}",
                    id + 1
                ))
                .await;
        }
        let events = fixture.events().await;
        assert_eq!(events.len(), usize::try_from(rows).unwrap() + 20, "seed {seed}");
        let reader = fixture.database.connect().await.unwrap();
        reader.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
        let sql = "SELECT row_to_json(r)::text, jsonb_populate_record(NULL::r, $2::text::jsonb) IS NOT DISTINCT FROM r
                     FROM r WHERE id::text = $1";
        let mut last = std::collections::HashMap::new();
        for event in events {
            last.insert(event.id.clone(), event);
        }
        for event in last.values() {
            let image = event.new.as_ref().unwrap().get();
            let row = reader.query_one(sql, &[&event.id, &image]).await.unwrap();
            assert_eq!(image, row.get::<_, &str>(0), "seed {seed}");
            assert!(row.get::<_, bool>(1), "seed {seed}: {image}");
        }
    }
}

fn number(random: &mut fastrand::Rng) -> String {
    let digits = |random: &mut fastrand::Rng, up_to: usize| -> String {
        (0..random.usize(1..up_to)).map(|_| char::from(b'0' + random.u8(0..10))).collect()
    };
    match random.u8(0..12) {
        0 => "NaN".into(),
        _ => format!("{}{}.{}", if random.bool() { "-" } else { "" }, digits(random, 60), digits(random, 40)),
    }
}

fn float(random: &mut fastrand::Rng) -> String {
    match random.u8(0..10) {
        0 => "NaN".into(),
        1 => "-Infinity".into(),
        _ => loop {
            let float = f64::from_bits(random.u64(..));
            if float.is_finite() && float.abs() < 1e300 && float.abs() > 1e260 {
                break format!("{float:e}");
            }
        },
    }
}

fn text(random: &mut fastrand::Rng) -> String {
    let chars =
        ['a', '"', '\\', '\'', '\n', '\t', '\u{1}', '\u{7f}', 'é', '\u{2028}', '😀', '{', ',', ' ', '/', '%'];
    (0..random.usize(0..40)).map(|_| chars[random.usize(0..chars.len())]).collect()
}

fn time(random: &mut fastrand::Rng) -> String {
    match random.u8(0..10) {
        0 => "infinity".into(),
        1 => "-infinity".into(),
        // Understood whatever the DateStyle.
        _ => format!(
            "{:04}-01-02T03:04:{:02}.{:06}+05:30",
            random.u32(1..9999),
            random.u8(0..60),
            random.u32(0..1_000_000)
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_holds_a_bounded_number_of_bytes_of_unhandled_images() {
    const MIB: usize = 1024 * 1024;
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, doc text)").await.unwrap();
    let mut config = config("orders-input", database.url());
    config.options.insert("images".into(), "new".into());
    crate::install(&config).await.unwrap();
    client
        .batch_execute("INSERT INTO t SELECT n, repeat('x', 500000) FROM generate_series(1, 160) n")
        .await
        .unwrap();
    let mut replica = Replica::start(config, locks(&Arc::new(MemoryStore::new()))).await;
    let mut held = Vec::new();
    let mut bytes = 0;
    // The reader waits for what it has handed out, and nothing of that is handled.
    while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(3), replica.deliveries.recv()).await {
        for (event, acknowledgement) in delivery.unwrap().into_events() {
            bytes += event.new.as_ref().unwrap().get().len();
            held.push(acknowledgement);
        }
    }
    assert!(bytes >= 32 * MIB && bytes <= 34 * MIB, "{bytes}");
    let seen = held.len();
    held.into_iter().for_each(dapper_core::Acknowledgement::handled);
    assert_eq!(replica.handle_all(160 - seen).await.len(), 160 - seen);
    replica.stop().await;
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
