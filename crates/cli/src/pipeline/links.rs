//! Whether the names and links of a pipeline file fit together.

use std::collections::{BTreeMap, HashSet};

use super::problem::{Problem, did_you_mean};
use super::{Pipeline, Source};

/// What a name in the file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Input,
    Process,
}

/// Refuses names that are taken; gives back what each stands for.
pub(super) fn check_names(
    source: &Source<'_>,
    pipeline: &Pipeline,
) -> Result<BTreeMap<String, Named>, Problem> {
    // An input's id is its name with `_` for `-`; neither names nor ids may occur twice.
    let inputs = pipeline.inputs.iter();
    let inputs = inputs.map(|input| (&input.config.name, Named::Input, input.lines.of(Some("name"))));
    let processes = pipeline.processes.iter();
    let processes = processes.map(|process| (&process.config.name, Named::Process, process.name_line));
    let mut names = BTreeMap::new();
    let mut ids: BTreeMap<String, (&String, Option<usize>)> = BTreeMap::new();
    for (name, named, line) in inputs.chain(processes) {
        let id = if named == Named::Input { name.replace('-', "_") } else { name.clone() };
        let taken = ids.insert(name.clone(), (name, line));
        let taken = if id == *name { taken } else { taken.or_else(|| ids.insert(id, (name, line))) };
        if let Some((taken, first)) = taken {
            let first = first.map_or_else(String::new, |line| format!(" in line {line}"));
            let reason = if taken == name {
                format!("the name {name:?} is taken{first}")
            } else {
                format!("the name {name:?} is too close to {taken:?}{first}: \"-\" counts as \"_\"")
            };
            return Err(source.problem(line, reason));
        }
        names.insert(name.clone(), named);
    }
    Ok(names)
}

/// Refuses links to nothing, into inputs, and those that are there already; and inputs without any.
pub(super) fn check_links(
    source: &Source<'_>,
    pipeline: &Pipeline,
    names: &BTreeMap<String, Named>,
) -> Result<(), Problem> {
    let links = &pipeline.links;
    let mut seen = HashSet::new();
    for link in links {
        let problem = |key: &str, reason: String| Err(source.problem(link.lines.of(Some(key)), reason));
        if !names.contains_key(&link.from) {
            let hint = did_you_mean(&link.from, names.keys().map(String::as_str));
            let reason = format!("link from {:?}, but there is no such input or process{hint}", link.from);
            return problem("input", reason);
        }
        match names.get(&link.to) {
            Some(Named::Process) => {}
            Some(Named::Input) => {
                return problem("process", format!("link to {:?}, which is an input", link.to));
            }
            None => {
                let processes = names.iter().filter(|(_, named)| **named == Named::Process);
                let hint = did_you_mean(&link.to, processes.map(|(name, _)| name.as_str()));
                let reason = format!("link to {:?}, but there is no such process{hint}", link.to);
                return problem("process", reason);
            }
        }
        if !seen.insert((&link.from, &link.to)) {
            return problem("input", format!("link from {:?} to {:?} is there twice", link.from, link.to));
        }
    }
    for input in &pipeline.inputs {
        let name = &input.config.name;
        if !links.iter().any(|link| link.from == *name) {
            let reason = format!("input {name:?} has no link to a process, so its events would be lost");
            return Err(source.problem(input.lines.of(Some("name")), reason));
        }
    }
    Ok(())
}
