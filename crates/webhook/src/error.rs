//! Why a webhook could not be set up or called.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use dapper_core::ProcessError;

use crate::settings::{KEYS, MAX_TIMEOUT, METHODS};

/// Why a webhook process could not be made, or did not get an answer. Holds no secret of the URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// There is nowhere to send to.
    #[error("\"url\" is missing or empty; set it to the endpoint, such as https://example.com/hook")]
    MissingUrl,
    /// The URL can't be read. It is not shown, since it may hold secrets.
    #[error("\"url\" is not a URL; write it like https://example.com/hook")]
    MalformedUrl {
        /// What the URL parser says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The URL is not one of HTTP.
    #[error("\"url\" has the scheme {scheme:?}; use http or https")]
    UnsupportedScheme {
        /// The scheme it has.
        scheme: String,
    },
    /// The method is none to send an event with.
    #[error("\"method\" is {method:?}; use one of {}", METHODS.join(", "))]
    UnsupportedMethod {
        /// The method as it was given.
        method: String,
    },
    /// The timeout can't be read.
    #[error("\"timeout\" is {text:?}, which is not a duration; write it like 10s or 1m 30s")]
    MalformedTimeout {
        /// The timeout as it was given.
        text: String,
        /// What the duration parser says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The timeout is too short or too long.
    #[error("\"timeout\" is {text:?}; it must be above 0 and at most {} s", MAX_TIMEOUT.as_secs())]
    TimeoutOutOfRange {
        /// The timeout as it was given.
        text: String,
    },
    /// The execution context has a key that means nothing here.
    #[error("unknown key {key:?}; did you mean {nearest:?}? Known are {}", KEYS.join(", "))]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// The known key that is most like it.
        nearest: &'static str,
    },
    /// A value is none that its key may have, or the key is none. No secret is shown.
    #[error("{key:?} {reason}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No TLS or no HTTP client could be set up.
    #[error("no HTTP client could be set up; for https the system needs certificates of authorities")]
    Client {
        /// What the client says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The event has something that no header can carry.
    #[error(
        "{endpoint} was not called: the event's value for the header {header:?} holds control characters"
    )]
    Header {
        /// Method and URL, without secrets.
        endpoint: String,
        /// The header's name.
        header: &'static str,
    },
    /// What is signed must have an id, so that the receiver can tell a repeat.
    #[error("{endpoint} was not called: the event has no event_id, which a signed call must name")]
    NoEventId {
        /// Method and URL, without secrets.
        endpoint: String,
    },
    /// The call that the event went in, together with others, failed.
    #[error("a call with {events} events failed")]
    Batch {
        /// How many events were in it.
        events: usize,
        /// What happened.
        source: Arc<WebhookError>,
    },
    /// No answer came in time.
    #[error("{endpoint} did not answer within {timeout:?}")]
    Timeout {
        /// Method and URL, without secrets.
        endpoint: String,
        /// How long it was waited for.
        timeout: Duration,
        /// What the client says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The endpoint refused, and asked for a pause by `Retry-After`.
    #[error("{said}")]
    Later {
        /// Method and URL without secrets, status and the answer's beginning.
        said: String,
        /// The pause.
        pause: Duration,
    },
    /// The endpoint could not be reached, or broke off.
    #[error("{endpoint} could not be reached")]
    Unreachable {
        /// Method and URL, without secrets.
        endpoint: String,
        /// What the client says.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl WebhookError {
    /// The key of the execution context at fault, where there is one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::MissingUrl | Self::MalformedUrl { .. } | Self::UnsupportedScheme { .. } => Some(crate::URL),
            Self::UnsupportedMethod { .. } => Some(crate::METHOD),
            Self::MalformedTimeout { .. } | Self::TimeoutOutOfRange { .. } => Some(crate::TIMEOUT),
            Self::UnknownKey { key, .. } | Self::Value { key, .. } => Some(key),
            Self::Client { .. }
            | Self::Header { .. }
            | Self::NoEventId { .. }
            | Self::Batch { .. }
            | Self::Timeout { .. }
            | Self::Later { .. }
            | Self::Unreachable { .. } => None,
        }
    }

    /// How long the endpoint asked to be left alone, if it did.
    pub(crate) fn pause(&self) -> Option<Duration> {
        match self {
            Self::Later { pause, .. } => Some(*pause),
            Self::Batch { source, .. } => source.pause(),
            _ => None,
        }
    }

    pub(crate) fn value(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { key: key.into(), reason: reason.into() }
    }

    /// The same as a constructor of the registry says it.
    pub(crate) fn into_config_error(self, process: String) -> ProcessError {
        let cause = self.source().map(|source| format!(": {source}")).unwrap_or_default();
        ProcessError::Config { process, key: self.key().map(str::to_owned), reason: format!("{self}{cause}") }
    }
}
