//! One request to a webhook input: what is wrong with it, or the event that it is.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::{Event, Operation, RawJson};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH};
use hyper::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::timeout;

use crate::input_settings::{Guard, InputSettings};
use crate::signature;

/// How long the whole of a body may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long an id may be that a sender gives.
const MOST_ID_BYTES: usize = 200;

/// A status that is not 2xx, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// What can be said of a request before its body is there.
pub(crate) fn operation(settings: &InputSettings, request: &Request<Incoming>) -> Result<Operation, Refusal> {
    if request.uri().path() != settings.path {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path"));
    }
    let operation = match *request.method() {
        Method::POST => Some(Operation::Create),
        Method::PUT | Method::PATCH => Some(Operation::Update),
        Method::DELETE => Some(Operation::Delete),
        _ => None,
    };
    let operation = operation.filter(|operation| settings.operations.contains(operation));
    let operation = operation
        .ok_or_else(|| Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this method makes no event here"))?;
    if let Guard::Token(token) = &settings.guard {
        let given = text(request.headers(), AUTHORIZATION.as_str());
        let given = given.and_then(|given| given.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if !given.is_some_and(|(_, given)| token.is(given.trim())) {
            let reason = "the header authorization must hold Bearer and the right token";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, reason));
        }
    }
    let declared = text(request.headers(), CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|declared| declared > settings.max_body_bytes as u64) {
        return Err(too_large(settings));
    }
    Ok(operation)
}

/// Reads the body and makes the event of it.
pub(crate) async fn event(
    settings: &InputSettings,
    input: &str,
    operation: Operation,
    request: Request<Incoming>,
) -> Result<Event, Refusal> {
    let (head, body) = request.into_parts();
    let body = timeout(BODY_LIMIT, read(settings, body)).await.unwrap_or_else(|_| {
        let reason = format!("the body did not arrive within {} s", BODY_LIMIT.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
    })?;
    if let Guard::Secrets(secrets) = &settings.guard {
        let headers = [signature::ID, signature::TIMESTAMP, signature::SIGNATURE];
        let headers = headers.map(|name| text(&head.headers, name));
        secrets
            .verify(headers, &body, Timestamp::now())
            .map_err(|error| Refusal::new(StatusCode::UNAUTHORIZED, error.to_string()))?;
    }
    let bad = |reason: &str| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let body = String::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    if !body.trim_start().starts_with('{') {
        return Err(bad("the body must be a JSON object"));
    }
    let id = id_of(&body).map_err(|place| bad(&format!("the body is not valid JSON, {place}")))?;
    let body = RawJson::parse(body).map_err(|_| bad("the body is not valid JSON"))?;
    let given = match &settings.guard {
        Guard::Secrets(_) => text(&head.headers, signature::ID),
        Guard::Token(_) => {
            text(&head.headers, "idempotency-key").or_else(|| text(&head.headers, signature::ID))
        }
    };
    let name = match given {
        Some(given) if (1..=MOST_ID_BYTES).contains(&given.len()) => given.to_owned(),
        Some(_) => return Err(bad("the id of the request must have 1 to 200 characters")),
        None => random().ok_or_else(|| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the system has no random numbers")
        })?,
    };
    let location = settings.path.trim_start_matches('/');
    let (id, key) = match id {
        Some((id, json)) => (id, RawJson::parse(format!("{{\"id\":{json}}}")).ok()),
        None => (name.clone(), None),
    };
    let mut event = Event::new(location, operation, id, input);
    event.event_id = Some(format!("{input}/{name}"));
    event.key = key;
    event.new = Some(body);
    event.traceparent = text(&head.headers, "traceparent").map(str::to_owned);
    Ok(event)
}

fn too_large(settings: &InputSettings) -> Refusal {
    let reason = format!("the body has more than {} bytes", settings.max_body_bytes);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

async fn read(
    settings: &InputSettings,
    mut body: impl Body<Data = hyper::body::Bytes> + Unpin,
) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body is cut off or malformed"))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > settings.max_body_bytes {
                return Err(too_large(settings));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// The value of a header that is there once and is text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The object's `id` as text and as JSON, where it is a text or a number; else where the object is wrong.
fn id_of(body: &str) -> Result<Option<(String, String)>, String> {
    #[derive(serde::Deserialize)]
    struct WithId<'b> {
        #[serde(borrow, default)]
        id: Option<&'b serde_json::value::RawValue>,
    }
    let object: WithId<'_> = serde_json::from_str(body)
        .map_err(|error| format!("line {} column {}", error.line(), error.column()))?;
    let Some(id) = object.id.map(serde_json::value::RawValue::get) else { return Ok(None) };
    Ok(match serde_json::from_str::<String>(id) {
        Ok(text) => Some((text, id.to_owned())),
        Err(_) if id.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            Some((id.to_owned(), id.to_owned()))
        }
        Err(_) => None,
    })
}

/// A name for a request that has none.
fn random() -> Option<String> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a sender is told.
pub(crate) fn answer(outcome: &Result<Arc<str>, Refusal>) -> (StatusCode, String) {
    match outcome {
        Ok(event_id) => (StatusCode::ACCEPTED, serde_json::json!({ "event_id": **event_id }).to_string()),
        Err(Refusal { status, reason }) => (*status, serde_json::json!({ "error": reason }).to_string()),
    }
}
