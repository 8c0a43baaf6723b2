//! What came of the rows, for people, programs and the documentation.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};

use crate::{Pair, Row};

/// What came of one row.
#[derive(Debug)]
pub struct Outcome {
    /// The row.
    pub row: Row,
    /// What was seen, or why it could not be played.
    pub seen: anyhow::Result<Pair>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Whether the naive version came to harm and dapper did not.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.seen.as_ref().is_ok_and(Row::is_shown)
    }
}

/// A table for people.
#[must_use]
pub fn terminal(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["name", "whose bug", "naive version", "dapper", "", "s"]);
    for outcome in outcomes {
        let Outcome { row, seen, took } = outcome;
        let whose: Vec<&str> = row.whose.iter().map(|source| source.name).collect();
        let (naive, ours) = match seen {
            Ok(Pair { naive, ours }) => (naive.to_string(), ours.to_string()),
            Err(error) => ("could not be played".to_owned(), format!("{error:#}")),
        };
        let verdict = if outcome.is_ok() { "ok" } else { "NOT OK" };
        let took = format!("{:.1}", took.as_secs_f64());
        table.add_row([row.name, &whose.join(", "), &naive, &ours, verdict, &took]);
    }
    table.to_string()
}

/// An object for programs.
#[must_use]
pub fn json(outcomes: &[Outcome]) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let Outcome { row, seen, took } = outcome;
        let mut object = listed(row);
        object["ok"] = outcome.is_ok().into();
        object["milliseconds"] = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into();
        match seen {
            Ok(Pair { naive, ours }) => {
                object["naive"] = naive.to_string().into();
                object["dapper"] = ours.to_string().into();
            }
            Err(error) => object["error"] = format!("{error:#}").into(),
        }
        object
    });
    Value::Array(rows.collect())
}

/// The row alone, for programs.
#[must_use]
pub fn listed(row: &Row) -> Value {
    let whose: Vec<Value> =
        row.whose.iter().map(|source| json!({ "name": source.name, "url": source.url })).collect();
    json!({ "name": row.name, "whose": whose, "bug": row.bug, "instead": row.ours })
}

/// The rows as a table for `docs/reliability.md`. What was seen is left out: it differs from run to run.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| `NAME` | whose bug | what goes wrong in the naive version | dapper |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for row in rows {
        let whose: Vec<String> = row
            .whose
            .iter()
            .map(|source| match source.url {
                Some(url) => format!("[{}]({url})", source.name),
                None => source.name.to_owned(),
            })
            .collect();
        text.push_str(&format!("| `{}` | {} | {} | {} |\n", row.name, whose.join(", "), row.bug, row.ours));
    }
    text
}
