//! Making the inbox.

use dapper_inbox::{Accepted, INSTALL_SQL, Inbox, InboxError, InboxOptions, Incoming, SchemaName};
use dapper_testkit::Database;

use crate::support::{INPUT, chain, inbox};

#[tokio::test(flavor = "multi_thread")]
async fn many_install_at_once_and_all_can_use_it() {
    let database = Database::create().await.unwrap();
    let mut starts = Vec::new();
    for number in 0..16 {
        let mut client = database.connect().await.unwrap();
        starts.push(tokio::spawn(async move {
            if number % 2 == 1 {
                let set = "SET default_transaction_isolation = 'serializable'";
                client.batch_execute(set).await.unwrap();
            }
            let inbox = inbox("");
            inbox.install(&mut client).await.unwrap();
            inbox.accept_in(&client, &Incoming::new(&number.to_string(), INPUT)).await
        }));
    }
    for start in starts {
        match start.await.unwrap() {
            Ok(accepted) => assert_eq!(accepted, Accepted::New),
            // At that level the first calls of all may meet.
            Err(error) => assert!(matches!(error, InboxError::Conflict { .. }), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn installing_again_changes_nothing_and_the_script_can_be_run_by_hand() {
    let database = Database::create().await.unwrap();
    let mut client = database.connect().await.unwrap();
    client.batch_execute(INSTALL_SQL).await.unwrap();
    let inbox = inbox("");
    assert!(inbox.is_installed(&client).await.unwrap());
    let event = Incoming::new("x", INPUT).with_token(1);
    assert_eq!(inbox.accept_in(&client, &event).await.unwrap(), Accepted::New);
    let version = "SELECT xmin::text FROM pg_proc WHERE proname = 'accept'";
    let before: String = client.query_one(version, &[]).await.unwrap().get(0);
    inbox.install(&mut client).await.unwrap();
    let after: String = client.query_one(version, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
    client.batch_execute(INSTALL_SQL).await.unwrap();
    assert_eq!(inbox.accept_in(&client, &event).await.unwrap(), Accepted::Seen);
}

#[tokio::test]
async fn the_schema_may_have_any_name() {
    let database = Database::create().await.unwrap();
    let mut client = database.connect().await.unwrap();
    let schema = SchemaName::new("we\"ird $body$\n Näme").unwrap();
    let options = InboxOptions { schema: Some(schema), ..InboxOptions::default() };
    let inbox = Inbox::new(options).unwrap();
    assert!(!inbox.is_installed(&client).await.unwrap());
    inbox.install(&mut client).await.unwrap();
    let event = Incoming::new("x", INPUT).with_token(1);
    assert_eq!(inbox.accept_in(&client, &event).await.unwrap(), Accepted::New);
    assert_eq!(inbox.accept_in(&client, &event).await.unwrap(), Accepted::Seen);
    assert_eq!(inbox.prune(&client, 10).await.unwrap(), 0);
    assert!(inbox.reset_token(&client, INPUT).await.unwrap());
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'dapper_inbox'";
    assert_eq!(client.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn what_the_callers_path_holds_is_not_used() {
    let database = Database::create().await.unwrap();
    let mut client = database.connect().await.unwrap();
    let inbox = inbox("");
    inbox.install(&mut client).await.unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA trap;
             CREATE FUNCTION trap.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
             CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.never);
             CREATE FUNCTION trap.random() RETURNS float8 LANGUAGE sql AS 'SELECT 1/0';
             CREATE TEMPORARY TABLE tokens (consumer text, input text, consumer_id int, token bigint);
             SET search_path = trap, pg_temp, pg_catalog",
        )
        .await
        .unwrap();
    for expected in [Accepted::New, Accepted::Seen] {
        let event = Incoming::new("x", INPUT).with_token(1);
        assert_eq!(inbox.accept_in(&client, &event).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn an_inbox_that_is_not_there_is_said_by_name() {
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    let error = inbox("").accept_in(&client, &Incoming::new("x", INPUT)).await.unwrap_err();
    assert!(matches!(error, InboxError::NotInstalled { .. }), "{error:?}");
    let text = chain(&error);
    assert!(text.contains("no inbox in schema dapper_inbox"), "{text}");
}
