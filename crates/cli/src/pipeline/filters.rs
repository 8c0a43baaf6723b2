//! What a link lets through, as a file says it.

use dapper_core::Operation;
use dapper_orchestrator::{Condition, Filter, FilterError, Test, Value};
use serde_json::Value as Json;

use super::problem::Problem;
use super::section::Section;

/// The keys of a link that make its filter.
pub(super) const FILTER_KEYS: [&str; 4] = ["tables", "operations", "operation", "where"];
const CONDITION_KEYS: [&str; 4] = ["field", "equals", "in", "exists"];
/// What a condition asks of its field.
const TESTS: [&str; 3] = ["equals", "in", "exists"];

/// Reads the filter of a link; `operations` are its own.
pub(super) fn read_filter(
    section: &mut Section<'_>,
    operations: Option<Vec<Operation>>,
) -> Result<Filter, Problem> {
    let mut filter = Filter::default();
    if let Some(operations) = operations {
        if operations.is_empty() {
            let key = if section.has("operations") { "operations" } else { "operation" };
            return Err(section.problem(Some(key), nothing_passes(key)));
        }
        filter = filter.with_operations(operations);
    }
    if let Some(tables) = section.texts("tables")? {
        if tables.is_empty() {
            return Err(section.problem(Some("tables"), nothing_passes("tables")));
        }
        // One by one, so that a wrong one is named in its line.
        for (line, pattern) in &tables {
            Filter::default().with_tables([pattern.as_str()]).map_err(|error| at(section, *line, &error))?;
        }
        let patterns = tables.iter().map(|(_, pattern)| pattern.as_str());
        filter = filter
            .with_tables(patterns)
            .map_err(|error| section.problem(Some("tables"), error.to_string()))?;
    }
    for condition in section.tables_or_one("where", "[[links.where]]")? {
        filter = filter.with_condition(read_condition(&condition)?);
    }
    Ok(filter)
}

fn nothing_passes(key: &str) -> String {
    format!("{key:?} is empty, so that no event would pass; leave it out to let all pass")
}

fn at(section: &Section<'_>, line: usize, error: &FilterError) -> Problem {
    Problem { line: Some(line), ..section.problem(None, error.to_string()) }
}

fn read_condition(section: &Section<'_>) -> Result<Condition, Problem> {
    section.allow(&CONDITION_KEYS)?;
    let field = section.required_text("field")?;
    let tests: Vec<&str> = TESTS.into_iter().filter(|key| section.has(key)).collect();
    let &[key] = tests.as_slice() else {
        let reason = format!("a condition takes exactly one of {}", TESTS.join(", "));
        return Err(section.problem(tests.get(1).copied(), reason));
    };
    let json = section.json(key)?.unwrap_or_default();
    let test = match (key, json) {
        ("equals", json) => Test::In(vec![read_value(section, key, json)?]),
        ("in", Json::Array(items)) if !items.is_empty() => {
            let values = items.into_iter().map(|item| read_value(section, key, item));
            Test::In(values.collect::<Result<_, _>>()?)
        }
        ("in", _) => return Err(section.problem(Some(key), "\"in\" must be a list of values, not empty")),
        (_, Json::Bool(is_there)) => Test::Exists(is_there),
        _ => return Err(section.problem(Some(key), "\"exists\" must be true or false")),
    };
    Condition::new(&field, test).map_err(|error| section.problem(Some("field"), error.to_string()))
}

fn read_value(section: &Section<'_>, key: &str, json: Json) -> Result<Value, Problem> {
    let problem = |reason: String| section.problem(Some(key), reason);
    match json {
        Json::String(text) => Ok(Value::Text(text)),
        Json::Bool(value) => Ok(Value::Text(value.to_string())),
        Json::Number(number) => {
            Value::number(&number.to_string()).map_err(|error| problem(error.to_string()))
        }
        _ => Err(problem(format!("{key:?} takes texts, numbers, true and false"))),
    }
}
