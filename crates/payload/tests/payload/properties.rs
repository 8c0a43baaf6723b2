//! What holds for every text, and for every payload.

use dapper_payload::{Payload, parse};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::value::RawValue;

/// A JSON value: as it is written, compact, and as an id.
#[derive(Clone, Debug)]
struct Value {
    written: String,
    compact: String,
    id: String,
}

/// A payload as its writer sees it.
#[derive(Clone, Debug)]
struct Model {
    schema: Option<String>,
    table: String,
    operation: &'static str,
    key: Vec<String>,
    /// One value per key column and row; without key columns the rows alone count.
    rows: Vec<Vec<Value>>,
    old: Option<Vec<Option<Value>>>,
    new: Option<Vec<Option<Value>>>,
    space: &'static str,
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn joined(parts: impl Iterator<Item = String>, open: char, close: char, space: &str) -> String {
    let parts: Vec<String> = parts.collect();
    format!("{open}{space}{}{space}{close}", parts.join(&format!("{space},{space}")))
}

fn space() -> impl Strategy<Value = &'static str> + Clone {
    select(&["", " ", "\r\n\t", "  "][..])
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{1,8}", any::<String>(), r#"["\\\n\u{0}é😀 ]{0,6}"#]
}

fn same(text: String) -> Value {
    Value { written: text.clone(), compact: text.clone(), id: text }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,6})?".prop_map(same),
        any::<bool>().prop_map(|value| same(value.to_string())),
        Just(Value { id: String::new(), ..same("null".into()) }),
        name().prop_map(|text| Value { id: text.clone(), ..same(quoted(&text)) }),
        // The longest way to write a character.
        name().prop_map(|text| {
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            Value { id: text, ..same(format!("\"{escaped}\"")) }
        }),
    ]
}

fn array(elements: &[Value], space: &str) -> Value {
    let compact = joined(elements.iter().map(|value| value.compact.clone()), '[', ']', "");
    let written = joined(elements.iter().map(|value| value.written.clone()), '[', ']', space);
    Value { written, id: compact.clone(), compact }
}

fn object(members: &[(String, Value)], space: &str) -> Value {
    let pair = |name: &str, value: &str, space: &str| format!("{}{space}:{space}{value}", quoted(name));
    let compact = joined(members.iter().map(|(name, value)| pair(name, &value.compact, "")), '{', '}', "");
    let written =
        joined(members.iter().map(|(name, value)| pair(name, &value.written, space)), '{', '}', space);
    Value { written, id: compact.clone(), compact }
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            (vec(inner.clone(), 0..4), space()).prop_map(|(elements, space)| array(&elements, space)),
            (vec((name(), inner), 0..4), space()).prop_map(|(members, space)| object(&members, space)),
        ]
    })
}

fn images(rows: usize) -> impl Strategy<Value = Option<Vec<Option<Value>>>> {
    let image = (vec((name(), value()), 0..3), space()).prop_map(|(members, space)| object(&members, space));
    option::of(vec(option::of(image), rows))
}

fn model() -> impl Strategy<Value = Model> {
    (btree_set(name(), 0..4), 0..5_usize).prop_flat_map(|(key, rows)| {
        let key: Vec<String> = key.into_iter().collect();
        (
            option::of(name()),
            name(),
            select(&["INSERT", "update", "Delete", "create", "REMOVE"][..]),
            vec(vec(value(), key.len()), rows),
            images(rows),
            images(rows),
            space(),
            Just(key),
        )
            .prop_map(|(schema, table, operation, rows, old, new, space, key)| Model {
                schema,
                table,
                operation,
                key,
                rows,
                old,
                new,
                space,
            })
    })
}

impl Model {
    fn text(&self) -> String {
        let space = self.space;
        let list = |parts: &mut dyn Iterator<Item = String>| joined(parts, '[', ']', space);
        let mut fields = vec![("tbl", quoted(&self.table)), ("op", quoted(self.operation))];
        fields.extend(self.schema.as_ref().map(|schema| ("schema", quoted(schema))));
        fields.push(("key", list(&mut self.key.iter().map(|name| quoted(name)))));
        fields.push((
            "ids",
            list(&mut self.rows.iter().map(|values| match values.as_slice() {
                [] => "null".to_owned(),
                [value] => value.written.clone(),
                values => array(values, space).written,
            })),
        ));
        for (name, images) in [("old", &self.old), ("new", &self.new)] {
            let image =
                |image: &Option<Value>| image.as_ref().map_or("null".into(), |image| image.written.clone());
            fields.extend(images.as_ref().map(|images| (name, list(&mut images.iter().map(image)))));
        }
        let pairs = fields.into_iter().map(|(name, value)| format!("\"{name}\"{space}:{space}{value}"));
        format!("{space}{}{space}", joined(pairs, '{', '}', space))
    }

    fn check(&self, payload: &Payload<'_>, written: bool) -> Result<(), TestCaseError> {
        let schema = self.schema.as_deref().unwrap_or("public");
        prop_assert_eq!(payload.schema(), schema);
        prop_assert_eq!(payload.table(), &self.table);
        if schema == "public" {
            prop_assert_eq!(payload.location(), self.table.as_str());
        } else {
            prop_assert_eq!(payload.location(), format!("{schema}.{}", self.table));
        }
        prop_assert_eq!(payload.key_columns(), &self.key[..]);
        prop_assert_eq!(payload.changes().len(), self.rows.len());
        for (index, (change, values)) in payload.changes().zip(&self.rows).enumerate() {
            let members: Vec<_> = self.key.iter().cloned().zip(values.iter().cloned()).collect();
            let id = match values.as_slice() {
                [] => String::new(),
                [value] => value.id.clone(),
                values => array(values, "").id,
            };
            prop_assert_eq!(change.id(), id);
            let key = change.key_json().map(|key| key.get().to_owned());
            prop_assert_eq!(key, (!members.is_empty()).then(|| object(&members, "").compact));
            for (actual, images) in [(change.old(), &self.old), (change.new(), &self.new)] {
                let expected = images.as_ref().and_then(|images| images[index].as_ref());
                let expected = expected.map(|image| if written { &*image.written } else { &*image.compact });
                prop_assert_eq!(actual.map(RawValue::get), expected);
            }
        }
        Ok(())
    }
}

/// What must hold for any text.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    match parse(text) {
        Ok(payload) => {
            for change in &payload {
                let _ = (change.id(), change.key_json(), change.old(), change.new());
            }
            let written = payload.to_json();
            prop_assert_eq!(parse(&written).unwrap().to_json(), written);
        }
        Err(error) => {
            prop_assert!(error.offset() <= text.len());
            prop_assert!(text[error.offset()..].starts_with(error.offending()), "{}", error);
            prop_assert!(error.offending().chars().count() <= dapper_payload::MAX_OFFENDING_CHARS);
            prop_assert!(!error.to_string().is_empty());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_a_payload_or_an_error_with_a_place(text in any::<String>()) {
        check_any(&text)?;
    }

    #[test]
    fn any_bytes_that_are_text_are_too(bytes in vec(any::<u8>(), 0..64)) {
        check_any(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_tokens_are_too(tokens in vec(select(&[
        "{", "}", "[", "]", ",", ":", "\"tbl\"", "\"op\"", "\"id\"", "\"ids\"", "\"key\"", "\"old\"", "\"new\"",
        "\"schema\"", "\"INSERT\"", "\"TRUNCATE\"", "\"t\"", "null", "1", "true", "\n", " ", "\"\\ud800\"", "\"", "é",
    ][..]), 0..40)) {
        check_any(&tokens.concat())?;
        check_any(&format!("{{\"tbl\":\"t\",\"op\":\"INSERT\",{}}}", tokens.concat()))?;
    }

    #[test]
    fn payloads_mean_what_was_written(model in model()) {
        let text = model.text();
        let payload = parse(&text).map_err(|error| TestCaseError::fail(format!("{error} in {text}")))?;
        model.check(&payload, true)?;
        let canonical = payload.to_json();
        let again = parse(&canonical).map_err(|error| TestCaseError::fail(format!("{error} in {canonical}")))?;
        model.check(&again, false)?;
        prop_assert_eq!(&again.to_json(), &canonical);
        prop_assert_eq!(again.kind(), payload.kind());
    }

    #[test]
    fn notifications_mean_what_was_written(table in name(), id in scalar(), space in space()) {
        let text = format!(
            r#"{{"tbl":{space}{},{space}"id":{}{space},"op":"INSERT"{space}}}"#, quoted(&table), id.written
        );
        let payload = parse(&text).unwrap();
        prop_assert_eq!(payload.table(), table);
        let ids: Vec<_> = payload.changes().map(|change| change.id().into_owned()).collect();
        prop_assert_eq!(ids, [id.id]);
        check_any(&text)?;
    }

    #[test]
    fn mutated_payloads_never_panic(model in model(), edits in vec((any::<Index>(), any::<char>(), 0..3_u8), 1..4)) {
        let mut chars: Vec<char> = model.text().chars().collect();
        for (index, char, edit) in edits {
            let index = index.index(chars.len());
            match edit {
                0 => chars[index] = char,
                1 => drop(chars.remove(index)),
                _ => chars.truncate(index.max(1)),
            }
            if chars.is_empty() {
                break;
            }
        }
        check_any(&chars.into_iter().collect::<String>())?;
    }
}
