//! Forgetting what is old, and only that.

use std::time::Duration;

use dapper_inbox::{Accepted, Inbox, InboxOptions, Incoming};

use crate::support::{INPUT, Stage, event_id, run, take};

/// Makes everything accepted so far older.
async fn age(stage: &Stage, hours: i32) {
    run(&stage.watcher, &format!("UPDATE dapper_inbox.events SET accepted_hour = accepted_hour - {hours}"))
        .await;
}

async fn count(stage: &Stage) -> i64 {
    stage.watcher.query_one("SELECT count(*) FROM dapper_inbox.events", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_is_older_than_the_retention_is_forgotten_in_bounded_steps() {
    let stage = Stage::set().await;
    for number in 0..5 {
        let _ = take(&stage.inbox, &stage.watcher, &event_id(number), 1).await.unwrap();
    }
    age(&stage, 7 * 24 + 1).await;
    for number in 5..8 {
        let _ = take(&stage.inbox, &stage.watcher, &event_id(number), 1).await.unwrap();
    }
    let mut pruned = Vec::new();
    for _ in 0..4 {
        pruned.push(stage.inbox.prune(&stage.watcher, 2).await.unwrap());
    }
    assert_eq!(pruned, [2, 2, 1, 0]);
    // A repeat of a forgotten event is new: the retention must be longer than events can come again.
    assert_eq!(take(&stage.inbox, &stage.watcher, &event_id(0), 1).await.unwrap(), Accepted::New);
    assert_eq!(take(&stage.inbox, &stage.watcher, &event_id(5), 1).await.unwrap(), Accepted::Seen);
}

#[tokio::test]
async fn what_is_younger_by_an_hour_stays() {
    let stage = Stage::set().await;
    let _ = take(&stage.inbox, &stage.watcher, "x", 1).await.unwrap();
    age(&stage, 7 * 24 - 1).await;
    assert_eq!(stage.inbox.prune(&stage.watcher, 10).await.unwrap(), 0);
    assert_eq!(take(&stage.inbox, &stage.watcher, "x", 1).await.unwrap(), Accepted::Seen);
}

#[tokio::test]
async fn accepting_prunes_by_itself_and_the_table_stays_small() {
    const PER_ROUND: u32 = 4_000;
    let stage = Stage::set().await;
    let mut sizes = Vec::new();
    for round in 0..12 {
        let accept = "SELECT count(*) FILTER (WHERE dapper_inbox.accept(gen_random_uuid() || '/0', 'i', 1))
                        FROM generate_series(1, 100)";
        for _ in 0..PER_ROUND / 100 {
            let _ = stage.watcher.query_one(accept, &[]).await.unwrap();
        }
        // By its physical order, as it would age, without making new versions of rows.
        run(&stage.watcher, "UPDATE dapper_inbox.settings SET retention = interval '1 hour'").await;
        if round >= 2 {
            let size = "SELECT pg_total_relation_size('dapper_inbox.events')";
            sizes.push(stage.watcher.query_one(size, &[]).await.unwrap().get::<_, i64>(0));
        }
        age(&stage, 1).await;
        run(&stage.watcher, "VACUUM dapper_inbox.events").await;
    }
    // Never more than a few rounds' worth, of the twelve that were accepted.
    assert!(count(&stage).await < i64::from(PER_ROUND) * 5, "{}", count(&stage).await);
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    assert!(last < first * 3, "{sizes:?}");
}

#[tokio::test]
async fn pruning_waits_for_nobody_and_nobody_is_made_to_fail() {
    let stage = Stage::set().await;
    for number in 0..4 {
        let _ = take(&stage.inbox, &stage.watcher, &event_id(number), 1).await.unwrap();
    }
    age(&stage, 8 * 24).await;
    // One has pruned half and has not committed; another prunes the rest meanwhile.
    let first = stage.session().await;
    run(&first, "BEGIN").await;
    assert_eq!(stage.inbox.prune(&first, 2).await.unwrap(), 2);
    let reader = stage.session().await;
    run(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM dapper_inbox.events").await;
    assert_eq!(stage.inbox.prune(&stage.watcher, 10).await.unwrap(), 2);
    run(&first, "COMMIT").await;
    let _ = take(&stage.inbox, &reader, "new", 1).await.unwrap();
    run(&reader, "COMMIT").await;
    assert_eq!(count(&stage).await, 1);
}

#[tokio::test]
async fn the_longest_retention_that_anybody_asked_for_counts() {
    let mut stage = Stage::set().await;
    let retention = "SELECT extract(epoch FROM retention)::float8 / 3600 FROM dapper_inbox.settings";
    for (hours, expected) in [(1, 168.0), (200, 200.0), (24, 200.0)] {
        let retention_asked = Some(Duration::from_secs(hours * 3600));
        let options = InboxOptions { retention: retention_asked, ..InboxOptions::default() };
        Inbox::new(options).unwrap().install(&mut stage.watcher).await.unwrap();
        assert_eq!(stage.watcher.query_one(retention, &[]).await.unwrap().get::<_, f64>(0), expected);
    }
    let event = Incoming::new("x", INPUT);
    assert_eq!(stage.inbox.accept_in(&stage.watcher, &event).await.unwrap(), Accepted::New);
}
