//! `docs/inbox.md` read as a program: its example says what it says, and its roles can do what they should and no more.

use dapper_inbox::{Accepted, InboxError, Incoming};
use dapper_testkit::{Database, Server, ServerOptions};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::{INPUT, Stage, inbox, run};

const PAGE: &str = include_str!("../../../../docs/inbox.md");

fn block(name: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```sql {name}\n")).expect("the page has the block");
    rest.split_once("```").expect("the block ends").0
}

/// What the server says to one statement: the value, or the code of the error.
async fn said(client: &Client, statement: &str) -> String {
    match client.simple_query(statement).await {
        Ok(messages) => messages
            .iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default(),
        Err(error) => error.code().unwrap().code().to_owned(),
    }
}

#[tokio::test]
async fn the_example_says_what_it_says() {
    let stage = Stage::set().await;
    let client = stage.session().await;
    let mut compared = 0;
    for line in block("example").lines().filter(|line| !line.is_empty()) {
        let (statement, expected) = line.split_once("  -- ").unwrap_or((line, ""));
        assert_eq!(said(&client, statement).await, expected, "{line}");
        compared += usize::from(!expected.is_empty());
    }
    assert_eq!(compared, 5);
}

#[tokio::test]
async fn roles_do_what_the_page_says_and_no_more() {
    // A server of its own, because roles belong to the whole server.
    let server = tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await;
    let database = Database::create_on(&server.unwrap()).await.unwrap();
    let superuser = database.connect().await.unwrap();
    run(&superuser, "CREATE ROLE inbox_owner LOGIN PASSWORD 'a'; CREATE ROLE app LOGIN PASSWORD 'a'").await;
    let session = async |role: &str| dapper_testkit::connect(&database.url_as(role, "a")).await.unwrap();
    let (mut owner, mut app) = (session("inbox_owner").await, session("app").await);
    let inbox = inbox("");

    assert!(inbox.install(&mut owner).await.is_err());
    let install = block("install").replace("DATABASE warehouse", &format!("DATABASE {}", database.name()));
    run(&superuser, &install).await;
    inbox.install(&mut owner).await.unwrap();

    // Without any one of the two rights nothing goes, and each is said.
    let event = Incoming::new("x", INPUT).with_token(3);
    let rights: Vec<&str> = block("consume").lines().collect();
    for right in &rights {
        run(&owner, block("consume")).await;
        assert!(inbox.accept_in(&app, &event).await.is_ok());
        run(&owner, &right.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")).await;
        let error = inbox.accept_in(&app, &event).await.unwrap_err();
        assert!(matches!(error, InboxError::NotInstalled { .. }), "{right}: {error:?}");
    }
    run(&owner, block("consume")).await;
    // Where it is there, installing needs no right.
    inbox.install(&mut app).await.unwrap();
    assert_eq!(inbox.accept_in(&app, &event).await.unwrap(), Accepted::Seen);
    // It prunes, though it may not.
    run(&superuser, "UPDATE dapper_inbox.events SET accepted_hour = 0").await;
    for _ in 0..1_000 {
        let accept =
            "SELECT count(dapper_inbox.accept(gen_random_uuid()::text, 'i', 1)) FROM generate_series(1, 100)";
        run(&app, accept).await;
        if said(&superuser, "SELECT count(*) FROM dapper_inbox.events WHERE accepted_hour = 0").await == "0" {
            break;
        }
    }
    assert_eq!(inbox.accept_in(&app, &event).await.unwrap(), Accepted::New);
    for statement in [
        "SELECT FROM dapper_inbox.events",
        "SELECT FROM dapper_inbox.tokens",
        "INSERT INTO dapper_inbox.events VALUES (gen_random_uuid(), 0, 1, 0)",
        "UPDATE dapper_inbox.tokens SET token = 0",
        "DELETE FROM dapper_inbox.events",
        "TRUNCATE dapper_inbox.events",
        "UPDATE dapper_inbox.settings SET retention = interval '1 hour'",
        "SELECT dapper_inbox.prune()",
        "SELECT dapper_inbox.reset_token('orders_input')",
        "CREATE TABLE dapper_inbox.mine ()",
    ] {
        assert_eq!(said(&app, statement).await, "42501", "{statement}");
    }
}
