//! What an input says happened.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Operation;

/// One change, as processes receive it.
///
/// The first four fields are the contract that processes written for the ancestor rely on; they are always
/// serialised, in this order, and before the others. The rest is left out of the JSON when absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where it happened: the bare table name in schema `public`, `schema.table` elsewhere.
    pub location: Arc<str>,
    /// What happened.
    pub operation: Operation,
    /// The key as text; for a composite key the compact JSON array of its values; empty when there is none.
    pub id: String,
    /// The id of the input that saw it.
    pub trigger: Arc<str>,
    /// Names this event for good: the same over redelivery and takeover, never used for another. Use it as the
    /// idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// 1 for the first delivery; more when this may be a repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The fencing token of the replica that delivers it. Refuse an event whose token is lower than one already seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The key's columns and values, as a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RawJson>,
    /// The row before the change, as a JSON object, when row images are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<RawJson>,
    /// The row after the change, as a JSON object, when row images are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<RawJson>,
    /// When the change was captured by the database's clock, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<Arc<str>>,
    /// W3C trace context of the writer, when it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Whether somebody had it delivered again by `dapper replay`; left out when not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub replay: bool,
}

impl Event {
    /// An event with the four contract fields alone.
    pub fn new(
        location: impl Into<Arc<str>>,
        operation: Operation,
        id: impl Into<String>,
        trigger: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            location: location.into(),
            operation,
            id: id.into(),
            trigger: trigger.into(),
            event_id: None,
            attempt: None,
            token: None,
            key: None,
            old: None,
            new: None,
            captured_at: None,
            traceparent: None,
            replay: false,
        }
    }

    /// The event as compact JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event holds only strings, numbers and valid JSON")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(value: &bool) -> bool {
    !value
}

/// JSON text carried as it is, so that no number loses a digit on the way.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Takes over text that must be one JSON value.
    ///
    /// # Errors
    /// When `text` is not valid JSON.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl From<Box<RawValue>> for RawJson {
    fn from(value: Box<RawValue>) -> Self {
        Self(value)
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for RawJson {}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_ancestors() {
        let event = Event::new("the ether", Operation::Delete, "an-id", "tests");
        assert_eq!(
            event.to_json(),
            r#"{"location":"the ether","operation":"delete","id":"an-id","trigger":"tests"}"#
        );
    }

    #[test]
    fn additions_follow_and_round_trip() {
        let mut event = Event::new("audit.orders", Operation::Update, r#"[1,"x"]"#, "orders_input");
        event.event_id = Some("0190/3".into());
        event.attempt = Some(2);
        event.token = Some(7);
        event.key = Some(RawJson::parse(r#"{"a":12345678901234567890.10,"b":"x"}"#.into()).unwrap());
        event.captured_at = Some("2026-01-01T00:00:00Z".into());
        let json = event.to_json();
        assert_eq!(
            json,
            concat!(
                r#"{"location":"audit.orders","operation":"update","id":"[1,\"x\"]","trigger":"orders_input","#,
                r#""event_id":"0190/3","attempt":2,"token":7,"key":{"a":12345678901234567890.10,"b":"x"},"#,
                r#""captured_at":"2026-01-01T00:00:00Z"}"#
            )
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }

    #[test]
    fn the_ancestors_json_is_read() {
        let event: Event =
            serde_json::from_str(r#"{"location":"orders","operation":"insert","id":"1","trigger":"i"}"#)
                .unwrap();
        assert_eq!(event, Event::new("orders", Operation::Create, "1", "i"));
    }
}
