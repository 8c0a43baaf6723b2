//! Several events in one call.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use dapper_core::{Event, Operation, Process, ProcessStatus};
use dapper_webhook::WebhookProcess;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::Value;

use crate::server::{Received, Server, process};

fn event(number: usize) -> Event {
    let mut event = Event::new("orders", Operation::Create, number.to_string(), "orders_input");
    event.event_id = Some(format!("change/{number}"));
    event.attempt = Some(1);
    event.token = Some(7);
    event
}

fn batches(server: &Server, most: &str, linger: &str) -> WebhookProcess {
    process(&[("url", &format!("http://{}/hook", server.address)), ("batch", most), ("linger", linger)])
}

/// The ids of the events in a request, in order.
fn ids(received: &Received) -> Vec<String> {
    let body: Value = serde_json::from_str(&received.body).unwrap();
    let events = body.as_array().expect("a batch is an array");
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

async fn run_all(process: &WebhookProcess, events: &[Event]) -> Vec<ProcessStatus> {
    let runs = join_all(events.iter().map(|event| process.run(event))).await;
    runs.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn events_that_run_at_the_same_time_go_in_one_call() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = batches(&server, "3", "1s");
    let events: Vec<Event> = (0..5).map(event).collect();
    let statuses = run_all(&process, &events).await;
    assert_eq!(statuses, vec![ProcessStatus::success("hook"); 5]);
    let mut calls = [server.received.recv().await.unwrap(), server.received.recv().await.unwrap()];
    calls.sort_by_key(ids);
    assert_eq!(ids(&calls[0]), ["0", "1", "2"], "a full batch does not wait");
    assert_eq!(ids(&calls[1]), ["3", "4"]);
    let whole = format!("[{},{},{}]", events[0].to_json(), events[1].to_json(), events[2].to_json());
    assert_eq!(calls[0].body, whole);
    assert_eq!(
        (&calls[0].headers["dapper-attempt"], &calls[0].headers["dapper-token"]),
        (&"1".parse().unwrap(), &"7".parse().unwrap())
    );
    assert!(server.received.try_recv().is_err());
}

#[tokio::test]
async fn the_id_of_a_call_stands_for_its_events() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = batches(&server, "2", "1s");
    let mut keys = Vec::new();
    for numbers in [[0, 1], [1, 0], [0, 2]] {
        run_all(&process, &numbers.map(event)).await;
        keys.push(server.received.recv().await.unwrap().headers["idempotency-key"].clone());
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}

#[tokio::test]
async fn tokens_of_different_inputs_are_not_mixed() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = batches(&server, "2", "1s");
    let mut other = event(1);
    other.trigger = "other_input".into();
    run_all(&process, &[event(0), other]).await;
    assert!(!server.received.recv().await.unwrap().headers.contains_key("dapper-token"));
}

#[tokio::test]
async fn a_failed_batch_fails_all_of_it_and_each_event_then_goes_alone() {
    let mut server = Server::start(|received| {
        let is_poisoned = received.body.contains("change/1\"");
        if is_poisoned { StatusCode::BAD_REQUEST } else { StatusCode::OK }.into_response()
    })
    .await;
    let process = batches(&server, "3", "1s");
    let mut events: Vec<Event> = (0..3).map(event).collect();
    let url = format!("http://{}/hook", server.address);
    let log = format!("a call with 3 events failed: POST {url} answered 400 Bad Request");
    assert_eq!(run_all(&process, &events).await, vec![ProcessStatus::fail("hook", log); 3]);
    assert_eq!(ids(&server.received.recv().await.unwrap()), ["0", "1", "2"]);

    for event in &mut events {
        event.attempt = Some(2);
    }
    let statuses = run_all(&process, &events).await;
    let refused = ProcessStatus::fail("hook", format!("POST {url} answered 400 Bad Request"));
    assert_eq!(statuses, [ProcessStatus::success("hook"), refused, ProcessStatus::success("hook")]);
    for _ in 0..3 {
        let call = server.received.recv().await.unwrap();
        assert_eq!((ids(&call).len(), &call.headers["dapper-attempt"]), (1, &"2".parse().unwrap()));
    }
}

#[tokio::test]
async fn a_pause_is_passed_on_to_all_of_a_batch() {
    let server =
        Server::start(|_| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")]).into_response()).await;
    let process = batches(&server, "2", "1s");
    let events = [event(0), event(1)];
    for run in join_all(events.iter().map(|event| process.run(event))).await {
        let error = run.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        let said = crate::server::whole_chain(&error);
        assert!(said.contains("a call with 2 events failed: POST"), "{said}");
    }
}

#[tokio::test]
async fn what_is_dropped_before_the_call_does_not_go_and_holds_up_nothing() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = batches(&server, "9", "50ms");
    let (zero, one) = (event(0), event(1));
    let mut first = process.run(&zero);
    assert!((&mut first).now_or_never().is_none());
    let mut second = process.run(&one);
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    second.await.unwrap();
    assert_eq!(ids(&server.received.recv().await.unwrap()), ["1"]);

    let mut dropped = process.run(&zero);
    assert!((&mut dropped).now_or_never().is_none());
    drop(dropped);
    process.run(&one).await.unwrap();
    assert_eq!(ids(&server.received.recv().await.unwrap()), ["1"]);
    assert!(server.received.try_recv().is_err());
}

#[tokio::test]
async fn a_batch_stays_below_its_size() {
    let mut server = Server::start(|_| StatusCode::OK.into_response()).await;
    let process = batches(&server, "9", "100ms");
    let events: Vec<Event> = (0..3)
        .map(|number| {
            let mut event = event(number);
            event.id = number.to_string().repeat(600_000);
            event
        })
        .collect();
    run_all(&process, &events).await;
    for _ in 0..3 {
        assert_eq!(ids(&server.received.recv().await.unwrap()).len(), 1);
    }
}
