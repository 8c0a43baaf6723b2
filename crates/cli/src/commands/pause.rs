//! `dapper pause` and `dapper resume`.

use anyhow::{Context, bail};
use serde_json::json;

use super::replay::{ids, processes};
use super::{load, print};
use crate::arguments::{Pause, Resume, Target};
use crate::assembly::Loaded;
use crate::backends::{self, Backends, POSTGRES};
use crate::pipeline::{CONNECTION_STRING, InputSection, did_you_mean};

/// What is meant in the file: the inputs, and the process's name and id unless it is all of an input.
struct Meant<'l> {
    inputs: Vec<&'l InputSection>,
    process: Option<(&'l str, String)>,
}

pub(super) async fn pause(arguments: &Pause, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let meant = meant(&loaded, &arguments.target, backends)?;
    let mut done = Vec::new();
    for section in &meant.inputs {
        let changed = dapper_postgres::pause(&section.config, meant.id(), arguments.reason.as_deref());
        let changed = changed.await.with_context(|| problem(&loaded, section, "cannot pause"))?;
        done.push((*section, changed));
    }
    tell(&meant, &done, ["is paused", "was paused already; the reason is noted"], arguments.json)
}

pub(super) async fn resume(arguments: &Resume, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let meant = meant(&loaded, &arguments.target, backends)?;
    let mut done = Vec::new();
    for section in &meant.inputs {
        let changed = dapper_postgres::resume(&section.config, meant.id()).await;
        done.push((*section, changed.with_context(|| problem(&loaded, section, "cannot resume"))?));
    }
    tell(&meant, &done, ["goes on", "was not paused"], arguments.json)
}

impl Meant<'_> {
    fn id(&self) -> Option<&str> {
        self.process.as_ref().map(|(_, id)| id.as_str())
    }
}

fn meant<'l>(loaded: &'l Loaded, target: &Target, backends: &Backends) -> anyhow::Result<Meant<'l>> {
    if let Some(name) = &target.input {
        let section = loaded.input(name)?;
        if section.config.kind != POSTGRES {
            bail!("an input of type {} can't be paused", section.config.kind);
        }
        return Ok(Meant { inputs: vec![section], process: None });
    }
    let name = target.process.as_deref().unwrap_or_default();
    let sections = &loaded.pipeline.processes;
    let Some(section) = sections.iter().find(|section| section.config.name == name) else {
        let hint = did_you_mean(name, sections.iter().map(|section| section.config.name.as_str()));
        return Err(loaded.problem(None, format!("there is no process {name:?}{hint}")).into());
    };
    let leads = |input: &&InputSection| {
        processes(loaded, &input.config.name, std::slice::from_ref(&section.config.name)).is_ok()
    };
    let inputs: Vec<&InputSection> = backends::postgres_inputs(&loaded.pipeline).filter(leads).collect();
    if inputs.is_empty() {
        bail!("no input of type {POSTGRES} leads to process {name:?}, so there is nothing to hold back");
    }
    let id = ids(loaded, std::slice::from_ref(&section.config.name), backends)?.swap_remove(0);
    Ok(Meant { inputs, process: Some((&section.config.name, id)) })
}

fn tell(
    meant: &Meant<'_>,
    done: &[(&InputSection, bool)],
    [changed, same]: [&str; 2],
    as_json: bool,
) -> anyhow::Result<()> {
    let process = meant.process.as_ref().map(|(name, _)| *name);
    if as_json {
        let inputs = done.iter().map(|(section, it)| json!({ "input": section.config.name, "changed": it }));
        let whole = json!({ "process": process, "inputs": inputs.collect::<Vec<_>>() });
        return print(&format!("{whole:#}\n"));
    }
    let what = process.map_or_else(String::new, |process| format!("process {process} "));
    done.iter().try_for_each(|(section, is_changed)| {
        let outcome = if *is_changed { changed } else { same };
        print(&format!("{}: {what}{outcome}\n", section.config.name))
    })
}

fn problem(loaded: &Loaded, section: &InputSection, reason: &str) -> crate::pipeline::Problem {
    let name = &section.config.name;
    loaded.problem(section.lines.of(Some(CONNECTION_STRING)), format!("input {name:?}: {reason}"))
}
