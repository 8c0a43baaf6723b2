//! `dapper check`: whether a pipeline would run, and what it is.

use std::fmt::Write as _;

use serde_json::json;

use super::{load, print};
use crate::arguments::Check;
use crate::assembly::{Limits, Loaded, explain};
use crate::backends::{Backends, Reached, are_beside_cursors};

pub(super) async fn check(arguments: &Check, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let registry = backends.registry(&loaded)?;
    let limits = Limits { concurrency: 1, drain_deadline: std::time::Duration::ZERO };
    let orchestrator = loaded.orchestrator(&registry, loaded.placeholders(), limits)?;
    let warnings: Vec<String> = orchestrator.warnings().iter().map(explain).collect();
    let reached = if arguments.offline { Vec::new() } else { backends.reach(&loaded).await? };
    let summary = if arguments.json {
        as_json(&loaded, &reached, &warnings, arguments.offline)
    } else {
        as_text(&loaded, &reached, &warnings, arguments.offline)
    };
    print(&summary)
}

fn as_text(loaded: &Loaded, reached: &[Reached], warnings: &[String], offline: bool) -> String {
    let pipeline = &loaded.pipeline;
    let mut out = String::new();
    let lock = &pipeline.lock;
    let place = if are_beside_cursors(lock) { ", in each input's own database" } else { "" };
    let _ = writeln!(out, "lock     {}{place}, ttl {:?}", lock.backend, lock.ttl);
    for input in &pipeline.inputs {
        let _ = writeln!(out, "input    {} ({})", input.config.name, input.config.kind);
    }
    for process in &pipeline.processes {
        let _ = writeln!(out, "process  {} ({})", process.config.name, process.config.kind);
    }
    for link in &pipeline.links {
        let filtered = if link.filter.is_open() { "" } else { " (filtered)" };
        let _ = writeln!(out, "link     {} -> {}{filtered}", link.from, link.to);
    }
    for Reached { what, server } in reached {
        let _ = writeln!(out, "reached  {what}: {server}");
    }
    for warning in warnings {
        let _ = writeln!(out, "warning  {warning}");
    }
    let how = if offline { "is good; no address was tried" } else { "is good" };
    let _ = writeln!(out, "{} {how}", loaded.file);
    out
}

fn as_json(loaded: &Loaded, reached: &[Reached], warnings: &[String], offline: bool) -> String {
    let pipeline = &loaded.pipeline;
    let inputs = pipeline.inputs.iter().map(|input| &input.config);
    let processes = pipeline.processes.iter().map(|process| &process.config);
    let summary = json!({
        "file": loaded.file,
        "offline": offline,
        "lock": { "backend": pipeline.lock.backend, "ttl_ms": pipeline.lock.ttl.as_millis() as u64 },
        "inputs": inputs.map(|it| json!({ "name": it.name, "type": it.kind })).collect::<Vec<_>>(),
        "processes": processes.map(|it| json!({ "name": it.name, "type": it.kind })).collect::<Vec<_>>(),
        "links": pipeline.links.iter().map(|it| json!({ "input": it.from, "process": it.to })).collect::<Vec<_>>(),
        "reached": reached.iter().map(|it| json!({ "what": it.what, "server": it.server })).collect::<Vec<_>>(),
        "warnings": warnings,
    });
    format!("{summary:#}\n")
}
