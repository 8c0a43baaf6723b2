//! Private servers: configured, stopped, crashed, copied.

use dapper_testkit::{Database, Server, ServerError, ServerOptions, StopMode, connect};

fn start(settings: &[(&str, &str)]) -> Server {
    let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Server::start(&ServerOptions { settings, ..Default::default() }).unwrap()
}

async fn count(url: &str) -> i64 {
    connect(url).await.unwrap().query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn settings_apply_and_data_outlives_every_stop() {
    let server = start(&[("max_prepared_transactions", "7"), ("fsync", "off")]);
    let database = Database::create_on(&server).await.unwrap();
    let url = database.url();
    let client = connect(&url).await.unwrap();
    let value: String = client.query_one("SHOW max_prepared_transactions", &[]).await.unwrap().get(0);
    assert_eq!(value, "7");
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 3) AS id").await.unwrap();

    for mode in [StopMode::Immediate, StopMode::Fast] {
        let pid = server.pid().unwrap();
        server.stop(mode).unwrap();
        assert_eq!(server.pid(), None);
        assert!(connect(&url).await.is_err());
        server.restart().unwrap();
        assert_ne!(server.pid(), Some(pid));
        assert_eq!(count(&url).await, 3, "{mode:?}");
    }
}

#[tokio::test]
async fn a_standby_follows_and_is_promoted() {
    let primary = start(&[]);
    let database = Database::create_on(&primary).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 3) AS id").await.unwrap();

    let standby = Server::standby_of(&primary).unwrap();
    let url = standby.url(database.name());
    assert_eq!(count(&url).await, 3);
    let refused = connect(&url).await.unwrap().batch_execute("DELETE FROM t").await.unwrap_err();
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("25006"));

    primary.stop(StopMode::Immediate).unwrap();
    standby.promote().unwrap();
    connect(&url).await.unwrap().batch_execute("DELETE FROM t WHERE id = 1").await.unwrap();
    assert_eq!(count(&url).await, 2);
}

/// Runs this test binary again with the variable set.
#[tokio::test]
async fn a_server_named_by_the_variable_is_used_and_left_as_it_was() {
    let server = start(&[]);
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let named = server.dsn("postgres");
    command.args(["database::databases_are_apart", "database::url_and", "--nocapture"]);
    let output = command.env("DAPPER_TEST_DATABASE_URL", named).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("2 passed"), "{text}");
    assert!(text.contains("the server that DAPPER_TEST_DATABASE_URL names (127.0.0.1 port"), "{text}");
    let client = connect(&server.url("postgres")).await.unwrap();
    let count = "SELECT count(*) FROM pg_database WHERE datname LIKE 'dapper_test%'";
    let left: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[test]
fn a_setting_that_the_server_refuses_is_an_error_with_its_words() {
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = Server::start(&ServerOptions { settings, ..Default::default() }).unwrap_err();
    assert!(
        matches!(&error, ServerError::Program { output, .. } if output.contains("no_such_setting")),
        "{error}"
    );
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let server = start(&[]);
    let directory = server.directory().unwrap().to_owned();
    let clone = server.clone();
    drop(server);
    assert!(directory.exists());
    drop(clone);
    assert!(!directory.exists());
    assert_eq!(crate::survivors::processes_naming(&directory), Vec::<u32>::new());
}
