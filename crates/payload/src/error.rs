//! What is wrong with a text, and where.

use std::fmt;

/// The longest excerpt that [`ParseError::offending`] gives, in characters.
pub const MAX_OFFENDING_CHARS: usize = 40;

/// Why a text is no [`Payload`](crate::Payload): what is wrong, where, and what to do about it.
///
/// The message holds an excerpt of the text, and with it perhaps of a row; it is bounded by [`MAX_OFFENDING_CHARS`].
#[derive(Debug, thiserror::Error)]
#[error("{kind} at byte {offset}, {}; {}", Near(offending), kind.advice())]
pub struct ParseError {
    kind: ParseErrorKind,
    offset: usize,
    offending: Box<str>,
    source: Option<serde_json::Error>,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseErrorKind {
    #[error("the payload goes on beyond {limit} bytes")]
    TooLong { limit: usize },
    #[error("the payload is not valid JSON")]
    Syntax,
    #[error("the payload is not a JSON object")]
    NotAnObject,
    #[error("{field:?} is missing in the object")]
    MissingField { field: &'static str },
    #[error("{field:?} is given a second time")]
    DuplicateField { field: &'static str },
    #[error("{field:?} holds something other than {expected}")]
    WrongType { field: &'static str, expected: &'static str },
    #[error("{field:?} holds a string with an escape that stands for no character")]
    NoText { field: &'static str },
    #[error("unknown operation in \"op\"")]
    UnknownOperation,
    #[error("both \"id\" and \"ids\" are given")]
    IdAndIds,
    #[error("TRUNCATE comes with {field:?}")]
    TruncateWithRows { field: &'static str },
    #[error("\"key\" names more than {limit} columns")]
    TooManyKeyColumns { limit: usize },
    #[error("\"key\" names a column a second time")]
    DuplicateKeyColumn,
    #[error("an element of \"ids\" holds {actual} values for {expected} key columns")]
    KeyArity { expected: usize, actual: usize },
    #[error("{field:?} has {actual} elements for {expected} changed rows")]
    ImageCount { field: &'static str, expected: usize, actual: usize },
}

struct Near<'a>(&'a str);

impl ParseError {
    /// An error about `offending`, which begins at byte `offset` of the text.
    pub(crate) fn new(kind: ParseErrorKind, offset: usize, offending: &str) -> Self {
        let offending = offending.chars().take(MAX_OFFENDING_CHARS).collect::<String>().into();
        Self { kind, offset, offending, source: None }
    }

    /// An error about whatever is at or before byte `offset` of `text`.
    pub(crate) fn at(kind: ParseErrorKind, text: &str, offset: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        Self::new(kind, offset, &text[offset..])
    }

    /// What the JSON parser says of `text`.
    pub(crate) fn syntax(text: &str, error: serde_json::Error) -> Self {
        let offset = syntax_offset(text, &error);
        Self { source: Some(error), ..Self::at(ParseErrorKind::Syntax, text, offset) }
    }

    /// Where it is, in bytes from the start of the text; the text's length when it ends too early.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What is there: the first characters of the text from [`offset`](Self::offset) on, or of the value at fault.
    #[must_use]
    pub fn offending(&self) -> &str {
        &self.offending
    }
}

impl ParseErrorKind {
    fn advice(self) -> &'static str {
        match self {
            Self::TooLong { .. } => "split the change set",
            Self::Syntax => "send a JSON object such as {\"tbl\":\"orders\",\"id\":42,\"op\":\"INSERT\"}",
            Self::NotAnObject => "send one such as {\"tbl\":\"orders\",\"id\":42,\"op\":\"INSERT\"}",
            Self::MissingField { field: "ids" } => "give one element per changed row, or leave \"key\" out",
            Self::MissingField { .. } => "add it",
            Self::DuplicateField { .. } | Self::DuplicateKeyColumn => "give it once",
            Self::WrongType { .. } => "correct the value",
            Self::NoText { .. } => "write surrogates in pairs",
            Self::UnknownOperation => "use one of INSERT (CREATE), UPDATE, DELETE (REMOVE), TRUNCATE",
            Self::IdAndIds => "give \"id\" for one row, \"ids\" for several",
            Self::TruncateWithRows { .. } => "leave it out: TRUNCATE speaks of the whole table",
            Self::TooManyKeyColumns { .. } => "name the columns of the primary key alone",
            Self::KeyArity { .. } => "give one value per key column, in the order of \"key\"",
            Self::ImageCount { .. } => "give one object or null per changed row",
        }
    }
}

impl fmt::Display for Near<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("the end of the text"),
            text => write!(f, "near {text:?}"),
        }
    }
}

/// The parser gives line and column: the column counts the bytes of the line up to and with the one at fault. At an
/// early end there is none at fault.
fn syntax_offset(text: &str, error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return text.len();
    }
    let start_of_line: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (start_of_line + error.column()).saturating_sub(1);
    // With one exception: a control character inside a string is not counted when the string is only skipped.
    let is_control = |offset: usize| text.as_bytes().get(offset).is_some_and(|&byte| byte < b' ');
    if error.to_string().starts_with("control character") && !is_control(offset) {
        offset + 1
    } else {
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;
    use std::error::Error;

    fn offset(text: &str) -> usize {
        ParseError::syntax(text, serde_json::from_str::<&RawValue>(text).unwrap_err()).offset()
    }

    #[test]
    fn lines_and_columns_become_bytes() {
        for (text, expected) in [
            ("", 0),
            ("some bollocks", 0),
            ("\n\n  x", 4),
            ("[1,\n2,\r\n 3 4]", 11),
            ("[\"é\",\n\"ü\", ö]", 13),
            ("[1,", 3),
            ("[1,\n", 4),
            ("[\"é", 4),
            ("{\"a\"\n1}", 5),
            ("[tru\ne]", 4),
            ("[01]", 2),
            ("[-]", 2),
            (r#"["\q"]"#, 3),
            (r#"["\uzzzz"]"#, 7),
            ("1 1", 2),
            ("{1:1}", 1),
            ("[1,]", 3),
            ("[\"a\tb\"]", 3),
            ("[\"a\nb\"]", 3),
            ("[\n\"\n\"]", 3),
            ("[\"\u{1}\u{1}\"]", 2),
        ] {
            assert_eq!(offset(text), expected, "{text:?}");
        }
    }

    #[test]
    fn excerpts_are_bounded_and_cut_between_characters() {
        let text = "é".repeat(100);
        let error = ParseError::at(ParseErrorKind::Syntax, &text, 3);
        assert_eq!((error.offset(), error.offending()), (2, &text[..2 * MAX_OFFENDING_CHARS]));
        let error = ParseError::at(ParseErrorKind::Syntax, &text, 1000);
        assert_eq!((error.offset(), error.offending()), (200, ""));
    }

    #[test]
    fn the_parsers_own_words_are_the_source() {
        let error = ParseError::syntax("x", serde_json::from_str::<&RawValue>("x").unwrap_err());
        assert_eq!(error.source().unwrap().to_string(), "expected value at line 1 column 1");
    }
}
