//! What happened to a row.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What happened to the thing that an [`Event`](crate::Event) speaks of.
///
/// Text is read without regard to case, with `insert` and `remove` as other words for `create` and `delete`;
/// it is written in lower case, always by the canonical word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// It came into being (`create`, also read from `insert`).
    Create,
    /// It was read (`read`); no input of this workspace issues it.
    Read,
    /// It was changed (`update`).
    Update,
    /// It is gone (`delete`, also read from `remove`).
    Delete,
    /// Everything at the location is gone at once (`truncate`); such an event has an empty id.
    Truncate,
}

impl Operation {
    /// The canonical word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// The text names no [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown operation {text:?}; use one of create (insert), read, update, delete (remove), truncate")]
pub struct UnknownOperation {
    /// The text as it was given.
    pub text: String,
}

impl FromStr for Operation {
    type Err = UnknownOperation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WORDS: [(&str, Operation); 7] = [
            ("create", Operation::Create),
            ("insert", Operation::Create),
            ("read", Operation::Read),
            ("update", Operation::Update),
            ("delete", Operation::Delete),
            ("remove", Operation::Delete),
            ("truncate", Operation::Truncate),
        ];
        WORDS
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
            .map(|&(_, operation)| operation)
            .ok_or_else(|| UnknownOperation { text: text.to_owned() })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Operation;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an operation")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Operation, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KNOWN: [(&str, Operation); 10] = [
        ("create", Operation::Create),
        ("CREATE", Operation::Create),
        ("cReAtE", Operation::Create),
        ("insert", Operation::Create),
        ("read", Operation::Read),
        ("update", Operation::Update),
        ("delete", Operation::Delete),
        ("remove", Operation::Delete),
        ("INSERT", Operation::Create),
        ("Truncate", Operation::Truncate),
    ];

    #[test]
    fn text_is_read_in_any_case() {
        for (text, operation) in KNOWN {
            assert_eq!(text.parse(), Ok(operation), "{text}");
        }
    }

    #[test]
    fn json_is_read_in_any_case() {
        for (text, operation) in KNOWN {
            let json = format!("{text:?}");
            assert_eq!(serde_json::from_str::<Operation>(&json).unwrap(), operation);
        }
    }

    #[test]
    fn unknown_text_is_an_error_that_names_it() {
        let error = "new".parse::<Operation>().unwrap_err();
        assert_eq!(error.text, "new");
        assert!(error.to_string().contains("\"new\""));
        let error = serde_json::from_str::<Operation>("\"new\"").unwrap_err();
        assert!(error.to_string().contains("\"new\""), "{error}");
    }

    #[test]
    fn text_out_is_canonical() {
        let out: Vec<String> = KNOWN.iter().map(|(_, operation)| operation.to_string()).collect();
        assert_eq!(out.join(" "), "create create create create read update delete delete create truncate");
        assert_eq!(serde_json::to_string(&Operation::Delete).unwrap(), "\"delete\"");
    }

    proptest! {
        #[test]
        fn canonical_text_round_trips_in_any_case(index in 0..KNOWN.len(), upper in any::<u16>()) {
            let operation = KNOWN[index].1;
            let text: String = operation.as_str().chars().enumerate()
                .map(|(i, c)| if upper >> i & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .collect();
            prop_assert_eq!(text.parse(), Ok(operation));
        }

        #[test]
        fn other_text_is_refused_and_named(text in "\\PC{0,12}") {
            let known = KNOWN.iter().any(|(word, _)| word.eq_ignore_ascii_case(&text));
            match text.parse::<Operation>() {
                Ok(_) => prop_assert!(known),
                Err(error) => {
                    prop_assert!(!known);
                    prop_assert_eq!(error.text, text);
                }
            }
        }
    }
}
