//! What is answered to which request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::guard::{Guard, Refusal};
use crate::page;
use crate::source::{Action, Kind, SourceError};
use crate::watch::Watch;

/// How large the body of a request may be.
pub const MOST_BODY_BYTES: usize = 4 * 1024;
/// How long a request may take once its headers are there.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long the databases may take for a list of letters, or for an action.
const SOURCE_LIMIT: Duration = Duration::from_secs(5);
/// Requests that ask the databases for something at the same time; further ones are turned away.
const MOST_QUESTIONS: usize = 4;
/// Parked events, and dead letters, that are listed of each input.
const MOST_LETTERS: u32 = 50;

/// Nothing from anywhere else: no script, style, font, image, frame or form but our own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What requests share.
pub(crate) struct Shared {
    watch: Arc<Watch>,
    guard: Guard,
    questions: Semaphore,
}

impl Shared {
    pub(crate) fn new(watch: Arc<Watch>, guard: Guard) -> Self {
        Self { watch, guard, questions: Semaphore::new(MOST_QUESTIONS) }
    }
}

type Context = State<Arc<Shared>>;

/// What an action is to be done to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    input: String,
    number: i64,
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/history", get(history))
        .route("/letters", get(letters));
    for (path, kind, text) in page::FILES {
        let answer = move || async move { ([(CONTENT_TYPE, *kind)], *text) };
        router = router.route(path, get(answer));
    }
    for (path, action, kind) in [
        ("/dead-letters/retry", Action::Retry, Kind::Dead),
        ("/dead-letters/discard", Action::Discard, Kind::Dead),
        ("/parked/retry", Action::Retry, Kind::Parked),
    ] {
        let act = move |State(shared): Context, headers: HeaderMap, body: Bytes| async move {
            act(&shared, &headers, &body, action, kind).await
        };
        router = router.route(path, post(act));
    }
    router
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&shared), bounded))
        .with_state(shared)
}

/// Around every request: whom it is meant for, how long it may take, and what browsers are told of the answer.
async fn bounded(State(shared): Context, request: Request, next: Next) -> Response {
    let mut response = match shared.guard.host(request.headers(), request.uri()) {
        Err(refusal) => refused(refusal),
        Ok(()) => match timeout(REQUEST_LIMIT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => error(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
        },
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn live() -> Response {
    json_answer(StatusCode::OK, &json!({ "live": true }))
}

async fn ready(State(shared): Context) -> Response {
    let inputs = shared.watch.inputs();
    let reasons: Vec<String> = inputs
        .iter()
        .filter_map(|input| Some(format!("input {:?}: {}", input.id, input.reason.as_ref()?)))
        .collect();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let inputs: Vec<Value> = inputs
        .iter()
        .map(|input| json!({ "id": input.id, "role": input.role, "ready": input.ready, "reason": input.reason }))
        .collect();
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    json_answer(status, &json!({ "ready": reason.is_none(), "reason": reason, "inputs": inputs }))
}

async fn metrics(State(shared): Context) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, shared.watch.registry.render()).into_response()
}

async fn status(State(shared): Context) -> Response {
    let watch = &shared.watch;
    json_answer(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": watch.started.elapsed().as_secs(),
            "graph": watch.graph,
            "inputs": watch.inputs(),
            "processes": watch.processes(),
            "actions": shared.guard.has_actions(),
        }),
    )
}

async fn history(State(shared): Context) -> Response {
    json_answer(StatusCode::OK, &shared.watch.history())
}

async fn letters(State(shared): Context) -> Response {
    let Ok(_question) = shared.questions.try_acquire() else { return busy() };
    let mut inputs = Vec::new();
    for input in &shared.watch.graph.inputs {
        let asked = timeout(SOURCE_LIMIT, shared.watch.source.letters(input, MOST_LETTERS)).await;
        inputs.push(match asked {
            Ok(Ok((parked, dead))) => json!({ "id": input, "parked": parked, "dead_letters": dead }),
            Ok(Err(error)) => json!({ "id": input, "error": error.to_string() }),
            Err(_) => json!({ "id": input, "error": "its database did not answer in time" }),
        });
    }
    json_answer(StatusCode::OK, &json!({ "most": MOST_LETTERS, "inputs": inputs }))
}

async fn act(shared: &Shared, headers: &HeaderMap, body: &[u8], action: Action, kind: Kind) -> Response {
    if let Err(refusal) = shared.guard.action(headers) {
        return refused(refusal);
    }
    let Ok(Target { input, number }) = serde_json::from_slice(body) else {
        return error(
            StatusCode::BAD_REQUEST,
            "the body must be {\"input\": an input's id, \"number\": a number}",
        );
    };
    if !shared.watch.graph.inputs.contains(&input) {
        return error(StatusCode::NOT_FOUND, "there is no such input");
    }
    let Ok(_question) = shared.questions.try_acquire() else { return busy() };
    let done = timeout(SOURCE_LIMIT, shared.watch.source.act(action, kind, &input, number)).await;
    match done {
        Ok(Ok(0)) => error(StatusCode::NOT_FOUND, "it is not there any more"),
        Ok(Ok(count)) => {
            tracing::info!(input, number, ?action, "{kind}: asked for over HTTP, and done");
            json_answer(StatusCode::OK, &json!({ "done": count }))
        }
        Ok(Err(SourceError(text))) => error(StatusCode::SERVICE_UNAVAILABLE, &text),
        Err(_) => error(
            StatusCode::GATEWAY_TIMEOUT,
            "the database did not answer in time; it may be done all the same",
        ),
    }
}

fn refused(refusal: Refusal) -> Response {
    let (status, text) = match refusal {
        Refusal::Host => (
            StatusCode::FORBIDDEN,
            "this server is not known by that name; use its address, or name it with --http-host",
        ),
        Refusal::CrossSite => (StatusCode::FORBIDDEN, "actions come from this server's own page only"),
        Refusal::Token => (StatusCode::UNAUTHORIZED, "say the token as Authorization: Bearer ..."),
        Refusal::TooMany => {
            (StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens; try again in ten seconds")
        }
        Refusal::NoActions => {
            (StatusCode::NOT_FOUND, "there are no actions: this replica has no token for them")
        }
        Refusal::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"),
    };
    let mut response = error(status, text);
    match refusal {
        Refusal::Token => {
            response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        Refusal::TooMany => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        }
        _ => {}
    }
    response
}

fn busy() -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, "too many requests at the same time");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn error(status: StatusCode, text: &str) -> Response {
    json_answer(status, &json!({ "error": text }))
}

fn json_answer(status: StatusCode, value: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
