//! Where events come from.

use std::error::Error;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Delivery, Event, Receipt};

/// A source of events.
///
/// # What an implementer owes
/// - [`handle`](Self::handle) returns `Ok` only after `stop` was cancelled; any other end is an error, and the caller
///   starts it again after a while.
/// - It keeps the [`Receipt`](crate::Receipt) of every delivery and counts an event as done only when that says so.
/// - What it can't understand it reports through [`EventSink::report`] and goes on.
/// - Errors, logs and `Debug` never show a secret of the configuration.
#[async_trait]
pub trait Input: Send + Sync {
    /// The input's id: what events carry as `trigger`, and what links name.
    fn id(&self) -> &str;

    /// Delivers events into `sink` until `stop` is cancelled or something fails.
    ///
    /// On `stop` it takes up nothing new, waits for what it delivered up to its own deadline, records how far it came,
    /// and returns. Dropping the future instead loses no event, but may repeat some.
    async fn handle(&self, sink: EventSink, stop: CancellationToken) -> Result<(), InputError>;
}

/// Whether an error can pass by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Trying again later may help: a lost connection, a lost lease, a server that starts up.
    Transient,
    /// Somebody has to change something first: the configuration, rights, the server.
    Permanent,
    /// Something that came in could not be understood; it was skipped and nothing was lost.
    Garbage,
}

/// What an input reports, by itself or as the end of [`Input::handle`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The configuration can't be used as it stands.
    #[error("input {input:?}: {reason}")]
    Config {
        /// The input's configured name.
        input: String,
        /// The configuration key at fault, where there is one.
        key: Option<String>,
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// The input's own error, with its kind.
    #[error("input {input:?}")]
    Failed {
        /// The input's id.
        input: String,
        /// Whether it can pass by itself.
        kind: ErrorKind,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Whoever took the events has gone away.
    #[error("input {input:?}: nobody takes its events any more")]
    SinkClosed {
        /// The input's id.
        input: String,
    },
}

impl InputError {
    /// Whether it can pass by itself.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } => ErrorKind::Permanent,
            Self::Failed { kind, .. } => *kind,
            Self::SinkClosed { .. } => ErrorKind::Transient,
        }
    }
}

/// Where an input puts its events and its complaints.
#[derive(Clone, Debug)]
pub struct EventSink {
    deliveries: mpsc::Sender<Delivery>,
    errors: mpsc::Sender<InputError>,
}

/// Whoever took the events has gone away; the delivery was abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes events any more")]
pub struct SinkClosed;

impl EventSink {
    /// A sink into two bounded channels: one for deliveries, one for complaints.
    #[must_use]
    pub fn new(deliveries: mpsc::Sender<Delivery>, errors: mpsc::Sender<InputError>) -> Self {
        Self { deliveries, errors }
    }

    /// Hands a delivery over, waiting while the taker is behind.
    ///
    /// Cancel-safe in that a dropped call abandons the delivery, as its receipt then says.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody takes events any more.
    pub async fn send(&self, delivery: Delivery) -> Result<(), SinkClosed> {
        self.deliveries.send(delivery).await.map_err(|_| SinkClosed)
    }

    /// Hands over events that need no validity and returns the receipt for them.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody takes events any more.
    pub async fn send_events(&self, events: Vec<Event>) -> Result<Receipt, SinkClosed> {
        let (delivery, receipt) = Delivery::new(events);
        self.send(delivery).await?;
        Ok(receipt)
    }

    /// Reports an error that does not end the input. Never waits; false when the reader of the errors is so far
    /// behind that this one was dropped.
    pub fn report(&self, error: InputError) -> bool {
        self.errors.try_send(error).is_ok()
    }
}
