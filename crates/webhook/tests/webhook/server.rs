//! Servers to call, and processes that call them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use dapper_core::{Event, Operation, ProcessConfig};
use dapper_webhook::WebhookProcess;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A request as the server got it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A server that gives one answer to everything.
pub(crate) struct Server {
    /// Host and port.
    pub(crate) address: String,
    pub(crate) received: mpsc::UnboundedReceiver<Received>,
    /// How many requests are there, and how many there were at most.
    at_once: Arc<[AtomicUsize; 2]>,
}

type Answer = fn(&Received) -> Response;

#[derive(Clone)]
struct Manner {
    sender: mpsc::UnboundedSender<Received>,
    answer: Answer,
    delay: Duration,
    at_once: Arc<[AtomicUsize; 2]>,
}

impl Server {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::start_with(answer, Duration::ZERO).await
    }

    /// One that takes its time for every answer, which is good.
    pub(crate) async fn slow(delay: Duration) -> Self {
        Self::start_with(|_| StatusCode::OK.into_response(), delay).await
    }

    /// How many requests were there at the same time, at most, since the last time this was asked.
    pub(crate) fn most_at_once(&self) -> usize {
        self.at_once[1].swap(0, Ordering::SeqCst)
    }

    async fn start_with(answer: Answer, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, received) = mpsc::unbounded_channel();
        let at_once = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let manner = Manner { sender, answer, delay, at_once: Arc::clone(&at_once) };
        let router = Router::new().fallback(handle).layer(DefaultBodyLimit::max(16 << 20)).with_state(manner);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, received, at_once }
    }
}

async fn handle(
    State(Manner { sender, answer, delay, at_once }): State<Manner>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let received = Received { method, uri, headers, body: String::from_utf8(body.to_vec()).unwrap() };
    let response = answer(&received);
    let now = at_once[0].fetch_add(1, Ordering::SeqCst) + 1;
    at_once[1].fetch_max(now, Ordering::SeqCst);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    at_once[0].fetch_sub(1, Ordering::SeqCst);
    // Nobody listens in a test that has seen enough.
    let _ = sender.send(received);
    response
}

pub(crate) fn config(context: &[(&str, &str)]) -> ProcessConfig {
    let execution_context = context.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    ProcessConfig { name: "hook".into(), kind: dapper_webhook::KIND.into(), execution_context }
}

pub(crate) fn process(context: &[(&str, &str)]) -> WebhookProcess {
    WebhookProcess::new(config(context)).unwrap()
}

pub(crate) fn event() -> Event {
    Event::new("orders", Operation::Delete, "42", "orders_input")
}

/// An error and all its causes, as a log would show them, and as a panic would.
pub(crate) fn whole_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    format!("{}\n{error:?}", causes.collect::<Vec<_>>().join(": "))
}
