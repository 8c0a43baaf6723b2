//! What an event has to offer to a statement.

use std::error::Error;

use bytes::BytesMut;
use dapper_core::Event;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// A part of an event, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    EventId,
    Location,
    Operation,
    Id,
    Trigger,
    Key,
    Old,
    New,
    Attempt,
    Token,
    CapturedAt,
    Traceparent,
    Event,
}

/// Each field with the name that it has in statements: the one that it has in the event's JSON.
pub(crate) const FIELDS: [(&str, Field); 13] = [
    ("event_id", Field::EventId),
    ("location", Field::Location),
    ("operation", Field::Operation),
    ("id", Field::Id),
    ("trigger", Field::Trigger),
    ("key", Field::Key),
    ("old", Field::Old),
    ("new", Field::New),
    ("attempt", Field::Attempt),
    ("token", Field::Token),
    ("captured_at", Field::CapturedAt),
    ("traceparent", Field::Traceparent),
    ("event", Field::Event),
];

impl Field {
    /// The field called `name`, in lower case, as it stands.
    pub(crate) fn of(name: &str) -> Option<Self> {
        FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }

    /// What `event` says; nothing where it says nothing.
    pub(crate) fn value(self, event: &Event) -> Text {
        let json = |value: &Option<dapper_core::RawJson>| value.as_ref().map(|json| json.get().to_owned());
        Text(match self {
            Self::EventId => event.event_id.clone(),
            Self::Location => Some(event.location.to_string()),
            Self::Operation => Some(event.operation.to_string()),
            Self::Id => Some(event.id.clone()),
            Self::Trigger => Some(event.trigger.to_string()),
            Self::Key => json(&event.key),
            Self::Old => json(&event.old),
            Self::New => json(&event.new),
            Self::Attempt => event.attempt.map(|attempt| attempt.to_string()),
            Self::Token => event.token.map(|token| token.to_string()),
            Self::CapturedAt => event.captured_at.as_deref().map(str::to_owned),
            Self::Traceparent => event.traceparent.clone(),
            Self::Event => Some(event.to_json()),
        })
    }
}

/// A parameter of whatever type, which the server reads from text.
#[derive(Debug)]
pub(crate) struct Text(Option<String>);

impl ToSql for Text {
    fn to_sql(&self, _ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }

    fn encode_format(&self, _ty: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
