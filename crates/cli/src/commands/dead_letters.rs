//! `dapper dead-letters`: events that a process was given for the last time.

use anyhow::{Context, bail};
use dapper_postgres::{
    DeadLetter, DeadLetterFilter, DeadLetters, dead_letters, discard_dead_letters, retry_dead_letters,
};
use serde_json::{Value, json};

use super::{load, print};
use crate::arguments::{DeadLetterArguments, DeadLetterCommand, Named};
use crate::assembly::Loaded;
use crate::backends::{self, Backends, POSTGRES};
use crate::pipeline::{CONNECTION_STRING, InputSection};

pub(super) async fn run(command: &DeadLetterCommand, backends: &Backends) -> anyhow::Result<()> {
    match command {
        DeadLetterCommand::List(arguments) => list(arguments, backends, as_line).await,
        DeadLetterCommand::Show(arguments) => list(arguments, backends, as_text).await,
        DeadLetterCommand::Retry(named) => change(named, backends, Change::Retry).await,
        DeadLetterCommand::Discard(named) => change(named, backends, Change::Discard).await,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Retry,
    Discard,
}

async fn list(
    arguments: &DeadLetterArguments,
    backends: &Backends,
    show: fn(&DeadLetter) -> String,
) -> anyhow::Result<()> {
    let loaded = load(&arguments.named.pipeline, backends)?;
    let filter = filter(&arguments.named);
    let mut inputs = Vec::new();
    for section in sections(&loaded, arguments.named.input.as_deref())? {
        let found = dead_letters(&section.config, &filter, arguments.limit)
            .await
            .with_context(|| problem(&loaded, section, "cannot read the dead letters of this input"))?;
        if arguments.json {
            inputs.push(json!({
                "name": section.config.name,
                "total": found.total,
                "dead_letters": found.letters.iter().map(as_json).collect::<Vec<_>>(),
            }));
        } else {
            print(&as_list(&section.config.name, &found, show))?;
        }
    }
    if arguments.json {
        print(&format!("{:#}\n", json!({ "file": loaded.file, "inputs": inputs })))?;
    }
    Ok(())
}

async fn change(named: &Named, backends: &Backends, change: Change) -> anyhow::Result<()> {
    let filter = filter(named);
    if filter == DeadLetterFilter::default() && !named.all {
        bail!(
            "which dead letters? Name them by --number, --process, --table, --key, --error, --older-than or --newer-than, \
             or take --all"
        );
    }
    let loaded = load(&named.pipeline, backends)?;
    for section in sections(&loaded, named.input.as_deref())? {
        let (count, done) = match change {
            Change::Retry => (retry_dead_letters(&section.config, &filter).await, "tried again"),
            Change::Discard => (discard_dead_letters(&section.config, &filter).await, "discarded"),
        };
        let count = count
            .with_context(|| problem(&loaded, section, "cannot change the dead letters of this input"))?;
        let letters = if count == 1 { "dead letter is" } else { "dead letters are" };
        print(&format!("{}: {count} {letters} {done}\n", section.config.name))?;
    }
    Ok(())
}

/// The inputs that are meant: the named one, else all that have dead letters.
fn sections<'l>(loaded: &'l Loaded, input: Option<&str>) -> anyhow::Result<Vec<&'l InputSection>> {
    let Some(name) = input else { return Ok(backends::postgres_inputs(&loaded.pipeline).collect()) };
    let section = loaded.input(name)?;
    if section.config.kind != POSTGRES {
        bail!("an input of type {} has no dead letters", section.config.kind);
    }
    Ok(vec![section])
}

fn problem(loaded: &Loaded, section: &InputSection, reason: &str) -> crate::pipeline::Problem {
    loaded.problem(section.lines.of(Some(CONNECTION_STRING)), reason)
}

fn filter(named: &Named) -> DeadLetterFilter {
    DeadLetterFilter {
        number: named.number,
        process: named.process.clone(),
        table: named.table.clone(),
        key: named.key.clone(),
        older_than: named.older_than,
        newer_than: named.newer_than,
        error: named.error.clone(),
    }
}

fn as_list(input: &str, found: &DeadLetters, show: fn(&DeadLetter) -> String) -> String {
    let mut text = format!("{input}: {} dead letter(s)\n", found.total);
    found.letters.iter().for_each(|letter| text.push_str(&show(letter)));
    if (found.letters.len() as u64) < found.total {
        text.push_str(&format!("  only the oldest {} are shown; --limit shows more\n", found.letters.len()));
    }
    text
}

fn as_line(letter: &DeadLetter) -> String {
    let error: String =
        letter.error.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let DeadLetter { number, died_at, process, location, id, tries, .. } = letter;
    format!("  {number:>6}  {died_at}  {process}  {location} {id:?}  {tries} tries  {error}\n")
}

fn as_text(letter: &DeadLetter) -> String {
    let DeadLetter { number, died_at, process, location, id, tries, attempt, error, event, .. } = letter;
    format!(
        "  number   {number}\n  process  {process}\n  table    {location}\n  key      {id}\n  tries    {tries}, the last as \
         attempt {attempt}, at {died_at}\n  error    {}\n  event    {event}\n\n",
        error.replace('\n', "\n           ")
    )
}

fn as_json(letter: &DeadLetter) -> Value {
    json!({
        "number": letter.number,
        "process": letter.process,
        "table": letter.location,
        "key": letter.id,
        "event_id": letter.event_id,
        "tries": letter.tries,
        "attempt": letter.attempt,
        "died_at": letter.died_at,
        "error": letter.error,
        "event": serde_json::from_str::<Value>(&letter.event).unwrap_or_else(|_| letter.event.clone().into()),
    })
}
