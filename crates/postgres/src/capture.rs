//! The function and the triggers that capture one table's changes.

use dapper_core::Operation;
use sha2::{Digest, Sha256};

use crate::images::{self, Images};
use crate::names::{Names, quote_identifier, quote_literal};
use crate::options::{OnCaptureError, Options};

const CAPTURE_SQL: &str = include_str!("capture.sql");
const COLLECT_KEYS_SQL: &str = include_str!("collect_keys.sql");
const MISSED_SQL: &str = include_str!("missed.sql");
const COLLECT_IMAGES_SQL: &str = include_str!("collect_images.sql");

/// Captures with the catalog's help.
const BY_STATEMENT_SQL: &str =
    "        EXECUTE {schema}.capture_statement(TG_RELID, TG_OP, {prefix}, state OPERATOR(pg_catalog./) 2);";
/// The same with images; without them where one is larger than what the server can hold in memory at once.
const IMAGES_BY_STATEMENT_SQL: &str = "        BEGIN
            EXECUTE {schema}.capture_images(TG_RELID, TG_OP, {prefix}, state OPERATOR(pg_catalog./) 2, {with_old}, {excluded});
        EXCEPTION WHEN program_limit_exceeded OR internal_error THEN
            EXECUTE {schema}.capture_statement(TG_RELID, TG_OP, {prefix}, state OPERATOR(pg_catalog./) 2);
        END;";

/// The operations that have triggers.
pub(crate) const CAPTURED: [Operation; 4] =
    [Operation::Create, Operation::Update, Operation::Delete, Operation::Truncate];

/// What the catalog says of a table, as far as its function follows from it.
pub(crate) struct Source {
    /// The key's columns, in order.
    pub(crate) key: Vec<String>,
    /// Whether the text of some key column depends on settings of the session that writes.
    pub(crate) setting_dependent: bool,
    /// All columns, in order, where images are captured.
    pub(crate) columns: Vec<String>,
    /// Schema and name of the table and of all that it is a part of, where images are captured.
    pub(crate) ancestors: Vec<(String, String)>,
}

/// Stands for the patterns of excluded columns of a table that does not exist yet, in the text of a function.
pub(crate) const EXCLUDED_MARKER: &str = "ARRAY['dapper:excluded']::pg_catalog.text[]";

impl Source {
    /// Of a table that is not known yet: the static statement fails, and the one that asks the catalog takes its place.
    pub(crate) fn unknown() -> Self {
        Self {
            key: vec!["dapper: not known yet".to_owned()],
            setting_dependent: true,
            columns: Vec::new(),
            ancestors: Vec::new(),
        }
    }
}

/// The function that a table's triggers run.
pub(crate) struct Function {
    body: String,
    settings: &'static [&'static str],
}

/// How a function gets at the images of a row.
struct ImageSql {
    old: String,
    new: String,
    old_rows: String,
    new_rows: String,
    with_old: &'static str,
    /// What the catalog's statement must leave out.
    excluded: String,
}

impl Function {
    /// The function for a table whose events carry `location`, a schema and a name.
    pub(crate) fn new(options: &Options, source: &Source, location: (&str, &str)) -> Self {
        let pinned = source.setting_dependent || options.images.any();
        let settings = if pinned { PINNED_SETTINGS } else { &[] };
        Self { body: body(options, source, location), settings }
    }

    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// Whether it is the one that is there: by the SHA-256 of that one's source, and its settings.
    pub(crate) fn is(&self, sha256: Option<&[u8]>, settings: &[String]) -> bool {
        sha256 == Some(Sha256::digest(self.body.as_bytes()).as_slice())
            && settings.iter().map(String::as_str).eq(self.settings.iter().copied())
    }

    /// The clauses that pin settings.
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

/// What a function pins when the text of a key or an image would otherwise depend on the writer's settings, as `proconfig`
/// has it. The path and the quoting are for names of objects as values, such as `regclass`.
const PINNED_SETTINGS: &[&str] = &[
    "TimeZone=UTC",
    "bytea_output=hex",
    "extra_float_digits=1",
    "IntervalStyle=postgres",
    "DateStyle=ISO, MDY",
    "lc_monetary=C",
    "search_path=pg_catalog, pg_temp",
    "quote_all_identifiers=off",
];

fn body(options: &Options, source: &Source, (schema, name): (&str, &str)) -> String {
    let names = &options.names;
    let json = |text: &str| serde_json::to_string(text).expect("text is valid JSON");
    let columns: Vec<String> = source.key.iter().map(|column| quote_identifier(column)).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|column| {
            let value = json_sql(&quote_identifier(&names.schema), column);
            format!("COALESCE(({value})::pg_catalog.text, 'null')")
        })
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
    let (collect, by_statement, variables) = if options.images.any() {
        (COLLECT_IMAGES_SQL, IMAGES_BY_STATEMENT_SQL, "    old_images text;\n    new_images text;\n")
    } else {
        (COLLECT_KEYS_SQL, BY_STATEMENT_SQL, "")
    };
    let images = image_sql(options, source);
    let (schema, prefix) = (quote_identifier(&names.schema), quote_literal(&prefix));
    let skip = options.on_capture_error == OnCaptureError::Skip;
    let missed = if skip { missed(names) } else { String::new() };
    let note = note(names);
    let parts = [
        ("{schema}", schema.as_str()),
        ("{note}", &note),
        ("{key}", &key),
        ("{columns}", &selected.join(", ")),
        ("{prefix}", &prefix),
        ("{middle}", &quote_literal(&middle)),
        ("{old_image}", &images.old),
        ("{new_image}", &images.new),
        ("{old_rows}", &images.old_rows),
        ("{new_rows}", &images.new_rows),
        ("{with_old}", images.with_old),
        ("{excluded}", &images.excluded),
    ];
    fill(
        CAPTURE_SQL,
        &[
            ("{schema}", &schema),
            ("{attempt}", if skip { "BEGIN\n" } else { "" }),
            ("{missed}", &missed),
            ("{note}", &note),
            ("{channel}", &quote_literal(&names.channel)),
            ("{variables}", variables),
            ("{collect}", &fill(collect, &parts)),
            ("{by_statement}", &fill(by_statement, &parts)),
            ("{prefix}", &prefix),
            ("{cap}", &cap(options)),
        ],
    )
}

/// The value of a column of row `r`, as JSON. The server's own types are below 16,384, and nobody makes casts for them; for
/// others `to_json` would run a cast that somebody made, with the rights of the function's owner. The type is that of this
/// moment, which is not the one that the function was made for once somebody has changed it.
pub(crate) fn json_sql(schema: &str, column: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.pg_typeof(r.{column})::pg_catalog.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid \
         THEN pg_catalog.to_json(r.{column}) ELSE {schema}.value_to_json(r.{column})::pg_catalog.json END"
    )
}

/// What a statement says of itself as a comment. The server shows its text as the context of an error of it: so an error
/// names us and a way out and is left as it is otherwise, at no cost where there is none. A handler that adds a hint would
/// take a subtransaction, and with it a second transaction id, from every statement of every writer.
pub(crate) fn note(names: &Names) -> String {
    let name: String = names.schema.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    format!(
        "/* dapper: where this fails, a change can not be recorded in schema {name}: run dapper doctor. dapper uninstall and \
         then dapper install make the schema anew, on_capture_error = skip lets statements pass unrecorded, dapper \
         uninstall removes the triggers. */"
    )
}

/// The end of a function that lets the statement pass.
fn missed(names: &Names) -> String {
    let schema = quote_identifier(&names.schema);
    let who = quote_literal(&format!("dapper (schema {})", names.schema));
    fill(MISSED_SQL, &[("{schema_literal}", &schema.replace('\'', "''")), ("{who}", &who)])
}

fn image_sql(options: &Options, source: &Source) -> ImageSql {
    let excluded = options.exclude_columns.for_table(&source.ancestors);
    let none = "NULL::pg_catalog.text";
    // Of a table that is not known yet, which columns to leave out isn't either.
    let image = match source.ancestors.as_slice() {
        [] => none.to_owned(),
        _ => images::image_sql(&quote_identifier(&options.names.schema), &source.columns, &excluded),
    };
    let with_old = options.images == Images::OldAndNew;
    ImageSql {
        old: if with_old { image.clone() } else { none.to_owned() },
        new: image,
        old_rows: images::rows_sql("old_rows", &source.columns, &excluded),
        new_rows: images::rows_sql("new_rows", &source.columns, &excluded),
        with_old: if with_old { "true" } else { "false" },
        excluded: if source.ancestors.is_empty() {
            EXCLUDED_MARKER.to_owned()
        } else {
            images::like_array(&excluded)
        },
    }
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
