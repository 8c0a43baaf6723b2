//! What happened to the rows.

use std::fmt;

/// What happened to the rows that a [`Payload`](crate::Payload) speaks of.
///
/// Read without regard to case, with `CREATE` and `REMOVE` as other words for `INSERT` and `DELETE`; written by
/// PostgreSQL's own word in upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// They are new (`INSERT`, also read from `CREATE`).
    Insert,
    /// They have other contents now (`UPDATE`).
    Update,
    /// They are gone (`DELETE`, also read from `REMOVE`).
    Delete,
    /// All rows of the table are gone at once (`TRUNCATE`).
    Truncate,
}

impl ChangeKind {
    /// PostgreSQL's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
        }
    }

    /// The kind that `word` stands for.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        const WORDS: [(&str, ChangeKind); 6] = [
            ("INSERT", ChangeKind::Insert),
            ("UPDATE", ChangeKind::Update),
            ("DELETE", ChangeKind::Delete),
            ("TRUNCATE", ChangeKind::Truncate),
            ("CREATE", ChangeKind::Insert),
            ("REMOVE", ChangeKind::Delete),
        ];
        WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|&(_, kind)| kind)
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case() {
        for (word, kind) in [
            ("INSERT", ChangeKind::Insert),
            ("create", ChangeKind::Insert),
            ("uPdAtE", ChangeKind::Update),
            ("Delete", ChangeKind::Delete),
            ("REMOVE", ChangeKind::Delete),
            ("truncate", ChangeKind::Truncate),
        ] {
            assert_eq!(ChangeKind::from_word(word), Some(kind), "{word}");
        }
        for word in ["", "read", "INSERT ", "ins\u{131}rt"] {
            assert_eq!(ChangeKind::from_word(word), None, "{word}");
        }
    }

    #[test]
    fn words_out_are_postgresqls() {
        assert_eq!(format!("{:>8}", ChangeKind::Insert), "  INSERT");
        assert_eq!(ChangeKind::from_word(ChangeKind::Truncate.as_str()), Some(ChangeKind::Truncate));
    }
}
