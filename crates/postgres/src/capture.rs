//! The function and the triggers that capture one table's changes.

use dapper_core::Operation;
use sha2::{Digest, Sha256};

use crate::names::{Names, quote_identifier, quote_literal};
use crate::options::Options;

const CAPTURE_SQL: &str = include_str!("capture.sql");

/// The operations that have triggers.
pub(crate) const CAPTURED: [Operation; 4] =
    [Operation::Create, Operation::Update, Operation::Delete, Operation::Truncate];

/// What the catalog says of a table, as far as its function follows from it.
pub(crate) struct Source {
    /// The key's columns, in order.
    pub(crate) key: Vec<String>,
    /// Whether the text of some key column depends on settings of the session that writes.
    pub(crate) setting_dependent: bool,
}

impl Source {
    /// Of a table that is not known yet: the static statement fails, and the one that asks the catalog takes its place.
    pub(crate) fn unknown() -> Self {
        Self { key: vec!["dapper: not known yet".to_owned()], setting_dependent: true }
    }
}

/// The function that a table's triggers run.
pub(crate) struct Function {
    body: String,
    settings: &'static [&'static str],
}

impl Function {
    /// The function for a table whose events carry `location`, a schema and a name.
    pub(crate) fn new(options: &Options, source: &Source, location: (&str, &str)) -> Self {
        let settings = if source.setting_dependent { PINNED_SETTINGS } else { &[] };
        Self { body: body(options, source, location), settings }
    }

    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// What it pins, as `CREATE FUNCTION` takes it.
    pub(crate) fn settings_sql(&self) -> String {
        self.settings
            .iter()
            .filter_map(|setting| setting.split_once('='))
            .map(|(name, value)| {
                format!(
                    " SET {name} TO {}",
                    value.split(", ").map(quote_literal).collect::<Vec<_>>().join(", ")
                )
            })
            .collect()
    }

    /// Whether it is the one that is there: by the SHA-256 of that one's source, and its settings.
    pub(crate) fn is(&self, sha256: Option<&[u8]>, settings: &[String]) -> bool {
        sha256 == Some(Sha256::digest(self.body.as_bytes()).as_slice())
            && settings.iter().map(String::as_str).eq(self.settings.iter().copied())
    }

    /// SECURITY DEFINER because writers have no rights on our schema. It sets no `search_path` of its own, which costs on
    /// every call; instead every name and operator in it is qualified.
    pub(crate) fn sql(&self, names: &Names, oid: u32) -> String {
        let settings = self.settings_sql();
        let function = format!("{}.capture_{oid}()", quote_identifier(&names.schema));
        format!(
            "CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER{settings} AS {};
             REVOKE ALL ON FUNCTION {function} FROM PUBLIC",
            quote_literal(&self.body)
        )
    }
}

/// The statement that puts the trigger for one operation on a table.
pub(crate) fn trigger_sql(
    names: &Names,
    oid: u32,
    operation: Operation,
    trigger: &str,
    relation: &str,
) -> String {
    let (event, referencing) = match operation {
        Operation::Create => ("INSERT", "REFERENCING NEW TABLE AS new_rows"),
        Operation::Update => ("UPDATE", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
        Operation::Delete => ("DELETE", "REFERENCING OLD TABLE AS old_rows"),
        Operation::Truncate | Operation::Read => ("TRUNCATE", ""),
    };
    format!(
        "CREATE TRIGGER {trigger} AFTER {event} ON {relation} {referencing} FOR EACH STATEMENT \
         EXECUTE FUNCTION {}.capture_{oid}()",
        quote_identifier(&names.schema)
    )
}

/// What a function pins when a key's text would otherwise depend on the writer's settings, as `proconfig` has it.
const PINNED_SETTINGS: &[&str] = &[
    "TimeZone=UTC",
    "bytea_output=hex",
    "extra_float_digits=1",
    "IntervalStyle=postgres",
    "DateStyle=ISO, MDY",
    "lc_monetary=C",
];

fn body(options: &Options, source: &Source, (schema, name): (&str, &str)) -> String {
    let names = &options.names;
    let json = |text: &str| serde_json::to_string(text).expect("text is valid JSON");
    let columns: Vec<String> = source.key.iter().map(|column| quote_identifier(column)).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|column| format!("COALESCE(pg_catalog.to_json(r.{column})::pg_catalog.text, 'null')"))
        .collect();
    let key = match values.as_slice() {
        [] => "'null'::pg_catalog.text".to_owned(),
        [value] => value.clone(),
        values => format!("pg_catalog.concat('[', {}, ']')", values.join(", ',', ")),
    };
    let selected: Vec<String> = columns.iter().map(|column| format!("o.{column}")).collect();
    let schema_field =
        if schema == "public" { String::new() } else { format!("\"schema\":{},", json(schema)) };
    let prefix = format!("{{{schema_field}\"tbl\":{},\"op\":\"", json(name));
    let key_columns: Vec<String> = source.key.iter().map(|column| json(column)).collect();
    let middle = format!("\",\"key\":[{}],\"ids\":[", key_columns.join(","));
    fill(
        CAPTURE_SQL,
        &[
            ("{schema}", &quote_identifier(&names.schema)),
            ("{channel}", &quote_literal(&names.channel)),
            ("{key}", &key),
            ("{columns}", &selected.join(", ")),
            ("{prefix}", &quote_literal(&prefix)),
            ("{middle}", &quote_literal(&middle)),
            ("{cap}", &cap(options)),
        ],
    )
}

/// Refuses to record beyond `max_size`. Measuring takes some time, so it is done once for every so many change sets, and
/// for each one while the limit is reached.
fn cap(options: &Options) -> String {
    let Some(bytes) = options.max_size else { return String::new() };
    let schema = quote_identifier(&options.names.schema);
    format!(
        "IF (SELECT f.last_value FROM {schema}.is_full f) OPERATOR(pg_catalog.=) 1
            OR (SELECT s.last_value OPERATOR(pg_catalog.%) 64 FROM {schema}.change_sets_seq s) OPERATOR(pg_catalog.=) 0 THEN
            PERFORM {schema}.refuse_when_full({bytes});
         END IF;"
    )
}

/// Fills in all placeholders in one pass, so that a value which looks like a placeholder stays as it is.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((name, value)) = values.iter().find(|(name, _)| rest.starts_with(name)) {
            out.push_str(value);
            rest = &rest[name.len()..];
        } else {
            out.push('{');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_look_like_placeholders_are_left_alone() {
        assert_eq!(fill("{a} {b} {c}", &[("{a}", "{b}"), ("{b}", "x")]), "{b} x {c}");
    }
}
