//! Order per key, and the limit on what runs at the same time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{event, events, fed, process, recorder, soon, start, success};
use dapper_core::{Delivery, Validity};
use dapper_orchestrator::Orchestrator;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const KEYS: usize = 20;

/// Runs 2,000 events of 20 keys through slow processes; checks order per key and returns the most at a time.
async fn run_many(concurrency: usize) -> usize {
    let (input, mut feed) = fed("in");
    let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let seen: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
    let slow = process("slow", {
        let (at_once, seen) = (Arc::clone(&at_once), Arc::clone(&seen));
        move |event| {
            let (at_once, seen) = (Arc::clone(&at_once), Arc::clone(&seen));
            async move {
                let now = at_once.0.fetch_add(1, Ordering::SeqCst) + 1;
                at_once.1.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..5000))).await;
                seen.lock().unwrap().entry(event.id).or_default().push(event.event_id.unwrap());
                at_once.0.fetch_sub(1, Ordering::SeqCst);
                success()
            }
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(slow)
        .add_link("in", "slow")
        .concurrency(concurrency)
        .build()
        .unwrap();
    let running = start(orchestrator);
    for batch in 0..20 {
        feed.send(
            (batch * 100..(batch + 1) * 100)
                .map(|n| {
                    let mut event = event(&fastrand::usize(0..KEYS).to_string());
                    event.event_id = Some(format!("{n:06}"));
                    event
                })
                .collect(),
        );
    }
    for _ in 0..20 {
        assert_eq!(feed.settled().await, Some((100, true)));
    }
    running.stop().await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 2000);
    for (key, order) in seen.iter() {
        assert!(order.is_sorted(), "key {key}: {order:?}");
    }
    at_once.1.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn each_key_in_order_under_the_limit() {
    assert_eq!(run_many(5).await, 5);
    assert_eq!(run_many(1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_at_a_time_than_there_are_keys() {
    assert!(run_many(64).await <= KEYS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_key_in_order_on_several_threads() {
    let most = timeout(Duration::from_secs(60), run_many(8)).await.expect("it takes a second");
    assert!(most <= 8);
}

#[tokio::test(start_paused = true)]
async fn one_key_of_two_inputs_is_two_keys() {
    let (one, one_feed) = fed("one");
    let (two, mut two_feed) = fed("two");
    let gate = Arc::new(Semaphore::new(0));
    let held = process("held", {
        let gate = Arc::clone(&gate);
        move |event| {
            let gate = Arc::clone(&gate);
            async move {
                if event.location.as_ref() == "one" {
                    gate.acquire().await.unwrap().forget();
                }
                success()
            }
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(one)
        .add_input(two)
        .add_process(held)
        .add_link("one", "held")
        .add_link("two", "held")
        .build()
        .unwrap();
    let running = start(orchestrator);
    let mut blocked = event("1");
    blocked.location = "one".into();
    one_feed.send(vec![blocked]);
    two_feed.send(events(&["1"]));
    assert_eq!(two_feed.settled().await, Some((1, true)));
    gate.add_permits(1);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_input_far_ahead_waits_for_room() {
    let (input, mut feed) = fed("in");
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(AtomicUsize::new(0));
    let slow = process("slow", {
        let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
        move |_| {
            let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
            async move {
                entered.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                success()
            }
        }
    });
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(slow)
        .add_link("in", "slow")
        .concurrency(100)
        .most_outstanding(10)
        .build()
        .unwrap();
    let running = start(orchestrator);
    for batch in 0..10 {
        feed.send((0..5).map(|n| event(&format!("{batch}-{n}"))).collect());
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(entered.load(Ordering::SeqCst), 10, "two deliveries fill the room");
    gate.add_permits(50);
    for _ in 0..10 {
        assert_eq!(feed.settled().await, Some((5, true)));
    }
    running.stop().await.unwrap();
}

struct Switch(AtomicBool);

impl Validity for Switch {
    fn is_valid(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_are_no_longer_valid_are_not_handed_off() {
    let (input, mut feed) = fed("in");
    let switch = Arc::new(Switch(AtomicBool::new(true)));
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let held = process("held", {
        let gate = Arc::clone(&gate);
        move |event| {
            let (gate, sender) = (Arc::clone(&gate), sender.clone());
            async move {
                sender.send(event.id).unwrap();
                gate.acquire().await.unwrap().forget();
                success()
            }
        }
    });
    let (after, mut after_seen) = recorder("after");
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(held)
        .add_process(after)
        .add_link("in", "held")
        .add_link("held", "after")
        .build()
        .unwrap();
    let running = start(orchestrator);
    feed.deliver(Delivery::with_validity(events(&["a", "a", "a"]), Arc::clone(&switch) as Arc<dyn Validity>));
    assert_eq!(soon(seen.recv()).await.unwrap(), "a");
    switch.0.store(false, Ordering::SeqCst);
    gate.add_permits(1);
    assert_eq!(feed.settled().await, Some((0, false)));
    assert!(seen.try_recv().is_err() && after_seen.try_recv().is_err());
    gate.add_permits(1);
    feed.send(events(&["a"]));
    assert_eq!(feed.settled().await, Some((1, true)), "the key is free for a valid delivery");
    running.stop().await.unwrap();
}
