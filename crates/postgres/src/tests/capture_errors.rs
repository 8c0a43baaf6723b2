//! When the trigger can't do its work: statements fail by name, or pass and are counted.

use tokio_postgres::error::{DbError, ErrorPosition};

use super::support::Fixture;

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

async fn fixture(sql: &str, options: &[(&str, &str)]) -> Fixture {
    Fixture::with(sql, |config| {
        for (key, value) in options {
            config.options.insert((*key).to_owned(), (*value).into());
        }
    })
    .await
}

/// What somebody does to our tables, and the SQLSTATE that the statements of the application then get.
const HARMS: [(&str, &str); 7] = [
    ("DROP TABLE dapper_orders_input.change_sets_0", "42P01"),
    ("DROP TABLE dapper_orders_input.change_sets CASCADE", "42P01"),
    ("ALTER TABLE dapper_orders_input.change_sets RENAME payload TO body", "42703"),
    ("ALTER TABLE dapper_orders_input.change_sets_0 ADD CHECK (changes < 0) NOT VALID", "23514"),
    ("DROP SEQUENCE dapper_orders_input.wake_up", "42P01"),
    ("DROP SEQUENCE dapper_orders_input.change_sets_seq CASCADE; ALTER TABLE dapper_orders_input.change_sets ALTER seq DROP DEFAULT", "23502"),
    ("ALTER SCHEMA dapper_orders_input RENAME TO elsewhere", "42P01"),
];

/// One of each kind, small and large.
const STATEMENTS: [&str; 5] = [
    "INSERT INTO t VALUES (2)",
    "INSERT INTO t SELECT n FROM generate_series(10, 1500) n",
    "UPDATE t SET v = 'x' WHERE id = 1",
    "UPDATE t SET id = -id",
    "DELETE FROM t",
];

/// That the error is the server's own, and what it says of its context names us and a way out.
fn assert_names_us(error: &DbError, code: &str, what: &str) {
    assert_eq!(error.code().code(), code, "{what}: {error:?}");
    let query = match error.position() {
        Some(ErrorPosition::Internal { query, .. }) => query,
        _ => "",
    };
    let told = format!("{} {} {query}", error.hint().unwrap_or(""), error.where_().unwrap_or(""));
    for part in ["dapper_orders_input", "dapper doctor", "dapper uninstall"] {
        assert!(told.contains(part), "{what}: {part}: {error:?}");
    }
}

#[tokio::test]
async fn by_default_statements_fail_with_an_error_that_names_us_and_the_remedy() {
    for images in ["key", "old-and-new"] {
        for (harm, code) in HARMS {
            let fixture = fixture(T, &[("images", images)]).await;
            fixture.execute("INSERT INTO t VALUES (1)").await;
            fixture.execute(harm).await;
            for statement in STATEMENTS {
                let what = format!("{images}: {statement} after {harm}");
                let error = fixture.client.batch_execute(statement).await.expect_err(&what);
                let error = error.as_db_error().unwrap();
                // The rename of the schema takes the function along that asks the catalog.
                let code = if error.code().code() == "3F000" { "3F000" } else { code };
                assert_names_us(error, code, &what);
            }
            let rows = fixture.client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
            assert_eq!(rows.get::<_, i64>(0), 1);
        }
    }
}

#[tokio::test]
async fn asked_to_skip_statements_pass_are_counted_and_warned_of() {
    for images in ["key", "old-and-new"] {
        for (harm, _) in HARMS {
            let mut fixture = fixture(T, &[("images", images), ("on_capture_error", "skip")]).await;
            fixture.execute("INSERT INTO t VALUES (1)").await;
            assert_eq!(fixture.lines().await, ["t create 1"]);
            fixture.execute(harm).await;
            for statement in STATEMENTS {
                fixture.execute(statement).await;
            }
            // Those of a transaction that is undone count, too: better too many than too few.
            fixture.execute("BEGIN; INSERT INTO t VALUES (7); ROLLBACK").await;
            let renamed = harm.contains("SCHEMA");
            if renamed {
                fixture.execute("ALTER SCHEMA elsewhere RENAME TO dapper_orders_input").await;
            }
            let count = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dapper_orders_input.missed";
            let missed: i64 = fixture.client.query_one(count, &[]).await.unwrap().get(0);
            assert_eq!(missed, if renamed { 0 } else { 6 }, "{images}: {harm}");
        }
    }
}
