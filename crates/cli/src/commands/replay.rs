//! `dapper replay`: changes that were delivered before are delivered again.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use dapper_postgres::Replay;
use serde_json::json;

use super::{load, print};
use crate::arguments;
use crate::assembly::Loaded;
use crate::backends::{Backends, POSTGRES};
use crate::pipeline::{CONNECTION_STRING, did_you_mean};

pub(super) async fn run(arguments: &arguments::Replay, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let section = loaded.input(&arguments.input)?;
    if section.config.kind != POSTGRES {
        bail!("an input of type {} keeps no changes", section.config.kind);
    }
    let names = processes(&loaded, &arguments.input, &arguments.process)?;
    let processes = ids(&loaded, &names, backends)?;
    let asked = Replay {
        since: arguments.since.0,
        table: arguments.table.clone(),
        key: arguments.key.clone(),
        processes: processes.clone(),
        dry_run: arguments.dry_run,
    };
    let line = section.lines.of(Some(CONNECTION_STRING));
    let replayed = dapper_postgres::replay(&section.config, &asked)
        .await
        .with_context(|| loaded.problem(line, "cannot replay this input"))?;
    let name = &section.config.name;
    if arguments.json {
        let result = json!({
            "input": name,
            "since": asked.since.to_string(),
            "processes": processes,
            "dry_run": asked.dry_run,
            "events": replayed.events,
            "parked": replayed.parked,
        });
        return print(&format!("{result:#}\n"));
    }
    let to = processes.join(", ");
    let since = asked.since;
    if asked.dry_run {
        return print(&format!(
            "{name}: would deliver {} event(s) since {since} again to {to}\n",
            replayed.events
        ));
    }
    let wait = replayed.events * processes.len() as u64 - replayed.parked;
    let already =
        if wait > 0 { format!("; {wait} of these deliveries were waiting already") } else { String::new() };
    print(&format!(
        "{name}: {} event(s) since {since} are delivered again to {to}{already}\n",
        replayed.events
    ))
}

/// The ids of processes, by which events are parked, from their names in the file.
pub(super) fn ids(loaded: &Loaded, names: &[String], backends: &Backends) -> anyhow::Result<Vec<String>> {
    let registry = backends.registry(loaded)?;
    let sections = loaded.pipeline.processes.iter();
    let named = sections.filter(|section| names.contains(&section.config.name));
    named.map(|section| Ok(registry.process(section.config.clone())?.id().to_owned())).collect()
}

/// The processes at which the events enter: those that are named, else those that come first after the input.
pub(super) fn processes(loaded: &Loaded, input: &str, named: &[String]) -> anyhow::Result<Vec<String>> {
    let links = &loaded.pipeline.links;
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut look_at: Vec<&str> = vec![input];
    while let Some(process) = look_at.pop() {
        let next = links.iter().filter(|link| link.from == process).map(|link| link.to.as_str());
        look_at.extend(next.filter(|next| reached.insert(next)));
    }
    for name in named {
        if !reached.contains(name.as_str()) {
            let hint = did_you_mean(name, reached.iter().copied());
            bail!("no event of input {input:?} comes to a process {name:?}{hint}");
        }
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    // One with another process before it gets the events from that.
    let is_first =
        |process: &str| !links.iter().any(|link| link.to == process && reached.contains(link.from.as_str()));
    Ok(reached.iter().filter(|process| is_first(process)).map(|&process| process.to_owned()).collect())
}
