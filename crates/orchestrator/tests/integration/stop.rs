//! The graceful stop, and the less graceful.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{event, events, failure, fed, input, process, recorder, soon, start, success};
use dapper_orchestrator::{Orchestrator, RunError};
use tokio::sync::mpsc;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_finished_in_order() {
    let (input, mut feed) = fed("in");
    let (sender, mut begun) = mpsc::unbounded_channel();
    let slow = process("p", move |event| {
        sender.send(event.id).unwrap();
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            success()
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(slow)
        .add_link("in", "p")
        .concurrency(2)
        .build()
        .unwrap();
    let running = start(orchestrator);
    feed.send(events(&["a", "a", "b", "c"]));
    soon(begun.recv()).await.unwrap();
    running.begin_stop();
    feed.send(events(&["too late"]));
    running.stop().await.unwrap();
    assert_eq!(feed.settled().await, Some((4, true)));
    assert!(feed.settled().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn past_the_deadline_the_rest_is_abandoned() {
    let (input, mut feed) = fed("in");
    let (sender, mut begun) = mpsc::unbounded_channel();
    let stuck = process("p", move |event| {
        sender.send(event.id.clone()).unwrap();
        async move { if event.id == "stuck" { pending().await } else { success() } }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(stuck)
        .add_link("in", "p")
        .concurrency(1)
        .drain_deadline(Duration::from_secs(3))
        .build()
        .unwrap();
    let running = start(orchestrator);
    feed.send(events(&["a", "stuck", "b", "c"]));
    while soon(begun.recv()).await.unwrap() != "stuck" {}
    let stopped = Instant::now();
    running.stop().await.unwrap();
    assert_eq!(stopped.elapsed().as_secs(), 3);
    assert_eq!(feed.settled().await, Some((1, false)));
    assert!(soon(begun.recv()).await.is_none(), "nothing was begun after the deadline");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_retry_is_given_up_and_nothing_of_its_key_overtakes_it() {
    let (input, mut feed) = fed("in");
    let (sender, mut begun) = mpsc::unbounded_channel();
    let calls = AtomicUsize::new(0);
    let fails = process("p", move |event| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        sender.send((event.id.clone(), event.attempt)).unwrap();
        async move {
            // The one that is under way when the stop comes ends after it, and fails as well.
            if call == 1 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            failure("never")
        }
    });
    let orchestrator =
        Orchestrator::builder().add_input(input).add_process(fails).add_link("in", "p").build().unwrap();
    let running = start(orchestrator);
    feed.send(events(&["waits", "late", "waits", "late"]));
    soon(begun.recv()).await.unwrap();
    soon(begun.recv()).await.unwrap();
    let stopped = Instant::now();
    running.stop().await.unwrap();
    assert_eq!(stopped.elapsed().as_secs(), 1, "not as long as the deadline");
    assert_eq!(feed.settled().await, Some((0, false)));
    let others: Vec<_> = std::iter::from_fn(|| begun.try_recv().ok()).collect();
    assert_eq!(others, [], "no second event of either key was begun");
}

#[tokio::test(start_paused = true)]
async fn an_input_that_does_not_stop_is_dropped_and_named() {
    let (sender, mut begun) = mpsc::unbounded_channel();
    let stubborn = input("stubborn", move |_, _sink, _stop| {
        sender.send(()).unwrap();
        pending()
    });
    let (good, _feed) = fed("good");
    let orchestrator = Orchestrator::builder()
        .add_input(stubborn)
        .add_input(good)
        .add_process(recorder("p").0)
        .add_link("stubborn", "p")
        .add_link("good", "p")
        .build()
        .unwrap();
    let running = start(orchestrator);
    soon(begun.recv()).await.unwrap();
    let stopped = Instant::now();
    let RunError::InputsDropped { inputs } = running.stop().await.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(inputs, ["stubborn"]);
    assert_eq!(stopped.elapsed().as_secs(), 15, "deadline and grace");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_run_stops_everything() {
    let (input, feed) = fed("in");
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let (sender, mut begun) = mpsc::unbounded_channel();
    let stuck = process("p", move |_| {
        let held = Arc::clone(&held);
        sender.send(()).unwrap();
        async move {
            let _held = held;
            pending().await
        }
    });
    let orchestrator =
        Orchestrator::builder().add_input(input).add_process(stuck).add_link("in", "p").build().unwrap();
    let mut run = Box::pin(orchestrator.run(dapper_core::CancellationToken::new()));
    feed.send(vec![event("a")]);
    tokio::select! {
        _ = &mut run => panic!("it ran to its end"),
        _ = begun.recv() => {}
    }
    drop(run);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&alive), 1);
}
