//! What a store can be told besides where its server is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a [`PostgresLockStore`](crate::PostgresLockStore) can be told besides where its server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresLockOptions {
    /// The schema of the table of leases; `dapper_lock` by default. Those who contend must name the same one.
    pub schema: SchemaName,
    /// How long connecting may take, set-up of the session included; five seconds by default.
    pub connect_timeout: Duration,
    /// Whether a holder's live session is used to take over at once when it dies; true by default. Without it, and
    /// always behind a pooler that shares sessions, a dead holder is followed when its time to live has passed.
    pub use_sessions: bool,
}

/// The name of a schema: 1 to 63 bytes without NUL. Taken literally, upper and lower case as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

/// Why a text can't be the name of a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be the name of a schema: it must have 1 to 63 bytes and no NUL")]
pub struct SchemaNameError {
    /// The text.
    pub name: String,
}

impl SchemaName {
    /// Takes a name.
    ///
    /// # Errors
    /// [`SchemaNameError`] when it is empty, longer than 63 bytes or contains NUL.
    pub fn new(name: impl Into<String>) -> Result<Self, SchemaNameError> {
        let name = name.into();
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(SchemaNameError { name });
        }
        Ok(Self(name))
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

impl FromStr for SchemaName {
    type Err = SchemaNameError;

    fn from_str(name: &str) -> Result<Self, SchemaNameError> {
        Self::new(name)
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for PostgresLockOptions {
    fn default() -> Self {
        Self {
            schema: SchemaName("dapper_lock".to_owned()),
            connect_timeout: Duration::from_secs(5),
            use_sessions: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_quoted() {
        assert_eq!(SchemaName::new(r#"we"ird"#).unwrap().quoted(), r#""we""ird""#);
        for name in [String::new(), "a\0b".to_owned(), "x".repeat(64)] {
            assert_eq!(SchemaName::new(name.clone()), Err(SchemaNameError { name }));
        }
    }
}
