//! Which tables an input captures.

use dapper_core::glob;

use crate::PostgresError;
use crate::names::quote_literal;

/// Include and exclude patterns of the form `schema.table`, where `*` stands for any run of characters.
///
/// A pattern without a dot means schema `public`. Letters match exactly, as the catalog writes them. Tables of the
/// system's schemas and of any `dapper_…` schema never match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TablePatterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    schema: String,
    table: String,
}

impl TablePatterns {
    pub(crate) fn parse(include: &[String], exclude: &[String]) -> Result<Self, PostgresError> {
        if include.is_empty() {
            return Err(PostgresError::Option {
                key: "tables".into(),
                reason: "tables is empty; name at least one pattern, for example \"public.*\"".into(),
            });
        }
        Ok(Self { include: patterns("tables", include)?, exclude: patterns("exclude", exclude)? })
    }

    pub(crate) fn matches(&self, schema: &str, table: &str) -> bool {
        let any =
            |patterns: &[Pattern]| patterns.iter().any(|p| glob(&p.schema, schema) && glob(&p.table, table));
        let reserved =
            schema.starts_with("pg_") || schema == "information_schema" || schema.starts_with("dapper_");
        !reserved && any(&self.include) && !any(&self.exclude)
    }

    /// The condition on two SQL expressions, a schema and a table, that says the same as [`matches`](Self::matches).
    pub(crate) fn sql(&self, schema: &str, table: &str) -> String {
        let any = |patterns: &[Pattern]| {
            let each = patterns.iter().map(|Pattern { schema: s, table: t }| {
                format!("({schema} LIKE {} AND {table} LIKE {})", like(s), like(t))
            });
            format!("({})", each.chain(["false".to_owned()]).collect::<Vec<_>>().join(" OR "))
        };
        format!(
            "({schema} NOT LIKE E'pg\\\\_%' AND {schema} <> 'information_schema' AND {schema} NOT LIKE E'dapper\\\\_%' \
             AND {} AND NOT {})",
            any(&self.include),
            any(&self.exclude)
        )
    }
}

fn patterns(key: &str, texts: &[String]) -> Result<Vec<Pattern>, PostgresError> {
    texts
        .iter()
        .map(|text| {
            let (schema, table) = text.split_once('.').unwrap_or(("public", text));
            if schema.is_empty() || table.is_empty() {
                return Err(PostgresError::Option {
                    key: key.to_owned(),
                    reason: format!(
                        "{key} has the pattern {text:?}; write \"schema.table\", \"schema.*\" or \"table\""
                    ),
                });
            }
            Ok(Pattern { schema: schema.to_owned(), table: table.to_owned() })
        })
        .collect()
}

/// The pattern as an SQL literal for `LIKE`.
pub(crate) fn like(pattern: &str) -> String {
    let escaped = pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    quote_literal(&escaped.replace('*', "%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns_of(include: &[&str], exclude: &[&str]) -> TablePatterns {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        TablePatterns::parse(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn include_and_exclude() {
        let patterns = patterns_of(&["public.*", "audit.log_*_v2", "orders"], &["public.tmp_*"]);
        assert!(patterns.matches("public", "orders"));
        assert!(patterns.matches("audit", "log_2026_v2"));
        assert!(!patterns.matches("audit", "log_2026_v3"));
        assert!(!patterns.matches("public", "tmp_1"));
        assert!(!patterns.matches("Public", "orders"));
    }

    #[test]
    fn system_schemas_never_match() {
        let patterns = patterns_of(&["*.*"], &[]);
        assert!(patterns.matches("anything", "at all"));
        for schema in ["pg_catalog", "pg_toast", "information_schema", "dapper_orders_input"] {
            assert!(!patterns.matches(schema, "x"), "{schema}");
        }
    }

    #[test]
    fn half_a_pattern_is_refused() {
        for text in ["", ".x", "x."] {
            assert!(TablePatterns::parse(&[text.to_owned()], &[]).is_err(), "{text:?}");
        }
    }
}
