//! What becomes of the application's statements, and which events they make.

use expect_test::expect;

use super::support::Fixture;

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, v text)";

#[tokio::test]
async fn insert_update_and_delete_of_one_row() {
    let mut fixture = Fixture::new(ORDERS).await;
    fixture.execute("INSERT INTO orders VALUES (42, 'a')").await;
    fixture.execute("UPDATE orders SET v = 'b' WHERE id = 42").await;
    fixture.execute("DELETE FROM orders WHERE id = 42").await;
    let events = fixture.events().await;
    let mut seen: Vec<String> = Vec::new();
    for mut event in events {
        assert!(event.event_id.take().unwrap().ends_with("/0"));
        assert!(event.captured_at.take().unwrap().ends_with('Z'));
        seen.push(event.to_json());
    }
    expect![[r#"
        {"location":"orders","operation":"create","id":"42","trigger":"orders_input","attempt":1,"token":1,"key":{"id":42}}
        {"location":"orders","operation":"update","id":"42","trigger":"orders_input","attempt":1,"token":1,"key":{"id":42}}
        {"location":"orders","operation":"delete","id":"42","trigger":"orders_input","attempt":1,"token":1,"key":{"id":42}}"#]]
    .assert_eq(&seen.join("\n"));
}

#[tokio::test]
async fn statements_that_change_nothing_and_rollbacks_make_no_event() {
    let mut fixture = Fixture::new(ORDERS).await;
    fixture.execute("UPDATE orders SET v = 'x'; DELETE FROM orders").await;
    fixture.execute("BEGIN; INSERT INTO orders VALUES (1); ROLLBACK").await;
    fixture
        .execute("BEGIN; INSERT INTO orders VALUES (2); SAVEPOINT s; INSERT INTO orders VALUES (3); ROLLBACK TO s; COMMIT")
        .await;
    assert_eq!(fixture.lines().await, ["orders create 2"]);
}

#[tokio::test]
async fn large_statements_come_in_order_and_in_chunks() {
    let mut fixture = Fixture::new(ORDERS).await;
    fixture.execute("INSERT INTO orders SELECT n FROM generate_series(1, 2500) n").await;
    let sizes = "SELECT string_agg(changes::text, ' ' ORDER BY seq) FROM dapper_orders_input.change_sets";
    let row = fixture.client.query_one(sizes, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "1000 1000 500");
    let ids: Vec<u64> = fixture.events().await.iter().map(|event| event.id.parse().unwrap()).collect();
    assert_eq!(ids, (1..=2500).collect::<Vec<u64>>());
    fixture.execute("UPDATE orders SET v = 'x'").await;
    assert_eq!(fixture.lines().await.len(), 2500);
    fixture.execute("DELETE FROM orders").await;
    assert_eq!(fixture.lines().await.len(), 2500);
}

#[tokio::test]
async fn a_thousand_rows_are_one_change_set() {
    let mut fixture = Fixture::new(ORDERS).await;
    fixture.execute("INSERT INTO orders SELECT n FROM generate_series(1, 1000) n").await;
    assert_eq!(fixture.read().await.change_sets.len(), 1);
    assert_eq!(fixture.events().await.len(), 1000);
}

#[tokio::test]
async fn an_update_that_changes_keys_deletes_the_old_and_creates_the_new() {
    let mut fixture = Fixture::new(ORDERS).await;
    fixture.execute("INSERT INTO orders VALUES (1), (2), (3)").await;
    fixture.lines().await;
    fixture.execute("UPDATE orders SET id = id + 10 WHERE id <> 2").await;
    let mut lines = fixture.lines().await;
    // Of one statement, deletes come before creates; among themselves they have no order.
    lines[..2].sort();
    lines[2..].sort();
    assert_eq!(lines, ["orders delete 1", "orders delete 3", "orders create 11", "orders create 13"]);
    fixture.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id) DEFERRABLE").await;
    fixture.execute("UPDATE orders SET id = id + 2 WHERE id > 10").await;
    let mut lines = fixture.lines().await;
    lines.sort();
    assert_eq!(lines, ["orders create 15", "orders delete 11", "orders update 13"]);
}

#[tokio::test]
async fn keys_of_any_type() {
    let mut fixture = Fixture::new(
        r#"CREATE TYPE mood AS ENUM ('sad', 'ok');
           CREATE DOMAIN code AS text CHECK (value <> '');
           CREATE TABLE t_uuid (id uuid PRIMARY KEY);
           CREATE TABLE t_text (id text PRIMARY KEY);
           CREATE TABLE t_numeric (id numeric PRIMARY KEY);
           CREATE TABLE t_bytea (id bytea PRIMARY KEY);
           CREATE TABLE t_time (id timestamptz PRIMARY KEY);
           CREATE TABLE t_enum (id mood PRIMARY KEY);
           CREATE TABLE t_domain (id code PRIMARY KEY);
           CREATE TABLE t_array (id int[] PRIMARY KEY);
           CREATE TABLE t_composite (b int, a text, v int, PRIMARY KEY (a, b));
           CREATE TABLE t_none (v int);
           CREATE TABLE t_unique (a int NOT NULL UNIQUE, id int);
           CREATE TABLE t_bare_id (id int, v int);
           CREATE TABLE "we""ird {prefix} 'é" ("tbl""" int, "op" text, PRIMARY KEY ("tbl""", "op"))"#,
    )
    .await;
    fixture
        .execute("SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'; SET extra_float_digits = -3")
        .await;
    fixture
        .execute(
            r#"INSERT INTO t_uuid VALUES ('00000000-0000-0000-0000-000000000001');
               INSERT INTO t_text VALUES (E'it''s "q"\n\\ \u00e9');
               INSERT INTO t_numeric VALUES (12345678901234567890.10), ('NaN');
               INSERT INTO t_bytea VALUES ('\x00ff');
               INSERT INTO t_time VALUES ('2026-01-01 00:00:00+00');
               INSERT INTO t_enum VALUES ('ok');
               INSERT INTO t_domain VALUES ('x');
               INSERT INTO t_array VALUES ('{1,2}');
               INSERT INTO t_composite VALUES (7, 'k', 0);
               INSERT INTO t_none VALUES (1), (2);
               INSERT INTO t_unique VALUES (5, 6);
               INSERT INTO t_bare_id VALUES (8, 0), (NULL, 0);
               INSERT INTO "we""ird {prefix} 'é" VALUES (1, 'x')"#,
        )
        .await;
    let seen: Vec<String> = fixture
        .events()
        .await
        .iter()
        .map(|e| format!("{} {:?} {}", e.location, e.id, e.key.as_ref().map_or("-", |key| key.get())))
        .collect();
    expect![[r#"
        t_uuid "00000000-0000-0000-0000-000000000001" {"id":"00000000-0000-0000-0000-000000000001"}
        t_text "it's \"q\"\n\\ é" {"id":"it's \"q\"\n\\ é"}
        t_numeric "12345678901234567890.10" {"id":12345678901234567890.10}
        t_numeric "NaN" {"id":"NaN"}
        t_bytea "\\x00ff" {"id":"\\x00ff"}
        t_time "2026-01-01T00:00:00+00:00" {"id":"2026-01-01T00:00:00+00:00"}
        t_enum "ok" {"id":"ok"}
        t_domain "x" {"id":"x"}
        t_array "[1,2]" {"id":[1,2]}
        t_composite "[\"k\",7]" {"a":"k","b":7}
        t_none "" -
        t_none "" -
        t_unique "5" {"a":5}
        t_bare_id "8" {"id":8}
        t_bare_id "" {"id":null}
        we"ird {prefix} 'é "[1,\"x\"]" {"tbl\"":1,"op":"x"}"#]]
    .assert_eq(&seen.join("\n"));
}

#[tokio::test]
async fn partitions_go_by_their_root_however_they_are_written() {
    let mut fixture = Fixture::new(
        "CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
         CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (100) TO (200)",
    )
    .await;
    fixture.execute("INSERT INTO p VALUES (1), (101)").await;
    fixture.execute("INSERT INTO p_low VALUES (2)").await;
    fixture.execute("UPDATE p SET id = 102 WHERE id = 2").await;
    fixture.execute("DELETE FROM p_high WHERE id = 101").await;
    assert_eq!(
        fixture.lines().await,
        ["p create 1", "p create 101", "p create 2", "p delete 2", "p create 102", "p delete 101"]
    );
}

#[tokio::test]
async fn schemas_and_patterns() {
    let mut fixture = Fixture::with(
        "CREATE SCHEMA audit; CREATE TABLE audit.log (id int PRIMARY KEY); CREATE TABLE audit.tmp (id int PRIMARY KEY);
         CREATE TABLE orders (id int PRIMARY KEY)",
        |config| {
            config.options = serde_json::from_str(r#"{"tables":["audit.*"],"exclude":["audit.tmp"]}"#).unwrap();
        },
    )
    .await;
    fixture.execute("INSERT INTO audit.log VALUES (1); INSERT INTO audit.tmp VALUES (1); INSERT INTO orders VALUES (1)").await;
    assert_eq!(fixture.lines().await, ["audit.log create 1"]);
}

#[tokio::test]
async fn truncate_is_an_event_when_asked_for() {
    let mut fixture = Fixture::with(ORDERS, |config| {
        config.operations = Some(vec![dapper_core::Operation::Truncate]);
    })
    .await;
    fixture.execute("INSERT INTO orders VALUES (1); TRUNCATE orders").await;
    assert_eq!(fixture.lines().await, ["orders truncate "]);
}

#[tokio::test]
async fn upserts_copy_merge_and_cascades() {
    let mut fixture = Fixture::new(
        "CREATE TABLE parent (id int PRIMARY KEY, v int);
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE)",
    )
    .await;
    fixture.execute("INSERT INTO parent VALUES (1), (2)").await;
    fixture.execute("INSERT INTO parent VALUES (2, 0), (3, 0) ON CONFLICT (id) DO UPDATE SET v = 1").await;
    fixture.execute("INSERT INTO parent VALUES (3) ON CONFLICT DO NOTHING").await;
    fixture.execute("INSERT INTO child VALUES (10, 1), (11, 2)").await;
    fixture.execute("DELETE FROM parent WHERE id = 1").await;
    fixture
        .execute("WITH gone AS (DELETE FROM child RETURNING id) UPDATE parent SET v = 9 WHERE id = 2")
        .await;
    let mut lines = fixture.lines().await;
    // Of one statement the order across tables and operations is not promised.
    let of = |lines: &mut Vec<String>, n: usize| {
        let mut group: Vec<String> = lines.drain(..n).collect();
        group.sort();
        group.join(", ")
    };
    assert_eq!(of(&mut lines, 2), "parent create 1, parent create 2");
    assert_eq!(of(&mut lines, 2), "parent create 3, parent update 2");
    assert_eq!(of(&mut lines, 2), "child create 10, child create 11");
    assert_eq!(of(&mut lines, 2), "child delete 10, parent delete 1");
    assert_eq!(of(&mut lines, 2), "child delete 11, parent update 2");
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn a_writer_without_rights_and_with_traps_in_its_path_is_captured() {
    let mut fixture = Fixture::new(
        "CREATE TABLE orders (id int PRIMARY KEY);
         DROP ROLE IF EXISTS dapper_test_clerk; CREATE ROLE dapper_test_clerk;
         GRANT INSERT ON orders TO dapper_test_clerk;
         CREATE SCHEMA trap;
         CREATE FUNCTION trap.concat(VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT NULL';
         CREATE FUNCTION trap.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.never);
         GRANT USAGE ON SCHEMA trap TO dapper_test_clerk",
    )
    .await;
    fixture
        .execute(
            "SET ROLE dapper_test_clerk;
             CREATE TEMP TABLE change_sets_0 (changes int, payload text);
             CREATE TEMP TABLE wake_up (last_value bigint);
             CREATE TEMP TABLE new_rows (id int);
             SET search_path = trap, pg_temp, pg_catalog, public;
             INSERT INTO public.orders VALUES (1);
             RESET ROLE; RESET search_path;
             REVOKE ALL ON orders FROM dapper_test_clerk; DROP OWNED BY dapper_test_clerk",
        )
        .await;
    assert_eq!(fixture.lines().await, ["orders create 1"]);
    fixture.execute("DROP ROLE dapper_test_clerk").await;
}

#[tokio::test]
async fn key_changes_between_two_comparisons_fail_no_statement_and_lose_no_event() {
    let mut fixture = Fixture::new("CREATE TABLE orders (id int PRIMARY KEY, other int, v int)").await;
    fixture.execute("INSERT INTO orders VALUES (1, 1)").await;
    fixture.execute("ALTER TABLE orders RENAME COLUMN id TO number").await;
    fixture.execute("INSERT INTO orders VALUES (2, 2)").await;
    fixture.execute("ALTER TABLE orders DROP COLUMN number").await;
    fixture.execute("INSERT INTO orders VALUES (3)").await;
    fixture.execute("UPDATE orders SET v = 1 WHERE other = 3; DELETE FROM orders WHERE other = 3").await;
    fixture.execute("ALTER TABLE orders ADD PRIMARY KEY (other)").await;
    fixture.execute("INSERT INTO orders VALUES (4)").await;
    assert_eq!(
        fixture.lines().await,
        [
            "orders create 1",
            "orders create 2",
            "orders create ",
            "orders update ",
            "orders delete ",
            "orders create 4"
        ]
    );
    assert_eq!(fixture.reconcile().await.changed.len(), 1);
    fixture.execute("INSERT INTO orders VALUES (5)").await;
    assert_eq!(fixture.lines().await, ["orders create 5"]);
}

#[tokio::test]
async fn a_changed_type_of_the_key_is_survived() {
    let mut fixture = Fixture::new(ORDERS).await;
    fixture.execute("INSERT INTO orders VALUES (1)").await;
    fixture.execute("ALTER TABLE orders ALTER id TYPE text USING id || 'x'").await;
    fixture.execute("INSERT INTO orders VALUES ('a\"b')").await;
    assert_eq!(fixture.lines().await, ["orders create 1", "orders create a\"b"]);
}
