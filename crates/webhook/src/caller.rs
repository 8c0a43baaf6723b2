//! One HTTP request and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::Event;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, Url, redirect};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::WebhookError;
use crate::endpoint::Endpoint;
use crate::limits::{Limits, Turn};
use crate::settings::Settings;
use crate::signature::{self, Secrets};

/// How much of a refusing answer is read.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// How much of a refusing answer is logged.
const MAX_LOGGED_CHARS: usize = 200;

/// No longer pause is taken from an answer; the process's `max_backoff` may shorten it further.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many idle connections are kept.
const MAX_IDLE_CONNECTIONS: usize = 16;

const USER_AGENT: &str = concat!("dapper/", env!("CARGO_PKG_VERSION"));

/// Makes calls to one endpoint.
pub(crate) struct Caller {
    url: Url,
    method: Method,
    pub(crate) timeout: Duration,
    pub(crate) endpoint: Endpoint,
    headers: HeaderMap,
    secrets: Option<Secrets>,
    limits: Limits,
    client: Client,
}

/// What is sent in one call.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) body: String,
    /// The same whenever the same is sent.
    pub(crate) id: Option<String>,
    pub(crate) attempt: Option<u32>,
    pub(crate) token: Option<u64>,
    pub(crate) traceparent: Option<String>,
}

/// What the endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Handled,
    /// With what it says.
    Refused(String),
}

impl Message {
    pub(crate) fn of(event: &Event) -> Self {
        Self {
            body: event.to_json(),
            id: event.event_id.clone(),
            attempt: event.attempt,
            token: event.token,
            traceparent: event.traceparent.clone(),
        }
    }
}

impl Caller {
    pub(crate) fn new(settings: Settings) -> Result<Self, WebhookError> {
        let Settings { url, method, timeout, secrets, headers, concurrency, rate, batch: _ } = settings;
        let client = Client::builder()
            .tls_backend_preconfigured(tls_config(&url)?)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|source| WebhookError::Client { source: source.without_url().into() })?;
        let endpoint = Endpoint::new(&method, &url, &headers);
        let limits = Limits::new(concurrency, rate);
        Ok(Self { url, method, timeout, endpoint, headers, secrets, limits, client })
    }

    /// Waits until a call may be made; whoever makes it keeps the turn until it is done.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.limits.turn().await
    }

    pub(crate) async fn call(&self, message: Message) -> Result<Answer, WebhookError> {
        let response = self.request(message)?.send().await.map_err(|error| self.transport_error(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Answer::Handled);
        }
        let pause = response.headers().get(RETRY_AFTER).and_then(|value| pause(value.to_str().ok()?, now()));
        let answer = self.endpoint.redact(&start_of_body(response).await);
        let answer: String =
            answer.chars().take(MAX_LOGGED_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let separator = if answer.is_empty() { "" } else { ": " };
        let shown = self.endpoint.shown();
        let said = format!("{shown} answered {status}{separator}{answer}");
        match pause {
            None => Ok(Answer::Refused(said)),
            Some(pause) => Err(WebhookError::Later { said, pause }),
        }
    }

    fn request(&self, message: Message) -> Result<RequestBuilder, WebhookError> {
        let Message { body, id, attempt, token, traceparent } = message;
        let endpoint = || self.endpoint.shown().to_owned();
        let mut request = self
            .client
            .request(self.method.clone(), self.url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json");
        if let Some(id) = &id {
            // Without it the endpoint could not tell a repeat, so the call is refused rather than made without.
            let header = "idempotency-key";
            let value = HeaderValue::from_bytes(id.as_bytes())
                .map_err(|_| WebhookError::Header { endpoint: endpoint(), header })?;
            request = request.header(header, value);
        }
        if let Some(secrets) = &self.secrets {
            let id = id.ok_or_else(|| WebhookError::NoEventId { endpoint: endpoint() })?;
            let (at, value) = (now(), HeaderValue::from_bytes(id.as_bytes()));
            let value =
                value.map_err(|_| WebhookError::Header { endpoint: endpoint(), header: signature::ID })?;
            request = request
                .header(signature::ID, value)
                .header(signature::TIMESTAMP, at.as_second())
                .header(signature::SIGNATURE, secrets.sign(&id, at, body.as_bytes()));
        }
        if let Some(attempt) = attempt {
            request = request.header("dapper-attempt", attempt);
        }
        if let Some(token) = token {
            request = request.header("dapper-token", token);
        }
        // The writer's own text; one that no header can carry is no trace context.
        let traceparent = traceparent.and_then(|text| HeaderValue::from_str(&text).ok());
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        Ok(request.body(body))
    }

    fn transport_error(&self, error: reqwest::Error) -> WebhookError {
        let endpoint = self.endpoint.shown().to_owned();
        let is_timeout = error.is_timeout();
        let source = error.without_url().into();
        if is_timeout {
            WebhookError::Timeout { endpoint, timeout: self.timeout, source }
        } else {
            WebhookError::Unreachable { endpoint, source }
        }
    }
}

/// TLS with ring, named here so that no process-wide default is needed or touched.
///
/// The roots are the system's: endpoints inside a company have certificates of its own authority, which is installed
/// there; and the crate that reads them is a dependency of reqwest anyway. They are read for `https` alone, so that a
/// container without any can still call `http`.
fn tls_config(url: &Url) -> Result<ClientConfig, WebhookError> {
    let failed = |source: rustls::Error| WebhookError::Client { source: source.into() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match url.scheme() {
        "https" => builder.with_platform_verifier().map_err(failed)?,
        _ => builder.with_root_certificates(RootCertStore::empty()),
    };
    Ok(builder.with_no_client_auth())
}

/// What `Retry-After` asks for: seconds, or a date of HTTP; nothing when it is neither, or the date has passed.
fn pause(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => u64::MAX,
        Err(_) => {
            let date = rfc2822::parse(value).ok()?.timestamp();
            u64::try_from(date.as_second().saturating_sub(now.as_second())).ok()?
        }
    };
    (seconds > 0).then(|| Duration::from_secs(seconds).min(MAX_PAUSE))
}

/// The endpoint's dates are wall-clock times, so this one has to be, too.
fn now() -> Timestamp {
    Timestamp::now()
}

/// The body's first bytes as text; whatever came before it broke off or time was up.
async fn start_of_body(mut response: Response) -> String {
    let mut start = Vec::new();
    while start.len() < MAX_ANSWER_BYTES {
        let Ok(Some(chunk)) = response.chunk().await else { break };
        start.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - start.len())]);
    }
    String::from_utf8_lossy(&start).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date_to_come_within_bounds() {
        let now: Timestamp = "2026-01-05T10:00:00Z".parse().unwrap();
        let seconds = |value: &str| pause(value, now).map(|pause| pause.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 7 "), Some(7));
        assert_eq!(seconds("Mon, 05 Jan 2026 10:01:30 GMT"), Some(90));
        assert_eq!(seconds("Mon, 05 Jan 2026 09:59:00 GMT"), None);
        assert_eq!(seconds("99999999999999999999999"), Some(MAX_PAUSE.as_secs()));
        assert_eq!(seconds("Tue, 05 Jan 2027 10:00:00 GMT"), Some(MAX_PAUSE.as_secs()));
        for nonsense in ["", "0", "-1", "soon", "1.5", "Mon, 99 Jan 2026 10:01:30 GMT"] {
            assert_eq!(seconds(nonsense), None, "{nonsense:?}");
        }
    }
}
