//! What a text says, and the changes in it.

use std::borrow::Cow;
use std::iter::FusedIterator;

use serde_json::value::RawValue;

use crate::ChangeKind;
use crate::compact::compact;
use crate::fields::decode;

/// A notification or a change set, borrowed from its text. [`parse`](crate::parse) makes it.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// `None` for `public`, whether it was named or not.
    pub(crate) schema: Option<Cow<'a, str>>,
    pub(crate) table: Cow<'a, str>,
    pub(crate) kind: ChangeKind,
    pub(crate) key_columns: Vec<Cow<'a, str>>,
    pub(crate) rows: Rows<'a>,
    /// As long as `rows`, if there.
    pub(crate) old: Option<Vec<&'a RawValue>>,
    /// As long as `rows`, if there.
    pub(crate) new: Option<Vec<&'a RawValue>>,
}

/// The ids of the changed rows.
#[derive(Clone, Debug)]
pub(crate) enum Rows<'a> {
    /// The notification's one, which may have no id; also `TRUNCATE`.
    One(Option<&'a RawValue>),
    /// The change set's; with several key columns each is an array of as many values.
    Many(Vec<&'a RawValue>),
}

/// One changed row; see [`Payload::changes`].
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    key_columns: &'a [Cow<'a, str>],
    id: Option<&'a RawValue>,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
}

/// The changes of a payload, in the order in which the text gives them.
#[derive(Clone, Debug)]
pub struct Changes<'a> {
    payload: &'a Payload<'a>,
    range: std::ops::Range<usize>,
}

impl<'a> Payload<'a> {
    /// The table's schema; `public` when the text names none.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.schema.as_deref().unwrap_or("public")
    }

    /// The table's bare name.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What happened to the rows.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// The names of the key columns; empty when the table has no key, and for a notification.
    #[must_use]
    pub fn key_columns(&self) -> &[Cow<'a, str>] {
        &self.key_columns
    }

    /// Where it happened: the bare table name in `public`, `schema.table` elsewhere.
    #[must_use]
    pub fn location(&self) -> Cow<'_, str> {
        match &self.schema {
            None => Cow::Borrowed(&self.table),
            Some(schema) => Cow::Owned(format!("{schema}.{}", self.table)),
        }
    }

    /// How many changes there are; 1 for `TRUNCATE`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no change: a statement that touched no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes, one per row; `TRUNCATE` is one without id.
    #[must_use]
    pub fn changes(&self) -> Changes<'_> {
        Changes { payload: self, range: 0..self.len() }
    }
}

impl<'a> IntoIterator for &'a Payload<'_> {
    type Item = Change<'a>;
    type IntoIter = Changes<'a>;

    fn into_iter(self) -> Changes<'a> {
        self.changes()
    }
}

impl Rows<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(ids) => ids.len(),
        }
    }
}

impl<'a> Change<'a> {
    /// The key as text: the content of a string, the digits of a number as they were written, `true` or `false`.
    ///
    /// Empty for `null` and for a row without key. The compact JSON text of an array or an object, and of the array of
    /// the values of a composite key.
    #[must_use]
    pub fn id(&self) -> Cow<'a, str> {
        let Some(json) = self.id.map(RawValue::get) else { return Cow::Borrowed("") };
        match json.as_bytes().first() {
            // The parser refuses a string without content.
            Some(b'"') => decode(json).unwrap_or(Cow::Borrowed(json)),
            Some(b'n') => Cow::Borrowed(""),
            Some(b'[' | b'{') => compact(json),
            _ => Cow::Borrowed(json),
        }
    }

    /// The key as a compact JSON object of its columns, for instance `{"region":"eu","nr":1}`.
    ///
    /// `None` without key columns, so for a notification, and for `TRUNCATE`.
    #[must_use]
    pub fn key_json(&self) -> Option<Box<RawValue>> {
        let id = self.id?;
        // The parser has seen to it that there are as many values as columns, so none of this fails.
        let text = match self.key_columns {
            [] => return None,
            [column] => key_text([(&**column, id.get())], column.len() + id.get().len()),
            columns => {
                let values: Vec<&RawValue> = serde_json::from_str(id.get()).ok()?;
                let pairs = columns.iter().zip(values).map(|(column, value)| (&**column, value.get()));
                key_text(pairs, columns.iter().map(|column| column.len()).sum::<usize>() + id.get().len())
            }
        };
        RawValue::from_string(text).ok()
    }

    /// The row before the change, as it was written, when the text has it.
    #[must_use]
    pub fn old(&self) -> Option<&'a RawValue> {
        self.old
    }

    /// The row after the change, as it was written, when the text has it.
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "SQL's NEW beside SQL's OLD, not a constructor")]
    pub fn new(&self) -> Option<&'a RawValue> {
        self.new
    }
}

impl Change<'_> {
    /// The row before the change as compact JSON, so without a line break.
    #[must_use]
    pub fn old_json(&self) -> Option<Box<RawValue>> {
        self.old.map(compacted)
    }

    /// The row after the change as compact JSON, so without a line break.
    #[must_use]
    pub fn new_json(&self) -> Option<Box<RawValue>> {
        self.new.map(compacted)
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        let index = self.range.next()?;
        let payload = self.payload;
        Some(Change {
            key_columns: &payload.key_columns,
            id: match &payload.rows {
                Rows::One(id) => *id,
                Rows::Many(ids) => ids.get(index).copied(),
            },
            old: image(payload.old.as_deref(), index),
            new: image(payload.new.as_deref(), index),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.range.size_hint()
    }
}

impl ExactSizeIterator for Changes<'_> {}

impl FusedIterator for Changes<'_> {}

fn image<'a>(images: Option<&[&'a RawValue]>, index: usize) -> Option<&'a RawValue> {
    images?.get(index).copied().filter(|image| image.get() != "null")
}

fn compacted(value: &RawValue) -> Box<RawValue> {
    match compact(value.get()) {
        Cow::Borrowed(_) => value.to_owned(),
        // JSON without its whitespace is JSON.
        Cow::Owned(text) => RawValue::from_string(text).unwrap_or_else(|_| value.to_owned()),
    }
}

/// A compact JSON object of these columns and JSON values, which take so many bytes together.
fn key_text<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, bytes: usize) -> String {
    // Of one column without escapes and whitespace it is the exact length, so that nothing is copied again.
    let mut text = String::with_capacity(bytes + "{\"\":}".len());
    text.push('{');
    for (column, value) in pairs {
        if text.len() > 1 {
            text.push(',');
        }
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if column.bytes().all(is_plain) {
            text.push('"');
            text.push_str(column);
            text.push('"');
        } else {
            text.push_str(&serde_json::Value::from(column).to_string());
        }
        text.push(':');
        text.push_str(&compact(value));
    }
    text.push('}');
    text
}
