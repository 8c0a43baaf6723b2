//! `dapper graph`: the pipeline as a picture.

use std::time::Duration;

use serde_json::json;

use super::{load, print};
use crate::arguments::{Format, Graph};
use crate::assembly::Limits;
use crate::backends::Backends;

pub(super) fn run(arguments: &Graph, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    if arguments.json {
        let pipeline = &loaded.pipeline;
        let inputs =
            pipeline.inputs.iter().map(|it| json!({ "name": it.config.name, "type": it.config.kind }));
        let processes =
            pipeline.processes.iter().map(|it| json!({ "name": it.config.name, "type": it.config.kind }));
        let links = pipeline.links.iter().map(|it| json!({ "from": it.from, "to": it.to }));
        let graph = json!({
            "file": loaded.file,
            "inputs": inputs.collect::<Vec<_>>(),
            "processes": processes.collect::<Vec<_>>(),
            "links": links.collect::<Vec<_>>(),
        });
        return print(&format!("{graph:#}\n"));
    }
    let limits = Limits { concurrency: 1, drain_deadline: Duration::ZERO };
    let orchestrator = loaded.orchestrator(&backends.registry(&loaded)?, loaded.placeholders(), limits)?;
    print(&match arguments.format {
        Format::Terminal => orchestrator.to_terminal(),
        Format::Mermaid => orchestrator.to_mermaid(),
        Format::Dot => orchestrator.to_dot(),
    })
}
