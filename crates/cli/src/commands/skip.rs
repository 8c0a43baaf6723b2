//! `dapper skip`: takes what an input or a process can't get past out of the way.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use dapper_postgres::{Skip, SkipCandidate, Skipped, skip, skip_candidates};
use serde_json::{Value, json};

use super::replay::{ids, processes};
use super::status::printable;
use super::{load, print};
use crate::arguments;
use crate::assembly::Loaded;
use crate::backends::{Backends, POSTGRES};
use crate::pipeline::{CONNECTION_STRING, InputSection};

pub(super) async fn run(arguments: &arguments::Skip, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let section = loaded.input(&arguments.input)?;
    if section.config.kind != POSTGRES {
        bail!("of an input of type {} nothing can be skipped", section.config.kind);
    }
    let line = section.lines.of(Some(CONNECTION_STRING));
    let Some(what) = what(arguments, &loaded, section, backends)? else {
        if arguments.yes {
            bail!("skip what? Name it by --event or --seq; without --yes it shows what is in the way");
        }
        let found = skip_candidates(&section.config).await;
        let found =
            found.with_context(|| loaded.problem(line, "cannot see what is in the way of this input"))?;
        return print(&candidates(&arguments.input, &found, arguments.json));
    };
    let skipped = skip(&section.config, &what, arguments.reason.as_deref(), arguments.yes)
        .await
        .with_context(|| loaded.problem(line, "cannot skip this"))?;
    print(&outcome(&arguments.input, &skipped, arguments))?;
    if !arguments.yes {
        bail!("nothing was skipped; with --yes it is");
    }
    Ok(())
}

fn what(
    arguments: &arguments::Skip,
    loaded: &Loaded,
    section: &InputSection,
    backends: &Backends,
) -> anyhow::Result<Option<Skip>> {
    let named: Vec<String> = arguments.process.iter().cloned().collect();
    if let Some(seq) = arguments.seq {
        let names = processes(loaded, &section.config.name, &[])?;
        return Ok(Some(Skip::ChangeSet { seq, processes: ids(loaded, &names, backends)? }));
    }
    let Some(event_id) = arguments.event.clone() else { return Ok(None) };
    let process = if named.is_empty() {
        None
    } else {
        ids(loaded, &processes(loaded, &section.config.name, &named)?, backends)?.pop()
    };
    Ok(Some(Skip::Event { event_id, process }))
}

fn candidates(input: &str, found: &[SkipCandidate], as_json: bool) -> String {
    if as_json {
        return format!("{:#}\n", json!({ "input": input, "candidates": found }));
    }
    if found.is_empty() {
        return format!("{input}: nothing is in the way\n");
    }
    let mut text = format!("{input}: what waits first, and what processes fail on\n");
    for SkipCandidate { seq, event_id, process, location, what, error, .. } in found {
        let line = match (event_id, process) {
            (Some(event_id), Some(process)) => {
                format!("--event {event_id}  at {process}: {location} {what:?}  {error}")
            }
            _ => format!("--seq {seq}  {location}, {what}  {error}"),
        };
        let _ = writeln!(text, "  {}", printable(line.trim_end()));
    }
    text
}

fn outcome(input: &str, skipped: &Skipped, arguments: &arguments::Skip) -> String {
    if arguments.json {
        let event =
            |text: &String| serde_json::from_str::<Value>(text).unwrap_or_else(|_| text.clone().into());
        let events = skipped.events.iter();
        let events = events.map(|(process, text)| json!({ "process": process, "event": event(text) }));
        let whole = json!({
            "input": input,
            "skipped": arguments.yes,
            "dead_letters": skipped.dead_letters,
            "events": events.collect::<Vec<_>>(),
        });
        return format!("{whole:#}\n");
    }
    let done = if arguments.yes { "skipped" } else { "would be skipped" };
    let mut text = format!("{input}: {done}, making {} dead letter(s)\n", skipped.dead_letters);
    for (process, event) in &skipped.events {
        let _ = writeln!(text, "  {}  {}", printable(process), printable(event));
    }
    if (skipped.events.len() as u64) < skipped.dead_letters {
        let _ = writeln!(text, "  and {} more", skipped.dead_letters - skipped.events.len() as u64);
    }
    text
}
