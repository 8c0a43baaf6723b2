//! From the text of a pipeline file to what it says.

use std::ops::Range;
use std::time::Duration;

use dapper_core::{InputConfig, Operation, ProcessConfig};
use dapper_orchestrator::RetryPolicy;
use secrecy::SecretString;
use serde_json::{Map, Value};
use toml::de::DeTable;

use super::filters::{FILTER_KEYS, read_filter};
use super::links::{check_links, check_names};
use super::problem::{Problem, did_you_mean};
use super::section::Section;
use super::{CONNECTION_STRING, InputSection, Lines, LinkSection, LockSection, Pipeline, ProcessSection};
use crate::locks::LockConfig;

const DEFAULT_TTL: Duration = Duration::from_secs(10);
/// Keys of every input; what else there is depends on its type.
const INPUT_KEYS: [&str; 4] = ["name", "type", "operations", "operation"];
/// Keys of every lock; what else there is depends on its backend.
const LOCK_KEYS: [&str; 2] = ["backend", "ttl"];
/// The backend of files that name none.
const DEFAULT_BACKEND: &str = "postgres";

/// Everything that reading a pipeline file depends on.
pub(crate) struct Source<'s> {
    /// The file, as messages are to name it.
    pub(crate) file: &'s str,
    pub(crate) text: &'s str,
    /// The value of a variable.
    pub(crate) lookup: &'s dyn Fn(&str) -> Option<String>,
    /// The lock backends there are, each with the keys that it knows besides those of every lock.
    pub(crate) lock_backends: &'s [(&'s str, &'s [&'s str])],
    /// The types of inputs there are, each with the keys that it knows besides those of every input. An address is
    /// required where it is among them.
    pub(crate) input_types: &'s [(&'s str, &'s [&'s str])],
    /// The types of processes there are.
    pub(crate) process_types: &'s [&'s str],
}

impl Source<'_> {
    pub(crate) fn problem(&self, line: Option<usize>, reason: impl Into<String>) -> Problem {
        Problem { file: self.file.to_owned(), line, reason: reason.into() }
    }

    /// The line of what is at `span`, from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// Reads a pipeline file.
pub(crate) fn read(source: &Source<'_>) -> Result<Pipeline, Problem> {
    let document = DeTable::parse(source.text).map_err(|error| {
        // Not the error's own text: that shows the line, which may hold a password.
        let line = error.span().map(|span| source.line(&span));
        source.problem(line, format!("not valid TOML: {}", error.message()))
    })?;
    let span = document.span();
    let mut file = Section::new(source, "the file", &span, document.into_inner());
    file.allow(&["lock", "inputs", "processes", "links"])?;
    let lock = file.table("lock", "[lock]")?;
    let lock = lock.as_ref().map_or_else(|| Ok(LockSection::default()), |lock| read_lock(source, lock))?;
    let inputs = file.tables("inputs", "[[inputs]]")?;
    let processes = file.tables("processes", "[[processes]]")?;
    let links = file.tables("links", "[[links]]")?;
    for (name, is_empty) in [("[[inputs]]", inputs.is_empty()), ("[[processes]]", processes.is_empty())] {
        if is_empty {
            return Err(source.problem(None, format!("there is no {name}")));
        }
    }
    let mut pipeline = Pipeline { lock, inputs: Vec::new(), processes: Vec::new(), links: Vec::new() };
    for section in &inputs {
        pipeline.inputs.push(read_input(source, section)?);
    }
    for section in processes {
        pipeline.processes.push(read_process(source, section)?);
    }
    let known = check_names(source, &pipeline)?;
    pipeline.links = links.into_iter().map(read_link).collect::<Result<_, _>>()?;
    check_links(source, &pipeline, &known)?;
    Ok(pipeline)
}

impl Default for LockSection {
    fn default() -> Self {
        Self {
            backend: DEFAULT_BACKEND.to_owned(),
            config: LockConfig::default(),
            ttl: DEFAULT_TTL,
            lines: Lines::default(),
        }
    }
}

fn read_lock(source: &Source<'_>, section: &Section<'_>) -> Result<LockSection, Problem> {
    let backend = section.text("backend")?.unwrap_or_else(|| DEFAULT_BACKEND.to_owned());
    let backends = source.lock_backends;
    let Some((_, keys)) = backends.iter().find(|(name, _)| *name == backend) else {
        let names = backends.iter().map(|(name, _)| *name);
        return Err(section.problem(Some("backend"), unknown("lock backend", &backend, names)));
    };
    let known = [&LOCK_KEYS[..], keys].concat();
    let mut foreign = backends.iter().flat_map(|(_, keys)| *keys).filter(|key| !known.contains(key));
    if let Some(key) = foreign.find(|key| section.has(key)) {
        return Err(section.problem(Some(key), format!("the lock backend {backend:?} takes no {key:?}")));
    }
    section.allow(&known)?;
    let mut options = Map::new();
    for key in *keys {
        match section.json(key)? {
            Some(Value::String(text)) if text.is_empty() => {
                return Err(section.problem(Some(key), format!("{key:?} is empty")));
            }
            Some(value) => drop(options.insert((*key).to_owned(), value)),
            None => {}
        }
    }
    let ttl = section.duration("ttl")?.unwrap_or(DEFAULT_TTL);
    Ok(LockSection { backend, config: LockConfig { options }, ttl, lines: section.lines() })
}

fn read_input(source: &Source<'_>, section: &Section<'_>) -> Result<InputSection, Problem> {
    let kind = section.text("type")?;
    let known = kind.as_deref().and_then(|kind| source.input_types.iter().find(|(name, _)| *name == kind));
    match (&kind, known) {
        (Some(_), Some((_, options))) => section.allow(&[&INPUT_KEYS[..], options].concat())?,
        (Some(kind), None) => {
            let names = source.input_types.iter().map(|(name, _)| *name);
            return Err(section.problem(Some("type"), unknown("type of input", kind, names)));
        }
        (None, _) => {
            let options = source.input_types.iter().flat_map(|(_, options)| options.iter().copied());
            section.allow(&INPUT_KEYS.into_iter().chain(options).collect::<Vec<_>>())?;
        }
    }
    let name = section.required_text("name")?;
    let kind = section.required_text("type")?;
    let has_address = known.is_some_and(|(_, keys)| keys.contains(&CONNECTION_STRING));
    let connection_string =
        if has_address { section.required_text(CONNECTION_STRING)?.into() } else { SecretString::default() };
    let operations = read_operations(section)?;
    let mut options = Map::new();
    for key in section.keys() {
        if !INPUT_KEYS.contains(&key.as_str())
            && key != CONNECTION_STRING
            && let Some(value) = section.json(&key)?
        {
            options.insert(key, value);
        }
    }
    let mut lines = section.lines();
    // Whatever is wrong with the operations, it is in the line of the key by which the file calls them.
    if let Some(line) = lines.keys.get("operation").copied() {
        lines.keys.insert("operations".into(), line);
    }
    let config = InputConfig { name, kind, connection_string, operations, options };
    Ok(InputSection { config, lines })
}

fn read_operations(section: &Section<'_>) -> Result<Option<Vec<Operation>>, Problem> {
    if section.has("operations") && section.has("operation") {
        let reason = r#""operation" and "operations" are one key; keep one of them"#;
        return Err(section.problem(Some("operation"), reason));
    }
    let key = if section.has("operations") { "operations" } else { "operation" };
    let Some(texts) = section.texts(key)? else { return Ok(None) };
    let operations = texts.into_iter().map(|(line, text)| {
        text.parse::<Operation>()
            .map_err(|error| Problem { line: Some(line), ..section.problem(None, error.to_string()) })
    });
    operations.collect::<Result<_, _>>().map(Some)
}

fn read_process(source: &Source<'_>, mut section: Section<'_>) -> Result<ProcessSection, Problem> {
    section.allow(&["name", "type", "execution_context", "retry"])?;
    let name = section.required_text("name")?;
    let kind = section.required_text("type")?;
    if !source.process_types.contains(&kind.as_str()) {
        let names = source.process_types.iter().copied();
        return Err(section.problem(Some("type"), unknown("type of process", &kind, names)));
    }
    let mut config = ProcessConfig { name, kind, ..ProcessConfig::default() };
    let name_line = Some(section.line_of(Some("name")));
    let mut lines = section.lines();
    if let Some(context) = section.table("execution_context", "[processes.execution_context]")? {
        lines = context.lines();
        for key in context.keys() {
            let line = context.line_of(Some(&key));
            for (key, value) in context.flat_texts(&key)? {
                lines.keys.insert(key.clone(), line);
                config.execution_context.insert(key, value);
            }
        }
    }
    let mut policy = RetryPolicy::default();
    if let Some(retry) = section.table("retry", "[processes.retry]")? {
        retry.allow(&["max_attempts", "min_backoff", "max_backoff", "quick_attempts", "max_crashes"])?;
        policy.max_attempts = retry.count("max_attempts")?.or(policy.max_attempts);
        policy.quick_attempts = retry.count("quick_attempts")?.unwrap_or(policy.quick_attempts);
        policy.max_crashes = retry.count("max_crashes")?.unwrap_or(policy.max_crashes);
        policy.min_backoff = retry.duration("min_backoff")?.unwrap_or(policy.min_backoff);
        policy.max_backoff = retry.duration("max_backoff")?.unwrap_or(policy.max_backoff);
    }
    Ok(ProcessSection { config, policy, name_line, lines })
}

fn read_link(mut section: Section<'_>) -> Result<LinkSection, Problem> {
    section.allow(&[&["input", "process"][..], &FILTER_KEYS].concat())?;
    let (from, to) = (section.required_text("input")?, section.required_text("process")?);
    let (lines, operations) = (section.lines(), read_operations(&section)?);
    Ok(LinkSection { from, to, filter: read_filter(&mut section, operations)?, lines })
}

fn unknown<'a>(what: &str, text: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let hint = did_you_mean(text, known.iter().copied());
    if hint.is_empty() {
        format!("unknown {what} {text:?}; there are {}", known.join(", "))
    } else {
        format!("unknown {what} {text:?}{hint}")
    }
}
