//! What happens to events that fail.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{event, events, failure, fed, process, soon, start, success};
use dapper_core::{Delivery, ProcessError, Validity};
use dapper_orchestrator::{FailureCause, Orchestrator, OrchestratorError, RetryPolicy};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

type Log = Arc<Mutex<Vec<(String, Option<u32>)>>>;

/// A process that notes id and attempt, and fails on id `bad` while the switch is on.
fn failing(log: &Log, broken: &Arc<AtomicBool>) -> Arc<dyn dapper_core::Process> {
    let (log, broken) = (Arc::clone(log), Arc::clone(broken));
    process("p", move |event| {
        log.lock().unwrap().push((event.id.clone(), event.attempt));
        let fails = event.id == "bad" && broken.load(Ordering::SeqCst);
        async move { if fails { failure("503 Service Unavailable") } else { success() } }
    })
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_and_resumes_in_order_while_others_go_on() {
    let (input, mut feed) = fed("in");
    let (log, broken) = (Log::default(), Arc::new(AtomicBool::new(true)));
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(failing(&log, &broken))
        .add_link("in", "p")
        .concurrency(1)
        .build()
        .unwrap();
    let mut running = start(orchestrator);
    let mut second = event("bad");
    second.attempt = Some(3);
    feed.send(vec![event("bad"), second]);
    for n in 0..100 {
        feed.send(vec![event(&n.to_string())]);
        assert_eq!(feed.settled().await, Some((1, true)));
    }
    let begun = Instant::now();
    let mut last = 0;
    while begun.elapsed() < Duration::from_secs(1800) {
        match soon(running.errors.recv()).await.unwrap() {
            OrchestratorError::ProcessFailed { process, location, id, attempt, logs, source, .. } => {
                assert_eq!((process.as_str(), location.as_str(), id.as_str()), ("p", "t", "bad"));
                assert_eq!(attempt, last + 1, "the attempt grows by one");
                assert_eq!(logs, ["503 Service Unavailable"]);
                assert!(matches!(source, FailureCause::Status));
                last = attempt;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(last > 10 && last < 35, "{last} attempts in half an hour");
    broken.store(false, Ordering::SeqCst);
    assert_eq!(feed.settled().await, Some((2, true)));
    running.stop().await.unwrap();
    let log = log.lock().unwrap();
    let bad: Vec<Option<u32>> = log.iter().filter(|seen| seen.0 == "bad").map(|seen| seen.1).collect();
    assert_eq!(bad[..3], [None, Some(2), Some(3)]);
    assert_eq!(bad[bad.len() - 2..], [Some(last + 1), Some(3)], "the one behind it came last, as it was");
}

#[tokio::test(start_paused = true)]
async fn the_attempt_grows_from_what_the_input_said() {
    let (input, mut feed) = fed("in");
    let (sender, mut seen) = mpsc::unbounded_channel();
    let flaky = process("p", move |event| {
        sender.send(event.attempt).unwrap();
        async move { if event.attempt < Some(9) { failure("not yet") } else { success() } }
    });
    let orchestrator =
        Orchestrator::builder().add_input(input).add_process(flaky).add_link("in", "p").build().unwrap();
    let running = start(orchestrator);
    let mut repeated = event("a");
    repeated.attempt = Some(7);
    feed.send(vec![repeated]);
    assert_eq!(feed.settled().await, Some((1, true)));
    for attempt in 7..=9 {
        assert_eq!(soon(seen.recv()).await, Some(Some(attempt)));
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panics_and_errors_are_failures_and_the_workers_live_on() {
    let (input, mut feed) = fed("in");
    let calls = Arc::new(AtomicU32::new(0));
    let moody = process("p", {
        let calls = Arc::clone(&calls);
        move |_| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            // The first call panics before it gives a future at all.
            assert!(call != 0, "before the future");
            async move {
                assert!(call != 1, "inside the future");
                if call == 2 {
                    let source = std::io::Error::other("connection refused");
                    return Err(ProcessError::Failed { process: "p".into(), source: source.into() });
                }
                success()
            }
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(moody)
        .add_link("in", "p")
        .concurrency(1)
        .build()
        .unwrap();
    let mut running = start(orchestrator);
    feed.send(events(&["a"]));
    assert_eq!(feed.settled().await, Some((1, true)));
    let mut causes = Vec::new();
    for _ in 0..3 {
        match soon(running.errors.recv()).await.unwrap() {
            OrchestratorError::ProcessFailed { source, .. } => causes.push(source.to_string()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        causes,
        ["it panicked: before the future", "it panicked: inside the future", r#"process "p""#]
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_bounds_the_delays() {
    let (input, mut feed) = fed("in");
    let policy = RetryPolicy {
        min_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(8),
        max_attempts: Some(2),
        ..RetryPolicy::default()
    };
    let begun = Instant::now();
    let slow_start = process("p", move |_| async move {
        if begun.elapsed() < Duration::from_secs(60) { failure("not yet") } else { success() }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process_with(slow_start, policy)
        .add_link("in", "p")
        .build()
        .unwrap();
    let mut running = start(orchestrator);
    feed.send(events(&["a"]));
    assert_eq!(feed.settled().await, Some((1, true)));
    assert!(begun.elapsed() < Duration::from_secs(60 + 8 + 1));
    let mut exhausted = Vec::new();
    while let Ok(error) = running.errors.try_recv() {
        match error {
            OrchestratorError::ProcessFailed { exhausted: now, .. } => exhausted.push(now),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(exhausted[..3], [false, true, true]);
    assert!(exhausted.len() <= 60 / 4 + 3, "at the longest delay from the second on: {}", exhausted.len());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_no_longer_valid_is_given_up_soon() {
    struct Switch(AtomicBool);
    impl Validity for Switch {
        fn is_valid(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }
    let (input, mut feed) = fed("in");
    let (log, broken) = (Log::default(), Arc::new(AtomicBool::new(true)));
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(failing(&log, &broken))
        .add_link("in", "p")
        .build()
        .unwrap();
    let running = start(orchestrator);
    let switch = Arc::new(Switch(AtomicBool::new(true)));
    feed.deliver(Delivery::with_validity(events(&["bad", "bad"]), Arc::clone(&switch) as Arc<dyn Validity>));
    assert!(timeout(Duration::from_secs(1000), feed.settled()).await.is_err());
    let attempts = log.lock().unwrap().len();
    switch.0.store(false, Ordering::SeqCst);
    let settled = timeout(Duration::from_millis(1100), feed.settled()).await;
    assert_eq!(settled.unwrap(), Some((0, false)));
    assert_eq!(log.lock().unwrap().len(), attempts, "not handed off again");
    running.stop().await.unwrap();
}
