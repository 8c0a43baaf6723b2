//! Inputs that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{event, events, failure, idle, input, process, recorder, soon, start, success};
use dapper_core::{Delivery, ErrorKind, InputError};
use dapper_orchestrator::{Orchestrator, OrchestratorError};
use tokio::time::Instant;

fn failed(kind: ErrorKind) -> InputError {
    InputError::Failed { input: "in".into(), kind, source: std::io::Error::other("connection lost").into() }
}

#[tokio::test(start_paused = true)]
async fn an_input_that_fails_ends_or_panics_is_started_again() {
    let flaky = input("in", async |run, sink, stop| match run {
        1 => Err(failed(ErrorKind::Transient)),
        2 => Ok(()),
        3 => panic!("out of cheese"),
        _ => {
            sink.send_events(vec![event("a")]).await.unwrap().await;
            stop.cancelled().await;
            Ok(())
        }
    });
    let (out, mut seen) = recorder("out");
    let orchestrator =
        Orchestrator::builder().add_input(flaky).add_process(out).add_link("in", "out").build().unwrap();
    let mut running = start(orchestrator);
    assert_eq!(soon(seen.recv()).await.unwrap().id, "a");
    let most =
        |delay: Option<Duration>, ms| assert!(delay.unwrap() <= Duration::from_millis(ms), "{delay:?}");
    match soon(running.errors.recv()).await.unwrap() {
        OrchestratorError::InputFailed { restart_in, source, .. } => {
            most(restart_in, 250);
            assert_eq!(source.kind(), ErrorKind::Transient);
        }
        other => panic!("{other:?}"),
    }
    match soon(running.errors.recv()).await.unwrap() {
        OrchestratorError::InputEnded { restart_in, .. } => most(restart_in, 500),
        other => panic!("{other:?}"),
    }
    match soon(running.errors.recv()).await.unwrap() {
        OrchestratorError::InputPanicked { restart_in, message, .. } => {
            most(restart_in, 1000);
            assert_eq!(message, "out of cheese");
        }
        other => panic!("{other:?}"),
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_tried_again_seldom_and_a_good_minute_counts() {
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let bad = input("in", {
        let starts = Arc::clone(&starts);
        move |run, _, stop| {
            starts.lock().unwrap().push(Instant::now());
            async move {
                match run {
                    1 => Err(failed(ErrorKind::Permanent)),
                    2..=9 => Err(failed(ErrorKind::Transient)),
                    10 => {
                        tokio::time::sleep(Duration::from_secs(61)).await;
                        Err(failed(ErrorKind::Transient))
                    }
                    _ => {
                        stop.cancelled().await;
                        Ok(())
                    }
                }
            }
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(bad)
        .add_process(recorder("out").0)
        .add_link("in", "out")
        .build()
        .unwrap();
    let mut running = start(orchestrator);
    let mut delays = Vec::new();
    for _ in 0..10 {
        match soon(running.errors.recv()).await.unwrap() {
            OrchestratorError::InputFailed { restart_in, .. } => {
                delays.push(restart_in.unwrap().as_secs_f64());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((15.0..=30.0).contains(&delays[0]), "permanent: {delays:?}");
    assert!(delays[1] <= 0.25 && (15.0..=30.0).contains(&delays[8]), "{delays:?}");
    assert!(delays[9] <= 0.25, "after a good minute from the start again: {delays:?}");
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn complaints_are_passed_on_and_end_nothing() {
    let complaining = input("in", async |_, sink, stop| {
        sink.report(failed(ErrorKind::Garbage));
        sink.send_events(vec![event("a")]).await.unwrap().await;
        stop.cancelled().await;
        Ok(())
    });
    let (out, mut seen) = recorder("out");
    let orchestrator = Orchestrator::builder()
        .add_input(complaining)
        .add_input(idle("other"))
        .add_process(out)
        .add_link("in", "out")
        .add_link("other", "out")
        .build()
        .unwrap();
    let mut running = start(orchestrator);
    soon(seen.recv()).await.unwrap();
    match soon(running.errors.recv()).await.unwrap() {
        OrchestratorError::InputReported { input, source } => {
            assert_eq!((input.as_str(), source.kind()), ("in", ErrorKind::Garbage));
        }
        other => panic!("{other:?}"),
    }
    running.stop().await.unwrap();
}

/// What an input sent before it failed is not run after it has failed, when the same comes again.
#[tokio::test(start_paused = true)]
async fn events_of_a_run_that_ended_are_abandoned_and_free_their_key_at_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let first_fails = process("p", {
        let (calls, seen) = (Arc::clone(&calls), Arc::clone(&seen));
        move |event| {
            seen.lock().unwrap().push(event.event_id);
            let call = calls.fetch_add(1, Ordering::SeqCst);
            async move { if call == 0 { failure("once") } else { success() } }
        }
    });
    let (told, mut settled) = tokio::sync::mpsc::unbounded_channel();
    let calls_seen = Arc::clone(&calls);
    let failing = input("in", move |run, sink, stop| {
        let (told, calls) = (told.clone(), Arc::clone(&calls_seen));
        async move {
            let mut batch = events(&["a", "a"]);
            for (n, event) in batch.iter_mut().enumerate() {
                event.event_id = Some(format!("{run}/{n}"));
            }
            let (delivery, mut receipt) = Delivery::new(batch);
            sink.send(delivery).await.unwrap();
            if run == 1 {
                while calls.load(Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
                // The first event now waits for its retry.
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Err(failed(ErrorKind::Transient));
            }
            (&mut receipt).await;
            told.send(receipt.is_handled()).unwrap();
            stop.cancelled().await;
            Ok(())
        }
    });
    let policy =
        dapper_orchestrator::RetryPolicy { min_backoff: Duration::from_secs(300), ..Default::default() };
    let orchestrator = Orchestrator::builder()
        .add_input(failing)
        .add_process_with(first_fails, policy)
        .add_link("in", "p")
        .build()
        .unwrap();
    let begun = Instant::now();
    let running = start(orchestrator);
    assert_eq!(soon(settled.recv()).await, Some(true));
    assert!(begun.elapsed() < Duration::from_secs(1));
    let expected = ["1/0", "2/0", "2/1"].map(|id| Some(id.to_owned()));
    assert_eq!(*seen.lock().unwrap(), expected);
    running.stop().await.unwrap();
}
