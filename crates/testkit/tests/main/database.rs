//! A database for each test.

use dapper_testkit::{Database, Server, connect};

#[tokio::test]
async fn databases_are_apart() {
    let first = Database::create().await.unwrap();
    let second = Database::create().await.unwrap();
    let one = first.connect().await.unwrap();
    one.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let other = second.connect().await.unwrap();
    let found: Option<String> = other.query_one("SELECT to_regclass('t')::text", &[]).await.unwrap().get(0);
    assert_eq!(found, None);
    assert_ne!(first.name(), second.name());
}

#[tokio::test]
async fn url_and_dsn_lead_to_the_same_place() {
    let database = Database::create().await.unwrap();
    for text in [database.url(), database.dsn()] {
        let client = connect(&text).await.unwrap();
        let name: String = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
        assert_eq!(name, database.name());
    }
}

#[tokio::test]
async fn the_password_matters() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    let role = format!("writer_{}", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'right'")).await.unwrap();
    connect(&database.url_as(&role, "right")).await.unwrap();
    let error = connect(&database.url_as(&role, "wrong")).await.unwrap_err();
    let source =
        std::error::Error::source(&error).and_then(std::error::Error::source).map(ToString::to_string);
    assert!(source.unwrap_or_default().contains("password authentication failed"));
}

#[tokio::test]
async fn the_server_is_shared() {
    let first = Database::create().await.unwrap();
    assert_eq!(first.server().pid(), Server::shared().unwrap().pid());
}

#[tokio::test]
async fn commits_are_durable_unless_asked_otherwise() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(value, "on", "{setting}");
    }
}
