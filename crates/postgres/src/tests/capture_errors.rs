//! When the trigger can't do its work: statements fail by name, or pass and are counted.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use dapper_lock::MemoryStore;
use dapper_testkit::{Database, Server, ServerOptions};
use tokio::sync::mpsc;
use tokio_postgres::error::{DbError, ErrorPosition};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::support::{Fixture, Replica, WAIT, config, locks};
use crate::Severity;

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
    (
        "DROP SEQUENCE dapper_orders_input.change_sets_seq CASCADE; ALTER TABLE dapper_orders_input.change_sets ALTER seq DROP DEFAULT",
        "23502",
    ),
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
            let count =
                "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dapper_orders_input.missed";
            let missed: i64 = fixture.client.query_one(count, &[]).await.unwrap().get(0);
            assert_eq!(missed, if renamed { 0 } else { 6 }, "{images}: {harm}");
        }
    }
}

async fn missed(fixture: &Fixture) -> i64 {
    let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dapper_orders_input.missed";
    fixture.client.query_one(sql, &[]).await.unwrap().get(0)
}

/// A small file system of its own, which goes with this value.
struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// One of a few megabytes, in which the server may write.
    fn mount(server: &Server) -> Self {
        let directory = server.directory().expect("a server of our own").join("small");
        std::fs::create_dir(&directory).unwrap();
        let owner = std::fs::metadata(server.directory().unwrap()).unwrap();
        let options = format!("size=4m,uid={},gid={},mode=0700", owner.uid(), owner.gid());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&directory)
            .status()
            .unwrap();
        assert!(mounted.success(), "a small tmpfs can't be mounted: is this root?");
        std::fs::write(directory.join("ballast"), vec![0; 1_000_000]).unwrap();
        Self { directory }
    }

    /// Even emptying a table takes some room.
    fn make_room(&self) {
        std::fs::remove_file(self.directory.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since the server has files open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).status();
    }
}

/// A server of its own, whose first slot is on a disk that is full after a few statements.
async fn on_a_small_disk(on_capture_error: &str) -> (SmallDisk, Fixture) {
    let server =
        tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await.unwrap();
    let disk = SmallDisk::mount(&server);
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(T).await.unwrap();
    let mut config = config("orders-input", database.url());
    config.options.insert("on_capture_error".into(), on_capture_error.into());
    let fixture = Fixture::install(database, client, &config).await;
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", disk.directory.display());
    fixture.execute(&tablespace).await;
    fixture.execute("ALTER TABLE dapper_orders_input.change_sets_0 SET TABLESPACE small").await;
    (disk, fixture)
}

/// 1,000 keys in each of five change sets.
fn insert(n: i32) -> String {
    format!("INSERT INTO t SELECT n FROM generate_series({n} * 5000, {n} * 5000 + 4999) n")
}

#[tokio::test]
async fn a_full_disk_fails_statements_until_there_is_room() {
    let (disk, mut fixture) = on_a_small_disk("fail").await;
    let mut passed = 0;
    let error = loop {
        match fixture.client.batch_execute(&insert(passed)).await {
            Ok(()) => passed += 1,
            Err(error) => break error,
        }
        assert!(passed < 1_000, "the disk never fills");
    };
    let error = error.as_db_error().unwrap();
    assert_names_us(error, "53100", "a full disk");
    assert!(error.message().contains("could not extend file"), "{error:?}");
    let rows = fixture.client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), i64::from(passed) * 5_000);
    assert_eq!(fixture.lines().await.len(), passed as usize * 5_000);
    disk.make_room();
    fixture.execute("TRUNCATE dapper_orders_input.change_sets_0").await;
    fixture.execute(&insert(passed)).await;
    assert_eq!(fixture.lines().await.len(), 5_000);
}

#[tokio::test]
async fn a_full_disk_lets_statements_pass_when_asked_and_every_one_that_is_missed_is_counted() {
    let (_disk, mut fixture) = on_a_small_disk("skip").await;
    for n in 0..200 {
        fixture.execute(&insert(n)).await;
    }
    let missed = missed(&fixture).await;
    assert!(missed > 0);
    let rows = fixture.client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1_000_000);
    // Whole statements are missed or are there.
    assert_eq!(fixture.lines().await.len() as i64, (200 - missed) * 5_000);
    let config = config("orders-input", fixture.database.url());
    let findings = crate::diagnose(&config).await.unwrap();
    let finding = findings.iter().find(|finding| finding.topic == "missed").unwrap();
    assert_eq!(finding.severity, Severity::Problem);
    assert!(finding.message.contains(&format!("about {missed} statement(s)")), "{finding:?}");
}

#[tokio::test]
async fn beyond_max_size_statements_pass_when_asked_and_are_counted() {
    let mut fixture = fixture(T, &[("max_size", "1MB"), ("on_capture_error", "skip")]).await;
    let fill = "INSERT INTO dapper_orders_input.change_sets_0 (changes, payload)
                SELECT 1, '{\"tbl\":\"t\",\"op\":\"INSERT\",\"id\":0}' FROM generate_series(1, 10000)";
    fixture.execute(fill).await;
    for id in 0..200 {
        fixture.execute(&format!("INSERT INTO t VALUES ({id})")).await;
    }
    let missed = missed(&fixture).await;
    assert!((136..=200).contains(&missed), "{missed}");
    assert_eq!(fixture.lines().await.len() as i64, 10_000 + 200 - missed);
}

/// A conflict that the application is to try again after stays one, whoever notices it.
#[tokio::test]
async fn skipping_hides_no_serialization_failure_and_no_cancellation() {
    let mut fixture = fixture(T, &[("on_capture_error", "skip")]).await;
    let raise = async |fixture: &Fixture, code: &str| {
        fixture
            .execute(&format!(
                "CREATE OR REPLACE FUNCTION dapper_orders_input.harm() RETURNS trigger LANGUAGE plpgsql AS
                     'BEGIN RAISE EXCEPTION USING ERRCODE = ''{code}''; END'"
            ))
            .await;
    };
    raise(&fixture, "40001").await;
    fixture
        .execute(
            "CREATE TRIGGER harm BEFORE INSERT ON dapper_orders_input.change_sets_0 FOR EACH ROW
                 EXECUTE FUNCTION dapper_orders_input.harm()",
        )
        .await;
    for (code, is_hidden) in
        [("40001", false), ("40P01", false), ("57014", false), ("55P03", true), ("53200", true)]
    {
        raise(&fixture, code).await;
        let outcome = fixture.client.batch_execute("INSERT INTO t SELECT count(*) FROM t").await;
        assert_eq!(outcome.is_ok(), is_hidden, "{code}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!(error.code().unwrap().code(), code);
        }
    }
    assert_eq!(missed(&fixture).await, 2);
    assert_eq!(fixture.lines().await.len(), 0);
}

#[tokio::test]
async fn what_was_missed_is_warned_of_reported_and_a_problem_until_the_count_is_reset() {
    let mut config_of = None;
    let fixture = Fixture::with(T, |config| {
        config.options.insert("on_capture_error".into(), "skip".into());
        config_of = Some(config.clone());
    })
    .await;
    let config = config_of.unwrap();
    let problem = async || {
        let findings = crate::diagnose(&config).await.unwrap();
        findings.into_iter().find(|finding| finding.topic == "missed").map(|finding| finding.severity)
    };
    assert_eq!(problem().await, Some(Severity::Ok));
    let (client, mut notices) = notices(&fixture.database.url()).await;
    fixture
        .execute("ALTER TABLE dapper_orders_input.change_sets_0 ADD CONSTRAINT harm CHECK (changes < 0)")
        .await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let notice = notices.recv().await.unwrap();
    assert_eq!(notice.severity(), "WARNING");
    assert!(
        notice.message().starts_with(
            "dapper (schema dapper_orders_input) could not record a change of public.t: new row for relation"
        ),
        "{notice:?}"
    );
    assert!(notice.detail().unwrap().contains("23514") && notice.hint().unwrap().contains("dapper doctor"));
    assert_eq!(problem().await, Some(Severity::Problem));
    // The replica reports what it finds, and what comes later.
    let mut replica = Replica::start(config.clone(), locks(&Arc::new(MemoryStore::new()))).await;
    for expected in ["about 1 statement(s)", "about 2 statement(s)"] {
        let reported = async {
            loop {
                let error = replica.errors.recv().await.unwrap();
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                if source.contains(expected) {
                    return source;
                }
            }
        };
        let reported = tokio::time::timeout(WAIT, reported).await.expect(expected);
        assert!(reported.contains("are lost"), "{reported}");
        client.batch_execute("INSERT INTO t SELECT count(*) + 1 FROM t").await.unwrap();
    }
    replica.stop().await;
    fixture.execute("ALTER SEQUENCE dapper_orders_input.missed RESTART").await;
    assert_eq!(problem().await, Some(Severity::Ok));
}

/// A session, and what the server tells it beside answers.
async fn notices(url: &str) -> (Client, mpsc::UnboundedReceiver<DbError>) {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = sender.send(notice);
            }
        }
    });
    (client, receiver)
}
