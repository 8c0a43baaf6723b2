//! Servers to call, and processes that call them.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
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
}

type Answer = fn(&Received) -> Response;

impl Server {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, received) = mpsc::unbounded_channel();
        let router = Router::new().fallback(handle).with_state((sender, answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, received }
    }
}

async fn handle(
    State((sender, answer)): State<(mpsc::UnboundedSender<Received>, Answer)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let received = Received { method, uri, headers, body: String::from_utf8(body.to_vec()).unwrap() };
    let response = answer(&received);
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
