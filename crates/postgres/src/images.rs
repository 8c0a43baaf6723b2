//! Which row images an input captures, and which columns never are in one.

use dapper_core::glob;

use crate::PostgresError;
use crate::capture::{Source, json_sql};
use crate::names::{quote_identifier, quote_literal};
use crate::patterns::like;

/// What of a row goes into an event besides its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Images {
    /// Nothing.
    Key,
    /// The row as an insert or an update left it.
    New,
    /// Also the row as it was before an update or a delete.
    OldAndNew,
}

impl Images {
    pub(crate) fn any(self) -> bool {
        self != Self::Key
    }
}

/// Columns that are left out of row images: `column`, `table.column` or `schema.table.column`, where `*` stands for any run
/// of characters. What is not named matches everything, so that a pattern never leaves out less than it seems to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ColumnPatterns(Vec<ColumnPattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct ColumnPattern {
    schema: String,
    table: String,
    column: String,
}

impl ColumnPatterns {
    pub(crate) fn parse(texts: &[String]) -> Result<Self, PostgresError> {
        texts.iter().map(|text| ColumnPattern::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// The patterns for the columns of a table that goes by these names, each a schema and a table: its own, and those of the
    /// tables it is a part of.
    pub(crate) fn for_table(&self, names: &[(String, String)]) -> Vec<&str> {
        let applies = |pattern: &&ColumnPattern| {
            names.iter().any(|(schema, table)| glob(&pattern.schema, schema) && glob(&pattern.table, table))
        };
        self.0.iter().filter(applies).map(|pattern| pattern.column.as_str()).collect()
    }

    /// The patterns that leave out no column of these tables.
    pub(crate) fn unused(&self, tables: &[&Source]) -> Vec<String> {
        let leaves_out = |pattern: &ColumnPattern, table: &Source| {
            let mut names = table.ancestors.iter();
            names.any(|(schema, name)| glob(&pattern.schema, schema) && glob(&pattern.table, name))
                && table.columns.iter().any(|column| glob(&pattern.column, column))
        };
        let unused = self.0.iter().filter(|pattern| !tables.iter().any(|table| leaves_out(pattern, table)));
        unused.map(|pattern| format!("{}.{}.{}", pattern.schema, pattern.table, pattern.column)).collect()
    }

    /// The patterns as rows for a `VALUES` list, each a schema, a table and a column in the form of `LIKE`.
    pub(crate) fn sql(&self) -> String {
        let row = |pattern: &ColumnPattern| {
            let [schema, table, column] =
                [&pattern.schema, &pattern.table, &pattern.column].map(|text| like(text));
            format!("({schema}, {table}, {column})")
        };
        let none = "(NULL, NULL, NULL)".to_owned();
        self.0.iter().map(row).chain([none]).collect::<Vec<_>>().join(", ")
    }
}

impl ColumnPattern {
    fn parse(text: &str) -> Result<Self, PostgresError> {
        let (table, column) = text.rsplit_once('.').unwrap_or(("*", text));
        let (schema, table) = table.split_once('.').unwrap_or(("*", table));
        if [schema, table, column].contains(&"") {
            return Err(PostgresError::Option {
                key: "exclude_columns".to_owned(),
                reason: format!(
                    "exclude_columns has the pattern {text:?}; write \"schema.table.column\", \"table.column\" or \"column\""
                ),
            });
        }
        Ok(Self { schema: schema.to_owned(), table: table.to_owned(), column: column.to_owned() })
    }
}

/// The patterns as an array of what `LIKE` takes.
pub(crate) fn like_array(patterns: &[&str]) -> String {
    let patterns: Vec<String> = patterns.iter().map(|pattern| like(pattern)).collect();
    format!("ARRAY[{}]::pg_catalog.text[]", patterns.join(", "))
}

/// The expression for the image of row `r`: of the columns that are known not to be left out, so that what a column's name
/// does not tell yet never gets out.
pub(crate) fn image_sql(schema: &str, columns: &[String], excluded: &[&str]) -> String {
    let left: Vec<String> = columns
        .iter()
        .filter(|column| !excluded.iter().any(|pattern| glob(pattern, column)))
        .map(|column| {
            let column = quote_identifier(column);
            format!("{} AS {column}", json_sql(schema, &column))
        })
        .collect();
    if left.is_empty() {
        return format!("{}::pg_catalog.text", quote_literal("{}"));
    }
    format!("(SELECT pg_catalog.row_to_json(x.*)::pg_catalog.text FROM (SELECT {}) x)", left.join(", "))
}

/// The rows of a transition table. Where no column can be left out the image is the row whatever columns it has by then: so
/// this does not parse when the table has more or fewer than it had, and the statement that asks the catalog takes its place.
pub(crate) fn rows_sql(transition_table: &str, columns: &[String], excluded: &[&str]) -> String {
    if excluded.is_empty() {
        let nulls = vec!["NULL"; columns.len()].join(", ");
        format!("(SELECT o.* FROM {transition_table} o UNION ALL SELECT {nulls} WHERE false)")
    } else {
        transition_table.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(patterns: &[&str], table: (&str, &str)) -> Vec<String> {
        let texts: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
        let patterns = ColumnPatterns::parse(&texts).unwrap();
        patterns
            .for_table(&[(table.0.to_owned(), table.1.to_owned())])
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn what_a_pattern_does_not_name_matches_everything() {
        let patterns = ["token", "users.pin", "audit.log_*.ip", "*.secret*", "public.a.b.c"];
        assert_eq!(excluded(&patterns, ("public", "users")), ["token", "pin", "secret*"]);
        assert_eq!(excluded(&patterns, ("else", "users")), ["token", "pin", "secret*"]);
        assert_eq!(excluded(&patterns, ("audit", "log_1")), ["token", "ip", "secret*"]);
        assert_eq!(excluded(&patterns, ("public", "a.b")), ["token", "secret*", "c"]);
    }

    #[test]
    fn half_a_pattern_is_refused() {
        for text in ["", ".", "a.", ".a", "a..b", "public.users."] {
            let error = ColumnPatterns::parse(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn an_image_without_columns_is_an_object_all_the_same() {
        let columns = ["a".to_owned()];
        assert_eq!(image_sql("s", &columns, &["*"]), "'{}'::pg_catalog.text");
    }
}
