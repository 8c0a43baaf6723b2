//! A span, and how the protocol writes it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};
use tracing::field::{Field, Visit};

/// A span that has begun.
#[derive(Debug)]
pub(super) struct Span {
    name: &'static str,
    trace: String,
    id: String,
    parent: Option<String>,
    pub(super) fields: Fields,
    start: u64,
    pub(super) end: u64,
}

/// What a writer's `traceparent` says (W3C Trace Context).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parent {
    trace: String,
    span: String,
    pub(super) is_sampled: bool,
}

/// The fields of a span.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<&'static str, Value>);

impl Parent {
    /// `None` for what is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
        // Later versions may add parts; this one has four.
        let fits = is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        let fits = fits && is_hex(trace, 32) && !is_zero(trace) && is_hex(span, 16) && !is_zero(span);
        if !fits || !is_hex(flags, 2) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace: trace.to_owned(), span: span.to_owned(), is_sampled: flags & 1 == 1 })
    }
}

impl Span {
    pub(super) fn new(name: &'static str, parent: Option<Parent>, fields: Fields, start: u64) -> Self {
        let (trace, parent) = match parent {
            Some(parent) => (parent.trace, Some(parent.span)),
            None => (format!("{:032x}", fastrand::u128(1..)), None),
        };
        let id = format!("{:016x}", fastrand::u64(1..));
        Self { name, trace, id, parent, fields, start, end: start }
    }

    fn encode(&self) -> Value {
        const CONSUMER: u8 = 5;
        const OK: u8 = 1;
        const ERROR: u8 = 2;
        let code = match self.fields.0.get("outcome").and_then(Value::as_str) {
            Some("handled") => OK,
            Some("failed") => ERROR,
            _ => 0,
        };
        let attribute = |(name, value): (&&str, &Value)| {
            let value = match value {
                Value::Bool(value) => json!({ "boolValue": value }),
                // 64-bit numbers are text in the JSON form of the protocol.
                Value::Number(value) => json!({ "intValue": value.to_string() }),
                value => json!({ "stringValue": value }),
            };
            json!({ "key": format!("dapper.{name}"), "value": value })
        };
        let attributes: Vec<Value> = self.fields.0.iter().map(attribute).collect();
        json!({
            "traceId": self.trace,
            "spanId": self.id,
            "parentSpanId": self.parent.clone().unwrap_or_default(),
            "name": self.name,
            "kind": CONSUMER,
            "startTimeUnixNano": self.start.to_string(),
            "endTimeUnixNano": self.end.to_string(),
            "attributes": attributes,
            "status": { "code": code },
        })
    }
}

/// The body of a request.
pub(super) fn encode(service: &str, spans: &[Span]) -> Value {
    let spans: Vec<Value> = spans.iter().map(Span::encode).collect();
    let name = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    json!({ "resourceSpans": [{
        "resource": { "attributes": [name("service.name", service)] },
        "scopeSpans": [{
            "scope": { "name": "dapper", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans,
        }],
    }]})
}

impl Fields {
    /// Takes a text out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        match self.0.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_writers_trace_is_read_as_the_standard_says() {
        let parsed = |text: &str| Parent::parse(text).map(|parent| parent.is_sampled);
        assert_eq!(parsed(&format!("00-{TRACE}-00f067aa0ba902b7-01")), Some(true));
        assert_eq!(parsed(&format!("00-{TRACE}-00f067aa0ba902b7-00")), Some(false));
        assert_eq!(parsed(&format!("cc-{TRACE}-00f067aa0ba902b7-03-more")), Some(true));
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-00f067aa0ba902b7-0g"),
        ] {
            assert_eq!(Parent::parse(&wrong), None, "{wrong}");
        }
    }
}
