//! One consumer after the other.

use dapper_inbox::{Accepted, InboxError, Incoming, STALE_TOKEN};

use crate::support::{INPUT, Stage, chain, event_id, inbox, take};

#[tokio::test]
async fn an_event_is_new_once_to_each_consumer_whatever_the_isolation() {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        let mut client = stage.session().await;
        client.batch_execute(&format!("SET default_transaction_isolation = '{level}'")).await.unwrap();
        for (consumer, expected) in [
            ("a", Accepted::New),
            ("a", Accepted::Seen),
            ("b", Accepted::New),
            ("b", Accepted::Seen),
            ("", Accepted::New),
        ] {
            let transaction = client.transaction().await.unwrap();
            let event = Incoming::new("6f0c31c8-3c0f-4f0e-a6d8-0d5b6d1b5f5e/0", INPUT).with_token(1);
            let accepted = inbox(consumer).accept(&transaction, &event).await.unwrap();
            transaction.commit().await.unwrap();
            assert_eq!(accepted, expected, "{level}, {consumer:?}");
        }
    }
}

#[tokio::test]
async fn what_is_rolled_back_was_never_accepted() {
    let stage = Stage::set().await;
    let mut client = stage.session().await;
    for _ in 0..2 {
        let transaction = client.transaction().await.unwrap();
        assert_eq!(take(&stage.inbox, &transaction, "x", 5).await.unwrap(), Accepted::New);
        transaction.rollback().await.unwrap();
    }
    // Nor was its token.
    let transaction = client.transaction().await.unwrap();
    assert_eq!(take(&stage.inbox, &transaction, "x", 4).await.unwrap(), Accepted::New);
    transaction.commit().await.unwrap();
    assert_eq!(stage.effects().await, ["x"]);
}

#[tokio::test]
async fn ids_of_every_form_are_told_apart() {
    let stage = Stage::set().await;
    let uuid = "6f0c31c8-3c0f-4f0e-a6d8-0d5b6d1b5f5e";
    let upper = uuid.to_uppercase();
    let long = "x".repeat(10_000);
    let ids = [
        format!("{uuid}/0"),
        format!("{uuid}/1"),
        format!("{uuid}/01"),
        format!("{uuid}/-1"),
        format!("{uuid}/999999999"),
        format!("{uuid}/1000000000"),
        format!("{uuid}/99999999999999999999"),
        format!("{uuid}/0\n"),
        format!("{upper}/0"),
        uuid.to_owned(),
        String::new(),
        "ünï/0".to_owned(),
        long.clone(),
        format!("{long}x"),
    ];
    for expected in [Accepted::New, Accepted::Seen] {
        for id in &ids {
            let accepted = stage.inbox.accept_in(&stage.watcher, &Incoming::new(id, INPUT)).await.unwrap();
            assert_eq!(accepted, expected, "{id:?}");
        }
    }
}

#[tokio::test]
async fn a_stale_token_is_refused_and_says_which_was_seen() {
    let stage = Stage::set().await;
    assert_eq!(take(&stage.inbox, &stage.watcher, &event_id(1), 7).await.unwrap(), Accepted::New);
    // Whether or not the event was seen.
    for id in [event_id(1), event_id(2)] {
        let error = take(&stage.inbox, &stage.watcher, &id, 6).await.unwrap_err();
        assert!(
            matches!(&error, InboxError::StaleToken { input, token: 6, seen: 7 } if input == INPUT),
            "{error:?}"
        );
        assert!(!error.is_transient());
    }
    // The same token and a higher one are not; nor is a lower one of another input, or to another consumer.
    assert_eq!(take(&stage.inbox, &stage.watcher, &event_id(2), 7).await.unwrap(), Accepted::New);
    assert_eq!(take(&stage.inbox, &stage.watcher, &event_id(3), 9).await.unwrap(), Accepted::New);
    let other = Incoming::new("other", "another_input").with_token(1);
    assert_eq!(stage.inbox.accept_in(&stage.watcher, &other).await.unwrap(), Accepted::New);
    assert_eq!(take(&inbox("b"), &stage.watcher, &event_id(4), 1).await.unwrap(), Accepted::New);
    // Without a token there is nothing to compare.
    let without = Incoming::new("without", INPUT);
    assert_eq!(stage.inbox.accept_in(&stage.watcher, &without).await.unwrap(), Accepted::New);
    // What other languages see.
    let error = stage.watcher.query("SELECT dapper_inbox.accept('y', $1, 1)", &[&INPUT]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.detail()), (STALE_TOKEN, Some("9")));
}

#[tokio::test]
async fn tokens_start_over_when_told_to() {
    let stage = Stage::set().await;
    let _ = take(&stage.inbox, &stage.watcher, "x", 7).await.unwrap();
    assert!(stage.inbox.reset_token(&stage.watcher, INPUT).await.unwrap());
    assert!(!stage.inbox.reset_token(&stage.watcher, "another").await.unwrap());
    assert_eq!(take(&stage.inbox, &stage.watcher, "x", 1).await.unwrap(), Accepted::Seen);
    assert_eq!(take(&stage.inbox, &stage.watcher, "y", 1).await.unwrap(), Accepted::New);
}

#[tokio::test]
async fn senseless_calls_are_errors() {
    let stage = Stage::set().await;
    for arguments in ["NULL, 'i', 1", "'x', NULL, 1", "'x', 'i', -1", "'x', 'i', 1, NULL"] {
        let statement = format!("SELECT dapper_inbox.accept({arguments})");
        let error = stage.watcher.query(&statement, &[]).await.unwrap_err();
        assert!(error.code().unwrap().code().starts_with("22"), "{arguments}: {error:?}");
    }
    let error = take(&stage.inbox, &stage.watcher, "x", u64::MAX).await.unwrap_err();
    assert_eq!(chain(&error), "the token 18446744073709551615 is out of range");
}
