//! From an input's name to its id, its schema, its channel and the names of its triggers.

use dapper_core::Operation;
use sha2::{Digest, Sha256};

/// PostgreSQL cuts identifiers off beyond this many bytes (`NAMEDATALEN - 1`).
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// Leaves room for the longest suffix of a trigger's name, `_truncate`.
const MAX_SCHEMA_BYTES: usize = MAX_IDENTIFIER_BYTES - "_truncate".len();

const PREFIX: &str = "dapper_";

/// The names that follow from an input's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The input's id: its name with `-` replaced by `_`. Events carry it as `trigger`.
    pub id: String,
    /// The schema that holds everything the input installs. Two names never share one.
    pub schema: String,
    /// The channel of the wake-up: the id, or the schema's name where the id is no valid channel.
    pub channel: String,
}

impl Names {
    /// The names for the input called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let id = name.replace('-', "_");
        let schema = schema_name(name);
        let valid_channel = !id.is_empty() && id.len() <= MAX_IDENTIFIER_BYTES && !id.contains('\0');
        let channel = if valid_channel { id.clone() } else { schema.clone() };
        Self { id, schema, channel }
    }

    /// The name of the trigger for `operation` on every captured table.
    pub(crate) fn trigger(&self, operation: Operation) -> String {
        let suffix = match operation {
            Operation::Create => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
            Operation::Read => unreachable!("options refuse to capture reads"),
        };
        format!("{}_{suffix}", self.schema)
    }
}

/// Words of lower-case letters and digits joined by single `-` or `_` keep their text, `-` as `_` and `_` as `__`, so
/// that it can be read back. Everything else is shortened to what is readable of it, followed by `_h_` and a hash; a
/// name that would come out with such an ending by itself is hashed too, so the two kinds never meet.
fn schema_name(name: &str) -> String {
    let words = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let plain = !name.is_empty()
        && name.split(['-', '_']).all(|word| !word.is_empty() && word.chars().all(words))
        && !looks_hashed(name);
    if plain {
        let text = name.replace('_', "__").replace('-', "_");
        if PREFIX.len() + text.len() <= MAX_SCHEMA_BYTES {
            return format!("{PREFIX}{text}");
        }
    }
    let hash = Sha256::digest(name.as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let room = MAX_SCHEMA_BYTES - PREFIX.len() - "_h_".len() - hash.len();
    let readable: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if words(c) { c } else { '_' })
        .take(room)
        .collect();
    format!("{PREFIX}{readable}_h_{hash}")
}

/// Whether a plain name would come out with the ending that marks a hashed one.
fn looks_hashed(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(head, hash)| {
        hash.len() == 16
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && (head.ends_with("-h") || head.ends_with("_h"))
    })
}

/// The same number for the same text, in every version and on every machine.
pub(crate) fn stable_hash(text: &str) -> i64 {
    let hash = Sha256::digest(text.as_bytes());
    i64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 digest has 32 bytes"))
}

/// `text` as a quoted SQL identifier.
pub(crate) fn quote_identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// `text` as an SQL string literal, whatever `standard_conforming_strings` says.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn ids_are_the_ancestors() {
        assert_eq!(Names::new("orders-input").id, "orders_input");
        assert_eq!(Names::new("test_input").id, "test_input");
        assert_eq!(Names::new("").id, "");
    }

    #[test]
    fn usual_names_stay_readable() {
        assert_eq!(Names::new("orders-input").schema, "dapper_orders_input");
        assert_eq!(Names::new("orders_input").schema, "dapper_orders__input");
        assert_eq!(Names::new("Orders Input").schema, "dapper_orders_input_h_b215f897ff37d098");
    }

    #[test]
    fn a_name_made_to_look_hashed_does_not_collide() {
        let hashed = Names::new("Orders").schema;
        let forged = hashed.strip_prefix("dapper_").unwrap().replace('_', "-");
        assert_ne!(Names::new(&forged).schema, hashed);
    }

    #[test]
    fn long_channels_fall_back_to_the_schema() {
        let names = Names::new(&"x".repeat(64));
        assert_eq!(names.channel, names.schema);
        assert_eq!(Names::new("orders-input").channel, "orders_input");
        assert!(!Names::new("").channel.is_empty());
    }

    proptest! {
        #[test]
        fn schemas_never_collide_and_fit(names in prop::collection::hash_set(
            prop_oneof!["[a-z_-]{0,8}", "[ab_-]{1,5}", "\\PC{0,80}", "[a-z]{40,70}", "(h-|h_)?[0-9a-f]{16}"], 1..200)
        ) {
            let mut seen: HashMap<String, String> = HashMap::new();
            for name in names {
                let of = Names::new(&name);
                prop_assert!(of.schema.len() <= MAX_SCHEMA_BYTES);
                prop_assert!(of.trigger(Operation::Truncate).len() <= MAX_IDENTIFIER_BYTES);
                prop_assert!(of.channel.len() <= MAX_IDENTIFIER_BYTES && !of.channel.is_empty());
                prop_assert!(of.schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
                if let Some(other) = seen.insert(of.schema.clone(), name.clone()) {
                    prop_assert!(false, "{other:?} and {name:?} share {}", of.schema);
                }
            }
        }

        #[test]
        fn plain_names_read_back(words in prop::collection::vec("[a-z0-9]{1,4}", 1..5), separators in any::<u8>()) {
            let mut name = String::new();
            for (i, word) in words.iter().enumerate() {
                if i > 0 {
                    name.push(if separators >> i & 1 == 1 { '-' } else { '_' });
                }
                name.push_str(word);
            }
            let schema = Names::new(&name).schema;
            let back = schema["dapper_".len()..].replace("__", "\0").replace('_', "-").replace('\0', "_");
            prop_assert_eq!(back, name);
        }
    }
}
