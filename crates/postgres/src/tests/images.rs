//! Row images: what is in them, what never is, and which of an update belong together.

use dapper_core::Event;
use expect_test::expect;
use serde_json::Value;

use super::support::Fixture;

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
    let image = |image: &Option<dapper_core::RawJson>| image.as_ref().map_or("-".into(), |json| json.get().to_owned());
    format!("{} {} {:?} {} {}", event.location, event.operation, event.id, image(&event.old), image(&event.new))
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
        let updated: Vec<Event> = events.iter().filter(|event| event.operation.as_str() == "update").cloned().collect();
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
    for (images, key) in [("key", ", PRIMARY KEY (n, v)"), ("old-and-new", ", PRIMARY KEY (n, v)"), ("old-and-new", "")] {
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
            let of = |operation: &str| events.iter().filter(|event| event.operation.as_str() == operation).count();
            (of("delete"), of("create"), of("update"))
        };
        fixture.execute("UPDATE p SET n = 1 WHERE n = 0").await;
        assert_eq!(count(&mut fixture).await, (1, 0, 0), "{images} {key}");
        fixture.execute("UPDATE p SET n = n + 1").await;
        assert_eq!(count(&mut fixture).await, (2, 1, 0), "{images} {key}");
    }
}
