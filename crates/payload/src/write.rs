//! From [`Payload`] to text.

use std::fmt;

use serde_json::value::RawValue;

use crate::Payload;
use crate::compact::compact;
use crate::payload::Rows;

impl Payload<'_> {
    /// Writes the canonical text: compact, fields in the order of the documentation, those left out that say nothing.
    ///
    /// Values are written as they were read, apart from the whitespace between them.
    ///
    /// # Errors
    /// When `out` refuses.
    pub fn write<W: fmt::Write>(&self, out: &mut W) -> fmt::Result {
        out.write_char('{')?;
        if let Some(schema) = &self.schema {
            out.write_str("\"schema\":")?;
            write_string(out, schema)?;
            out.write_char(',')?;
        }
        out.write_str("\"tbl\":")?;
        write_string(out, &self.table)?;
        // The ancestor's order.
        if let Rows::One(Some(id)) = &self.rows {
            out.write_str(",\"id\":")?;
            write_value(out, id)?;
        }
        write!(out, ",\"op\":\"{}\"", self.kind)?;
        if !self.key_columns.is_empty() {
            out.write_str(",\"key\":")?;
            write_array(out, &self.key_columns, |out, column| write_string(out, column))?;
        }
        if let Rows::Many(ids) = &self.rows {
            out.write_str(",\"ids\":")?;
            write_array(out, ids, |out, id| write_value(out, id))?;
        }
        for (name, images) in [("old", &self.old), ("new", &self.new)] {
            if let Some(images) = images {
                write!(out, ",\"{name}\":")?;
                write_array(out, images, |out, image| write_value(out, image))?;
            }
        }
        out.write_char('}')
    }

    /// The canonical text; see [`write`](Self::write).
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("a String takes everything");
        out
    }
}

fn write_array<W: fmt::Write, T>(
    out: &mut W,
    elements: &[T],
    mut write_element: impl FnMut(&mut W, &T) -> fmt::Result,
) -> fmt::Result {
    out.write_char('[')?;
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.write_char(',')?;
        }
        write_element(out, element)?;
    }
    out.write_char(']')
}

fn write_value<W: fmt::Write>(out: &mut W, value: &RawValue) -> fmt::Result {
    out.write_str(&compact(value.get()))
}

fn write_string<W: fmt::Write>(out: &mut W, text: &str) -> fmt::Result {
    out.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}
