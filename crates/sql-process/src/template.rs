//! A statement with fields of an event in it.

use crate::error::SqlProcessError;
use crate::fields::{FIELDS, Field};
use crate::lexer::{Piece, continues_name, pieces};

/// A statement as the server gets it, and the fields that are its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) sql: String,
    pub(crate) fields: Vec<Field>,
}

/// Statements that would end, split or leave the transaction in which statement and inbox are one.
const REFUSED: [&str; 12] = [
    "abort",
    "begin",
    "commit",
    "deallocate",
    "discard",
    "end",
    "listen",
    "prepare",
    "release",
    "rollback",
    "savepoint",
    "start",
];

/// The protocol's limit.
const MOST_PARAMETERS: usize = 65_535;

impl Template {
    /// Reads a statement. Each placeholder becomes a parameter of its own, also where a name comes twice: the two places may
    /// ask for different types.
    pub(crate) fn read(statement: &str) -> Result<Self, SqlProcessError> {
        let refuse = |reason: String| SqlProcessError::Statement { reason };
        let (mut sql, mut fields) = (String::with_capacity(statement.len()), Vec::new());
        let (mut first_word, mut ended) = (None, false);
        for piece in pieces(statement) {
            let is_blank = matches!(piece, Piece::Plain(text) if is_blank(text));
            if ended && !is_blank && piece != Piece::Semicolon {
                return Err(refuse(
                    "holds more than one statement; put them into one by WITH, or into a function".to_owned(),
                ));
            }
            match piece {
                Piece::Plain(text) => sql.push_str(text),
                Piece::Word(word) => {
                    first_word.get_or_insert(word);
                    sql.push_str(word);
                }
                Piece::Semicolon => ended = first_word.is_some(),
                Piece::Unended(what) => return Err(refuse(format!("holds {what} that does not end"))),
                Piece::Parameter(number) => {
                    return Err(refuse(format!("holds ${number}; name a field, such as :id")));
                }
                Piece::Placeholder(name) => {
                    let Some(field) = Field::of(name) else {
                        return Err(SqlProcessError::UnknownPlaceholder {
                            name: name.to_owned(),
                            nearest: nearest(name),
                        });
                    };
                    fields.push(field);
                    // A dollar right behind a name would belong to it.
                    let space = if sql.ends_with(continues_name) { " " } else { "" };
                    sql.push_str(&format!("{space}${}", fields.len()));
                }
            }
        }
        let Some(first) = first_word else { return Err(refuse("is empty".to_owned())) };
        if REFUSED.iter().any(|refused| refused.eq_ignore_ascii_case(first)) {
            return Err(refuse(format!(
                "is {}, which would break the transaction that it runs in",
                first.to_uppercase()
            )));
        }
        if fields.len() > MOST_PARAMETERS {
            return Err(refuse(format!("has more than {MOST_PARAMETERS} placeholders")));
        }
        Ok(Self { sql, fields })
    }
}

/// Whether a piece of plain text is space or a comment.
fn is_blank(text: &str) -> bool {
    text.starts_with("--") || text.starts_with("/*") || text.trim().is_empty()
}

fn nearest(name: &str) -> &'static str {
    let name = name.to_lowercase();
    let names = FIELDS.iter().map(|(known, _)| *known);
    names.min_by_key(|known| strsim::damerau_levenshtein(known, &name)).unwrap_or("id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[allow(clippy::needless_pass_by_value)] // `expect![[…]]` is written in place.
    fn check(statement: &str, expected: Expect) {
        match Template::read(statement) {
            Ok(template) => expected.assert_eq(&format!("{} {:?}", template.sql, template.fields)),
            Err(error) => expected.assert_eq(&error.to_string()),
        }
    }

    #[test]
    fn placeholders_become_parameters() {
        check(
            "INSERT INTO log VALUES (:id::bigint, ':id', :event) -- :id",
            expect!["INSERT INTO log VALUES ($1::bigint, ':id', $2) -- :id [Id, Event]"],
        );
        check("SELECT a[1:id], a:id", expect!["SELECT a[1 $1], a $2 [Id, Id]"]);
        check(
            "SELECT :id, :id;  -- done\n",
            expect![[r#"
            SELECT $1, $2  -- done
             [Id, Id]"#]],
        );
    }

    #[test]
    fn unknown_placeholders_are_told_the_nearest() {
        check(
            "SELECT :evnt_id",
            expect![
                "\"statement\" has the unknown placeholder :evnt_id; did you mean :event_id? Known are :event_id, :location, :operation, :id, :trigger, :key, :old, :new, :attempt, :token, :captured_at, :traceparent, :event"
            ],
        );
        check(
            "SELECT :ID",
            expect![
                "\"statement\" has the unknown placeholder :ID; did you mean :id? Known are :event_id, :location, :operation, :id, :trigger, :key, :old, :new, :attempt, :token, :captured_at, :traceparent, :event"
            ],
        );
    }

    #[test]
    fn what_can_t_be_one_statement_is_refused() {
        check(" ; ", expect![[r#""statement" is empty"#]]);
        check("/* */", expect![[r#""statement" is empty"#]]);
        check(
            "SELECT 1; SELECT 2",
            expect![[
                r#""statement" holds more than one statement; put them into one by WITH, or into a function"#
            ]],
        );
        check(
            "-- a\n Commit",
            expect![[r#""statement" is COMMIT, which would break the transaction that it runs in"#]],
        );
        check("SELECT $1", expect![[r#""statement" holds $1; name a field, such as :id"#]]);
        check("SELECT 'a", expect![[r#""statement" holds a string that does not end"#]]);
    }
}
