//! From text to [`Payload`].

use std::borrow::Cow;

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{ParseError, ParseErrorKind};
use crate::fields::{self, Array, Fields, decode, offset_of};
use crate::payload::Rows;
use crate::{ChangeKind, Payload};

/// The longest text that [`parse`] takes, in bytes: what one field of a PostgreSQL row can hold at most.
///
/// A payload takes up to eight times the memory of its text besides the text itself (16 bytes per row or image, each
/// of which is at least two bytes of text). Nesting is not bounded, since nothing here recurses.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 30;

/// How many key columns a payload can name: as many as a PostgreSQL table can have columns.
pub const MAX_KEY_COLUMNS: usize = 1600;

/// Reads a notification or a change set.
///
/// # Errors
/// When `text` is neither; see [`ParseError`].
pub fn parse(text: &str) -> Result<Payload<'_>, ParseError> {
    parse_up_to(text, MAX_PAYLOAD_BYTES)
}

fn parse_up_to(text: &str, limit: usize) -> Result<Payload<'_>, ParseError> {
    if text.len() > limit {
        return Err(ParseError::at(ParseErrorKind::TooLong { limit }, text, limit));
    }
    let start = text.len() - text.trim_start_matches([' ', '\t', '\n', '\r']).len();
    if !text[start..].starts_with('{') {
        let value: Result<&RawValue, _> = serde_json::from_str(text);
        return Err(match value {
            Ok(value) => ParseError::new(ParseErrorKind::NotAnObject, start, value.get()),
            Err(error) => ParseError::syntax(text, error),
        });
    }
    Reading { text, start }.payload(fields::read(text)?)
}

/// The text being read, and where its object begins.
#[derive(Clone, Copy)]
struct Reading<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Reading<'a> {
    fn payload(self, fields: Fields<'a>) -> Result<Payload<'a>, ParseError> {
        let table = self.required("tbl", fields.table)?;
        let kind = self.kind(fields.operation)?;
        let schema = fields.schema.map(|value| self.string("schema", value)).transpose()?;
        let key_columns = self.key_columns(fields.key)?;
        let (rows, old, new) = match kind {
            ChangeKind::Truncate => {
                self.refuse_rows(fields.id, [("ids", fields.ids), ("old", fields.old), ("new", fields.new)])?;
                (Rows::One(None), None, None)
            }
            _ => {
                let rows = self.rows(fields.id, fields.ids, key_columns.len())?;
                let old = self.images("old", fields.old, rows.len())?;
                let new = self.images("new", fields.new, rows.len())?;
                (rows, old, new)
            }
        };
        Ok(Payload {
            schema: schema.filter(|name| name != "public"),
            table,
            kind,
            key_columns,
            rows,
            old,
            new,
        })
    }

    fn kind(self, value: Option<&'a RawValue>) -> Result<ChangeKind, ParseError> {
        let word = self.required("op", value)?;
        let unknown = || self.about(ParseErrorKind::UnknownOperation, value);
        ChangeKind::from_word(&word).ok_or_else(unknown)
    }

    fn key_columns(self, array: Option<Array<'a>>) -> Result<Vec<Cow<'a, str>>, ParseError> {
        let mut columns: Vec<Cow<'a, str>> = Vec::new();
        for value in array.into_iter().flat_map(|array| array.elements) {
            let column = self.string("key", value)?;
            if columns.contains(&column) {
                return Err(self.about(ParseErrorKind::DuplicateKeyColumn, Some(value)));
            }
            if columns.len() == MAX_KEY_COLUMNS {
                let kind = ParseErrorKind::TooManyKeyColumns { limit: MAX_KEY_COLUMNS };
                return Err(self.about(kind, Some(value)));
            }
            columns.push(column);
        }
        Ok(columns)
    }

    fn rows(
        self,
        id: Option<&'a RawValue>,
        ids: Option<Array<'a>>,
        key_columns: usize,
    ) -> Result<Rows<'a>, ParseError> {
        match (id, ids) {
            (Some(_), Some(ids)) => Err(ParseError::at(ParseErrorKind::IdAndIds, self.text, ids.offset)),
            (None, Some(ids)) => {
                for id in &ids.elements {
                    self.check_id(id, key_columns)?;
                }
                Ok(Rows::Many(ids.elements))
            }
            (_, None) if key_columns > 0 => {
                Err(self.about(ParseErrorKind::MissingField { field: "ids" }, None))
            }
            (None, None) => Ok(Rows::One(None)),
            (Some(id), None) => {
                if id.get().starts_with(['[', '{']) {
                    let expected = "a string, a number, true, false or null";
                    return Err(self.about(ParseErrorKind::WrongType { field: "id", expected }, Some(id)));
                }
                self.check_text("id", id)?;
                Ok(Rows::One(Some(id)))
            }
        }
    }

    fn check_id(self, id: &'a RawValue, key_columns: usize) -> Result<(), ParseError> {
        let wrong_type =
            |expected| Err(self.about(ParseErrorKind::WrongType { field: "ids", expected }, Some(id)));
        match key_columns {
            0 if id.get() != "null" => wrong_type("null, as there is no \"key\""),
            0 => Ok(()),
            1 => self.check_text("ids", id),
            _ if !id.get().starts_with('[') => wrong_type("arrays of one value per key column"),
            expected => match count_elements(id.get()) {
                actual if actual == expected => Ok(()),
                actual => Err(self.about(ParseErrorKind::KeyArity { expected, actual }, Some(id))),
            },
        }
    }

    fn images(
        self,
        field: &'static str,
        array: Option<Array<'a>>,
        rows: usize,
    ) -> Result<Option<Vec<&'a RawValue>>, ParseError> {
        let Some(Array { offset, elements }) = array else { return Ok(None) };
        if elements.len() != rows {
            let kind = ParseErrorKind::ImageCount { field, expected: rows, actual: elements.len() };
            return Err(ParseError::at(kind, self.text, offset));
        }
        match elements.iter().find(|image| !image.get().starts_with('{') && image.get() != "null") {
            None => Ok(Some(elements)),
            Some(image) => {
                let kind = ParseErrorKind::WrongType { field, expected: "objects and nulls" };
                Err(self.about(kind, Some(image)))
            }
        }
    }

    fn refuse_rows(
        self,
        id: Option<&'a RawValue>,
        arrays: [(&'static str, Option<Array<'a>>); 3],
    ) -> Result<(), ParseError> {
        if id.is_some() {
            return Err(self.about(ParseErrorKind::TruncateWithRows { field: "id" }, id));
        }
        for (field, array) in arrays {
            if let Some(array) = array.filter(|array| !array.elements.is_empty()) {
                let kind = ParseErrorKind::TruncateWithRows { field };
                return Err(ParseError::at(kind, self.text, array.offset));
            }
        }
        Ok(())
    }

    fn required(self, field: &'static str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, ParseError> {
        let missing = || self.about(ParseErrorKind::MissingField { field }, None);
        self.string(field, value.ok_or_else(missing)?)
    }

    fn string(self, field: &'static str, value: &'a RawValue) -> Result<Cow<'a, str>, ParseError> {
        if !value.get().starts_with('"') {
            let kind = ParseErrorKind::WrongType { field, expected: "a string" };
            return Err(self.about(kind, Some(value)));
        }
        decode(value.get()).ok_or_else(|| self.about(ParseErrorKind::NoText { field }, Some(value)))
    }

    /// A string must have a content; any other value is fine.
    fn check_text(self, field: &'static str, value: &'a RawValue) -> Result<(), ParseError> {
        if value.get().starts_with('"') { self.string(field, value).map(drop) } else { Ok(()) }
    }

    /// An error about `value`, or about the whole object.
    fn about(self, kind: ParseErrorKind, value: Option<&'a RawValue>) -> ParseError {
        match value {
            Some(value) => ParseError::new(kind, offset_of(self.text, value), value.get()),
            None => ParseError::at(kind, self.text, self.start),
        }
    }
}

/// How many elements the valid JSON array `json` has; without an allocation.
fn count_elements(json: &str) -> usize {
    struct Count;
    impl<'de> Visitor<'de> for Count {
        type Value = usize;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<S: SeqAccess<'de>>(self, mut elements: S) -> Result<usize, S::Error> {
            let mut count = 0;
            while elements.next_element::<IgnoredAny>()?.is_some() {
                count += 1;
            }
            Ok(count)
        }
    }
    serde_json::Deserializer::from_str(json).deserialize_seq(Count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_bounded() {
        let text = r#"{"tbl":"é","op":"INSERT"}"#;
        assert!(parse_up_to(text, text.len()).is_ok());
        let error = parse_up_to(text, 10).map(drop).unwrap_err();
        assert_eq!((error.offset(), error.offending()), (10, "\",\"op\":\"INSERT\"}"));
        // Not in the middle of a character.
        assert_eq!(parse_up_to(text, 9).map(drop).unwrap_err().offset(), 8);
        assert!(error.to_string().starts_with("the payload goes on beyond 10 bytes at byte 10"), "{error}");
    }

    #[test]
    fn elements_are_counted_at_the_top_alone() {
        for (json, expected) in [("[]", 0), ("[[1,2]]", 1), (r#"[1,"a,b",{"c":[1,2]},[]]"#, 4), ("1", 0)] {
            assert_eq!(count_elements(json), expected, "{json}");
        }
    }
}
