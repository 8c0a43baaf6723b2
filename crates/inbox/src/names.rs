//! Names that can't be wrong.

use std::fmt;
use std::str::FromStr;

/// PostgreSQL cuts longer identifiers off.
const MOST_SCHEMA_BYTES: usize = 63;
/// A longer one would not fit into an index together with an input's.
const MOST_CONSUMER_BYTES: usize = 500;

/// The name of the inbox's schema: 1 to 63 bytes without NUL, taken literally. `dapper_inbox` by default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

/// Who consumes: each event is new once to each consumer. At most 500 bytes without NUL; empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConsumerName(String);

/// Why a text can't be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be the name of a {what}: it must have {least} to {most} bytes and no NUL")]
pub struct NameError {
    /// `"schema"` or `"consumer"`.
    pub what: &'static str,
    /// The text.
    pub name: String,
    /// The fewest bytes it may have.
    pub least: usize,
    /// The most bytes it may have.
    pub most: usize,
}

impl SchemaName {
    /// Takes a name.
    ///
    /// # Errors
    /// When it is empty, longer than 63 bytes or contains NUL.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        checked("schema", name.into(), 1, MOST_SCHEMA_BYTES).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it stands in a statement.
    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl ConsumerName {
    /// Takes a name.
    ///
    /// # Errors
    /// When it is longer than 500 bytes or contains NUL.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        checked("consumer", name.into(), 0, MOST_CONSUMER_BYTES).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn checked(what: &'static str, name: String, least: usize, most: usize) -> Result<String, NameError> {
    if name.len() < least || name.len() > most || name.contains('\0') {
        return Err(NameError { what, name, least, most });
    }
    Ok(name)
}

impl Default for SchemaName {
    fn default() -> Self {
        Self("dapper_inbox".to_owned())
    }
}

impl FromStr for SchemaName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl FromStr for ConsumerName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_quoted() {
        assert_eq!(SchemaName::new(r#"we"ird"#).unwrap().quoted(), r#""we""ird""#);
        for name in ["", "a\0b", &"x".repeat(64)] {
            assert_eq!(SchemaName::new(name).unwrap_err().name, name);
        }
        for name in ["a\0b", &"x".repeat(501)] {
            assert_eq!(ConsumerName::new(name).unwrap_err().name, name);
        }
        assert_eq!(ConsumerName::new("").unwrap(), ConsumerName::default());
    }
}
