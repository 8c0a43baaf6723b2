//! Two transactions at once: each waits for the other where it must, and only there.

use dapper_inbox::{Accepted, Inbox, InboxError};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::{LIMIT, Stage, event_id, pid, run, take};

/// A call that has not come back yet, and the session that makes it.
type Call = JoinHandle<(Client, Result<Accepted, InboxError>)>;

async fn begin(stage: &Stage, level: &str) -> Client {
    let client = stage.session().await;
    run(&client, &format!("BEGIN ISOLATION LEVEL {level}; SELECT 1")).await;
    client
}

/// Starts a call that must wait for another transaction.
async fn waiting(stage: &Stage, client: Client, id: String, token: u64) -> Call {
    let (inbox, pid): (Inbox, i32) = (stage.inbox.clone(), pid(&client).await);
    let call = tokio::spawn(async move {
        let accepted = take(&inbox, &client, &id, token).await;
        (client, accepted)
    });
    stage.until_blocked(pid).await;
    assert!(!call.is_finished());
    call
}

async fn answer(call: Call) -> (Client, Result<Accepted, InboxError>) {
    timeout(LIMIT, call).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_second_of_two_waits_and_has_seen_what_the_first_committed() {
    let stage = Stage::set().await;
    let first = begin(&stage, "READ COMMITTED").await;
    assert_eq!(take(&stage.inbox, &first, &event_id(1), 1).await.unwrap(), Accepted::New);
    let second = begin(&stage, "READ COMMITTED").await;
    let call = waiting(&stage, second, event_id(1), 1).await;
    run(&first, "COMMIT").await;
    let (second, accepted) = answer(call).await;
    assert_eq!(accepted.unwrap(), Accepted::Seen);
    run(&second, "COMMIT").await;
    assert_eq!(stage.effects().await, [event_id(1)]);
}

#[tokio::test]
async fn what_the_first_of_two_rolled_back_is_new_to_the_second_in_every_isolation() {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        // The row of the token is there, so that only the event's id is waited for.
        let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
        let first = begin(&stage, level).await;
        assert_eq!(take(&stage.inbox, &first, &event_id(1), 1).await.unwrap(), Accepted::New);
        let second = begin(&stage, level).await;
        let call = waiting(&stage, second, event_id(1), 1).await;
        // A crash as the server sees it.
        drop(first);
        let (second, accepted) = answer(call).await;
        assert_eq!(accepted.unwrap(), Accepted::New, "{level}");
        run(&second, "COMMIT").await;
        assert_eq!(stage.effects().await, [event_id(0), event_id(1)]);
    }
}

#[tokio::test]
async fn with_one_snapshot_for_all_a_repeat_at_the_same_time_is_a_conflict_and_then_seen() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
        let first = begin(&stage, level).await;
        let second = begin(&stage, level).await;
        assert_eq!(take(&stage.inbox, &first, &event_id(1), 1).await.unwrap(), Accepted::New);
        let call = waiting(&stage, second, event_id(1), 1).await;
        run(&first, "COMMIT").await;
        let (second, accepted) = answer(call).await;
        let error = accepted.unwrap_err();
        assert!(matches!(error, InboxError::Conflict { .. }) && error.is_transient(), "{level}: {error:?}");
        run(&second, &format!("ROLLBACK; BEGIN ISOLATION LEVEL {level}")).await;
        assert_eq!(take(&stage.inbox, &second, &event_id(1), 1).await.unwrap(), Accepted::Seen);
    }
}

#[tokio::test]
async fn consumers_of_one_input_do_not_wait_for_each_other() {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
        let mut open = Vec::new();
        for number in 1..=8 {
            let client = begin(&stage, level).await;
            let id = event_id(number);
            let call = take(&stage.inbox, &client, &id, 1);
            assert_eq!(timeout(LIMIT, call).await.expect(level).unwrap(), Accepted::New);
            open.push(client);
        }
        for client in open {
            run(&client, "COMMIT").await;
        }
        assert_eq!(stage.effects().await.len(), 9, "{level}");
    }
}

/// The frozen holder: it has accepted an event, is replaced, and thaws before it commits.
#[tokio::test]
async fn a_successor_waits_for_what_its_predecessor_has_begun() {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
        let zombie = begin(&stage, level).await;
        assert_eq!(take(&stage.inbox, &zombie, &event_id(1), 1).await.unwrap(), Accepted::New);
        let successor = begin(&stage, level).await;
        // Another event: it is the token alone that waits.
        let call = waiting(&stage, successor, event_id(2), 2).await;
        run(&zombie, "COMMIT").await;
        let (successor, accepted) = answer(call).await;
        assert_eq!(accepted.unwrap(), Accepted::New, "{level}");
        run(&successor, "COMMIT").await;
        // The zombie goes on.
        let error = take(&stage.inbox, &zombie, &event_id(3), 1).await.unwrap_err();
        assert!(matches!(error, InboxError::StaleToken { seen: 2, .. }), "{error:?}");
        assert_eq!(stage.effects().await, [event_id(0), event_id(1), event_id(2)]);
    }
}

/// The frozen holder: its call reaches the server while the successor's first transaction is open.
#[tokio::test]
async fn a_stale_call_waits_for_the_successor_and_is_refused() {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
        let zombie = begin(&stage, level).await;
        let successor = begin(&stage, level).await;
        assert_eq!(take(&stage.inbox, &successor, &event_id(1), 2).await.unwrap(), Accepted::New);
        let call = waiting(&stage, zombie, event_id(2), 1).await;
        run(&successor, "COMMIT").await;
        let (zombie, accepted) = answer(call).await;
        match (level, accepted.unwrap_err()) {
            ("READ COMMITTED", InboxError::StaleToken { token: 1, seen: 2, .. }) => {}
            // It sees only that the row has changed; when it tries again it sees how.
            ("REPEATABLE READ" | "SERIALIZABLE", InboxError::Conflict { .. }) => {}
            (level, error) => panic!("{level}: {error:?}"),
        }
        run(&zombie, &format!("ROLLBACK; BEGIN ISOLATION LEVEL {level}")).await;
        let error = take(&stage.inbox, &zombie, &event_id(2), 1).await.unwrap_err();
        assert!(matches!(error, InboxError::StaleToken { .. }), "{level}: {error:?}");
        assert_eq!(stage.effects().await, [event_id(0), event_id(1)]);
    }
}

/// A snapshot from before the takeover shows the old token; the lock on the row tells.
#[tokio::test]
async fn an_old_snapshot_does_not_let_a_stale_token_in() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let stage = Stage::set().await;
        let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
        let zombie = begin(&stage, level).await;
        let _ = take(&stage.inbox, &stage.watcher, &event_id(1), 2).await.unwrap();
        let error = take(&stage.inbox, &zombie, &event_id(2), 1).await.unwrap_err();
        assert!(matches!(error, InboxError::Conflict { .. }), "{level}: {error:?}");
    }
}

#[tokio::test]
async fn a_token_whose_transaction_was_rolled_back_does_not_count() {
    let stage = Stage::set().await;
    let _ = take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap();
    let successor = begin(&stage, "READ COMMITTED").await;
    let _ = take(&stage.inbox, &successor, &event_id(1), 2).await.unwrap();
    let holder = begin(&stage, "READ COMMITTED").await;
    let call = waiting(&stage, holder, event_id(2), 1).await;
    run(&successor, "ROLLBACK").await;
    assert_eq!(answer(call).await.1.unwrap(), Accepted::New);
}

#[tokio::test]
async fn the_first_calls_of_a_new_holder_at_the_same_time_do_not_deadlock() {
    let stage = Stage::set().await;
    // Without a row of the token, and then with a lower one.
    for token in 1..=5 {
        let mut calls = Vec::new();
        for number in 0..8 {
            let (inbox, mut client) = (stage.inbox.clone(), stage.session().await);
            let id = event_id(u32::try_from(token).unwrap() * 100 + number);
            calls.push(tokio::spawn(async move {
                let transaction = client.transaction().await.unwrap();
                let accepted = take(&inbox, &transaction, &id, token).await.unwrap();
                transaction.commit().await.unwrap();
                accepted
            }));
        }
        for call in calls {
            assert_eq!(timeout(LIMIT, call).await.unwrap().unwrap(), Accepted::New);
        }
    }
    assert_eq!(stage.effects().await.len(), 40);
}
