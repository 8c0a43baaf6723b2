//! The fields of the object as they are written, each with its place in the text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{ParseError, ParseErrorKind};

/// What the object holds, not yet understood. A field that is `null` is `None`, as one that is left out.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) schema: Option<&'a RawValue>,
    pub(crate) table: Option<&'a RawValue>,
    pub(crate) operation: Option<&'a RawValue>,
    pub(crate) id: Option<&'a RawValue>,
    pub(crate) key: Option<Array<'a>>,
    pub(crate) ids: Option<Array<'a>>,
    pub(crate) old: Option<Array<'a>>,
    pub(crate) new: Option<Array<'a>>,
}

/// An array's elements, and where in the text it begins.
pub(crate) struct Array<'a> {
    pub(crate) offset: usize,
    pub(crate) elements: Vec<&'a RawValue>,
}

/// Reads the fields of `text`, which begins with a brace.
///
/// Derived code would be shorter, but then an error has no exact place: serde's position is that of the parser, which
/// may be before, in or behind the value at fault. Here each key is taken as it is written, so its place is known, and
/// the place of its value too.
pub(crate) fn read<'a>(text: &'a str) -> Result<Fields<'a>, ParseError> {
    let mut reader = Reader { text, seen: [false; NAMES.len()], fields: Fields::default(), error: None };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let result = reader.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (reader.error, result) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(ParseError::syntax(text, error)),
        (None, Ok(())) => Ok(reader.fields),
    }
}

/// Where `value`, which was borrowed from `text`, begins in it.
pub(crate) fn offset_of(text: &str, value: &RawValue) -> usize {
    value.get().as_ptr().addr() - text.as_ptr().addr()
}

/// The content of the JSON string `json`; `None` when it has an escape that stands for no character.
pub(crate) fn decode(json: &str) -> Option<Cow<'_, str>> {
    let content = json.strip_prefix('"')?.strip_suffix('"')?;
    if content.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(content))
    }
}

const NAMES: [&str; 8] = ["schema", "tbl", "op", "id", "key", "ids", "old", "new"];

struct Reader<'a> {
    text: &'a str,
    seen: [bool; NAMES.len()],
    fields: Fields<'a>,
    /// What is wrong beyond syntax; the deserializer then ends with a placeholder, for it cannot carry this.
    error: Option<ParseError>,
}

impl<'a> Reader<'a> {
    fn refuse<E: serde::de::Error>(&mut self, error: ParseError) -> E {
        self.error = Some(error);
        E::custom("refused")
    }

    /// Reads an array or `null`. `key` is the field's name as written; the value follows a colon.
    fn array<M: MapAccess<'a>>(
        &mut self,
        field: &'static str,
        key: &'a RawValue,
        map: &mut M,
    ) -> Result<Option<Array<'a>>, M::Error> {
        let end_of_key = offset_of(self.text, key) + key.get().len();
        let is_before_value = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b':');
        let behind_key = &self.text.as_bytes()[end_of_key..];
        let offset = end_of_key + behind_key.iter().take_while(|byte| is_before_value(byte)).count();
        if self.text.as_bytes().get(offset) == Some(&b'[') {
            return Ok(Some(Array { offset, elements: map.next_value()? }));
        }
        let value: &RawValue = map.next_value()?;
        if value.get() == "null" {
            return Ok(None);
        }
        let kind = ParseErrorKind::WrongType { field, expected: "an array" };
        Err(self.refuse(ParseError::new(kind, offset_of(self.text, value), value.get())))
    }
}

impl<'a> DeserializeSeed<'a> for &mut Reader<'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for &mut Reader<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a notification or a change set")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<&'a RawValue>()? {
            let index = decode(key.get()).and_then(|name| NAMES.iter().position(|known| *known == name));
            let Some(index) = index else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = NAMES[index];
            if std::mem::replace(&mut self.seen[index], true) {
                let kind = ParseErrorKind::DuplicateField { field };
                return Err(self.refuse(ParseError::new(kind, offset_of(self.text, key), key.get())));
            }
            match field {
                "schema" => self.fields.schema = map.next_value()?,
                "tbl" => self.fields.table = map.next_value()?,
                "op" => self.fields.operation = map.next_value()?,
                "id" => self.fields.id = map.next_value()?,
                "key" => self.fields.key = self.array(field, key, &mut map)?,
                "ids" => self.fields.ids = self.array(field, key, &mut map)?,
                "old" => self.fields.old = self.array(field, key, &mut map)?,
                _ => self.fields.new = self.array(field, key, &mut map)?,
            }
        }
        Ok(())
    }
}
