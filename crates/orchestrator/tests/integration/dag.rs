//! The way of events through the graph, and when they count as handled.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{event, events, failure, fed, process, recorder, soon, start, success};
use dapper_orchestrator::Orchestrator;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// The ancestor's test of its graph, by meaning: a dummy input, a dummy process, a link, an event that arrives.
#[tokio::test(start_paused = true)]
async fn an_event_goes_from_an_input_to_a_process() {
    let (input, mut feed) = fed("in");
    let (process, mut seen) = recorder("out");
    let orchestrator =
        Orchestrator::builder().add_input(input).add_process(process).add_link("in", "out").build().unwrap();
    let running = start(orchestrator);
    feed.send(vec![event("an-id")]);
    assert_eq!(soon(seen.recv()).await.unwrap(), event("an-id"));
    assert_eq!(feed.settled().await, Some((1, true)));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn processes_in_a_chain_see_an_event_one_after_the_other() {
    let (input, mut feed) = fed("in");
    let (sender, mut seen) = mpsc::unbounded_channel();
    let stage = |id: &'static str| {
        let sender = sender.clone();
        process(id, move |event| {
            let sender = sender.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                sender.send((id, event.id)).unwrap();
                success()
            }
        })
    };
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(stage("second"))
        .add_process(stage("first"))
        .add_process(stage("third"))
        .add_link("second", "third")
        .add_link("in", "first")
        .add_link("first", "second")
        .build()
        .unwrap();
    let running = start(orchestrator);
    feed.send(events(&["a", "a"]));
    assert_eq!(feed.settled().await, Some((2, true)));
    let mut order = Vec::new();
    while let Ok((stage, _)) = seen.try_recv() {
        order.push(stage);
    }
    assert_eq!(order.len(), 6);
    for stage in ["first", "second", "third"] {
        assert_eq!(order.iter().filter(|seen| **seen == stage).count(), 2);
    }
    assert_eq!((order[0], order[5]), ("first", "third"));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_is_acknowledged_only_after_all_branches_and_joins_once() {
    let (input, mut feed) = fed("in");
    let (fast, mut fast_seen) = recorder("fast");
    let (joined, mut joined_seen) = recorder("joined");
    let gate = Arc::new(Semaphore::new(0));
    let slow = process("slow", {
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                success()
            }
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(fast)
        .add_process(slow)
        .add_process(joined)
        .add_link("in", "fast")
        .add_link("in", "slow")
        .add_link("in", "joined")
        .add_link("fast", "joined")
        .add_link("slow", "joined")
        .build()
        .unwrap();
    let running = start(orchestrator);
    feed.send(events(&["a", "b"]));
    soon(fast_seen.recv()).await.unwrap();
    soon(fast_seen.recv()).await.unwrap();
    tokio::task::yield_now().await;
    assert!(feed.settled_now().is_none() && joined_seen.try_recv().is_err());
    gate.add_permits(1);
    soon(joined_seen.recv()).await.unwrap();
    assert!(feed.settled_now().is_none(), "the other event is still in the slow branch");
    gate.add_permits(1);
    soon(joined_seen.recv()).await.unwrap();
    assert_eq!(feed.settled().await, Some((2, true)));
    assert!(joined_seen.try_recv().is_err(), "each event once");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_fails_keeps_the_event_unacknowledged_and_what_is_behind_it_unrun() {
    let (input, mut feed) = fed("in");
    let (fine, mut fine_seen) = recorder("fine");
    let (behind, mut behind_seen) = recorder("behind");
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(fine)
        .add_process(process("broken", async |_| failure("never")))
        .add_process(behind)
        .add_link("in", "fine")
        .add_link("in", "broken")
        .add_link("broken", "behind")
        .build()
        .unwrap();
    let running = start(orchestrator);
    feed.send(events(&["a"]));
    assert_eq!(soon(fine_seen.recv()).await.unwrap().id, "a");
    let settled = timeout(Duration::from_secs(3000), feed.settled()).await;
    assert!(settled.is_err() && behind_seen.try_recv().is_err() && fine_seen.try_recv().is_err());
    running.stop().await.unwrap();
    assert_eq!(feed.settled().await, Some((0, false)));
}
