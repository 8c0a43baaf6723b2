//! A table of a pipeline file, read key by key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, did_you_mean};
use super::variables::expand;
use super::{Lines, Source};

/// A table under the name by which users know it, such as `[[inputs]]`.
pub(crate) struct Section<'s> {
    source: &'s Source<'s>,
    name: &'static str,
    line: usize,
    entries: BTreeMap<String, Entry<'s>>,
}

/// A value and where it is.
pub(crate) struct Entry<'s> {
    pub(crate) line: usize,
    value: Spanned<DeValue<'s>>,
}

impl<'s> Section<'s> {
    pub(crate) fn new(
        source: &'s Source<'s>,
        name: &'static str,
        span: &Range<usize>,
        table: DeTable<'s>,
    ) -> Self {
        let entries = table.into_iter().map(|(key, value)| {
            let line = source.line(&key.span());
            (key.into_inner().into_owned(), Entry { line, value })
        });
        Self { source, name, line: source.line(span), entries: entries.collect() }
    }

    /// A problem with `key`, in its line, else in that of the section.
    pub(crate) fn problem(&self, key: Option<&str>, reason: impl Into<String>) -> Problem {
        self.source.problem(Some(self.line_of(key)), reason)
    }

    pub(crate) fn line_of(&self, key: Option<&str>) -> usize {
        key.and_then(|key| self.entries.get(key)).map_or(self.line, |entry| entry.line)
    }

    pub(crate) fn lines(&self) -> Lines {
        let keys = self.entries.iter().map(|(key, entry)| (key.clone(), entry.line)).collect();
        Lines { section: Some(self.line), keys }
    }

    /// Refuses keys that are not among `known`.
    pub(crate) fn allow(&self, known: &[&str]) -> Result<(), Problem> {
        let mut unknown: Vec<_> =
            self.entries.iter().filter(|(key, _)| !known.contains(&key.as_str())).collect();
        unknown.sort_by_key(|(_, entry)| entry.line);
        match unknown.first() {
            None => Ok(()),
            Some((key, _)) => {
                let hint = did_you_mean(key, known.iter().copied());
                Err(self.problem(Some(key), format!("unknown key {key:?} in {}{hint}", self.name)))
            }
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The text under `key`, with its variables put in.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, Problem> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(entry) => match entry.value.get_ref() {
                DeValue::String(text) => self.expand(entry, text).map(Some),
                other => Err(self.problem(Some(key), wrong_type(key, "text in quotes", other))),
            },
        }
    }

    /// The texts under `key`: its own, or, where it is a table, those in it, as `key.name`.
    pub(crate) fn flat_texts(&self, key: &str) -> Result<Vec<(String, String)>, Problem> {
        let Some(entry) = self.entries.get(key) else { return Ok(Vec::new()) };
        let DeValue::Table(table) = entry.value.get_ref() else {
            return Ok(self.text(key)?.map(|text| (key.to_owned(), text)).into_iter().collect());
        };
        let texts = table.iter().map(|(name, value)| match value.get_ref() {
            DeValue::String(text) => Ok((format!("{key}.{}", name.get_ref()), self.expand(entry, text)?)),
            other => {
                let name = format!("{key}.{}", name.get_ref());
                let line = self.source.line(&value.span());
                Err(self.source.problem(Some(line), wrong_type(&name, "text in quotes", other)))
            }
        });
        texts.collect()
    }

    /// The text under `key`, which must be there and not be empty.
    pub(crate) fn required_text(&self, key: &str) -> Result<String, Problem> {
        match self.text(key)? {
            None => Err(self.problem(None, format!("missing key {key:?} in {}", self.name))),
            Some(text) if text.is_empty() => Err(self.problem(Some(key), format!("{key:?} is empty"))),
            Some(text) => Ok(text),
        }
    }

    /// The duration under `key`.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let duration =
            text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        match duration {
            Some(duration) if !duration.is_zero() => Ok(Some(duration)),
            _ => Err(self.problem(
                Some(key),
                format!("{key:?} must be a duration above zero, such as \"10s\", \"5m\" or \"1h 30m\""),
            )),
        }
    }

    /// The whole number above zero under `key`.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u32>, Problem> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let count = match entry.value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            other => return Err(self.problem(Some(key), wrong_type(key, "a whole number", other))),
        };
        match count {
            Some(count) if count > 0 => Ok(Some(count)),
            _ => Err(self.problem(Some(key), format!("{key:?} must be between 1 and {}", u32::MAX))),
        }
    }

    /// The texts in the list under `key`, each with its line.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<(usize, String)>>, Problem> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let wrong = |value| self.problem(Some(key), wrong_type(key, "a list of texts in quotes", value));
        let DeValue::Array(items) = entry.value.get_ref() else { return Err(wrong(entry.value.get_ref())) };
        let texts = items.iter().map(|item| match item.get_ref() {
            DeValue::String(text) => Ok((self.source.line(&item.span()), self.expand(entry, text)?)),
            other => Err(wrong(other)),
        });
        texts.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// The value under `key` as JSON, with the variables of its strings put in.
    pub(crate) fn json(&self, key: &str) -> Result<Option<Value>, Problem> {
        self.entries.get(key).map(|entry| self.to_json(key, entry, entry.value.get_ref())).transpose()
    }

    /// The table under `key`, known to users as `name`.
    pub(crate) fn table(&mut self, key: &str, name: &'static str) -> Result<Option<Section<'s>>, Problem> {
        let Some(entry) = self.entries.remove(key) else { return Ok(None) };
        let span = entry.value.span();
        match entry.value.into_inner() {
            DeValue::Table(table) => {
                let mut section = Section::new(self.source, name, &span, table);
                section.line = entry.line;
                Ok(Some(section))
            }
            other => Err(self.source.problem(Some(entry.line), wrong_type(key, "a table", &other))),
        }
    }

    /// The list of tables under `key`, known to users as `name`.
    pub(crate) fn tables(&mut self, key: &str, name: &'static str) -> Result<Vec<Section<'s>>, Problem> {
        let Some(entry) = self.entries.remove(key) else { return Ok(Vec::new()) };
        let wrong = |value: &DeValue<'_>, line| {
            let reason = format!("{key:?} must be a list of tables, not {}; write {name}", kind(value));
            self.source.problem(Some(line), reason)
        };
        let DeValue::Array(items) = entry.value.into_inner() else {
            return Err(self.source.problem(Some(entry.line), format!("write {name} instead of [{key}]")));
        };
        let sections = items.into_iter().map(|item| {
            let span = item.span();
            match item.into_inner() {
                DeValue::Table(table) => Ok(Section::new(self.source, name, &span, table)),
                other => Err(wrong(&other, self.source.line(&span))),
            }
        });
        sections.collect()
    }

    /// The table under `key`, or the list of tables, known to users as `name`.
    pub(crate) fn tables_or_one(
        &mut self,
        key: &str,
        name: &'static str,
    ) -> Result<Vec<Section<'s>>, Problem> {
        match self.entries.get(key).map(|entry| entry.value.get_ref()) {
            Some(DeValue::Array(_)) => self.tables(key, name),
            _ => Ok(self.table(key, name)?.into_iter().collect()),
        }
    }

    fn expand(&self, entry: &Entry<'_>, text: &str) -> Result<String, Problem> {
        let reason =
            |error: super::variables::VariableError| self.source.problem(Some(entry.line), error.to_string());
        expand(text, self.source.lookup).map_err(reason)
    }

    fn to_json(&self, key: &str, entry: &Entry<'_>, value: &DeValue<'_>) -> Result<Value, Problem> {
        let unusable = || self.problem(Some(key), format!("{key:?} is a number out of range"));
        Ok(match value {
            DeValue::String(text) => Value::String(self.expand(entry, text)?),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| unusable())?.into()
            }
            DeValue::Float(number) => number.as_str().parse::<f64>().map_err(|_| unusable())?.into(),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(value) => Value::String(value.to_string()),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.to_json(key, entry, item.get_ref()));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => {
                let entries = table.iter().map(|(name, value)| {
                    Ok((name.get_ref().to_string(), self.to_json(key, entry, value.get_ref())?))
                });
                Value::Object(entries.collect::<Result<_, Problem>>()?)
            }
        })
    }
}

fn wrong_type(key: &str, wanted: &str, value: &DeValue<'_>) -> String {
    format!("{key:?} must be {wanted}, not {}", kind(value))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
