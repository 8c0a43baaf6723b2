//! `dapper install`: puts in place what `dapper run` would, or prints the SQL for it.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use serde_json::json;

use super::{load, print};
use crate::arguments::Install;
use crate::assembly::Loaded;
use crate::backends::{self, Backends, Installed, Planned};
use crate::pipeline::CONNECTION_STRING;

pub(super) async fn install(arguments: &Install, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    if arguments.dry_run { plan(&loaded, arguments.json).await } else { run(&loaded, arguments.json).await }
}

async fn plan(loaded: &Loaded, as_json: bool) -> anyhow::Result<()> {
    let mut plans = Vec::new();
    for section in backends::postgres_inputs(&loaded.pipeline) {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let planned = backends::plan_install(loaded, section).await;
        plans.push(
            planned.with_context(|| loaded.problem(line, "cannot plan the installation of this input"))?,
        );
    }
    let line = loaded.pipeline.lock.lines.of(Some(CONNECTION_STRING));
    plans.extend(backends::plan_lock(loaded).await.with_context(|| loaded.problem(line, "lock"))?);
    for section in &loaded.pipeline.processes {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let planned = backends::plan_process(section).await;
        plans.extend(
            planned.with_context(|| loaded.problem(line, "cannot plan the installation for this process"))?,
        );
    }
    if !as_json {
        let script = plans.iter().fold(String::new(), |mut script, Planned { what, database, steps }| {
            let _ = writeln!(script, "-- {what}: {database}\n\n{steps}");
            script
        });
        return print(&script);
    }
    let places = plans.iter().map(|Planned { what, database, steps }| {
        let steps = steps
            .steps
            .iter()
            .map(|step| json!({ "what": step.what, "begin": step.begin, "statements": step.statements }));
        json!({ "what": what, "database": database, "steps": steps.collect::<Vec<_>>() })
    });
    let plan = json!({ "file": loaded.file, "places": places.collect::<Vec<_>>() });
    print(&format!("{plan:#}\n"))
}

async fn run(loaded: &Loaded, as_json: bool) -> anyhow::Result<()> {
    let mut done = Vec::new();
    for section in backends::postgres_inputs(&loaded.pipeline) {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let installed = backends::install(loaded, section)
            .await
            .with_context(|| loaded.problem(line, "cannot install this input"))?;
        done.push((section.config.name.as_str(), installed));
    }
    let line = loaded.pipeline.lock.lines.of(Some(CONNECTION_STRING));
    backends::install_lock(loaded).await.with_context(|| loaded.problem(line, "lock"))?;
    let mut processes = Vec::new();
    for section in &loaded.pipeline.processes {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let installed = backends::install_process(section).await;
        let installed =
            installed.with_context(|| loaded.problem(line, "cannot install what this process needs"))?;
        processes.extend(installed.map(|it| (section.config.name.as_str(), it)));
    }
    if as_json {
        let inputs = done.iter().map(|(name, it)| {
            json!({ "name": name, "schema": it.schema, "schema_changed": it.schema_changed,
                    "changed": it.changed, "covered": it.covered, "failed": it.failed })
        });
        let processes = processes.iter().map(|(name, what)| json!({ "name": name, "installed": what }));
        let (inputs, processes) = (inputs.collect::<Vec<_>>(), processes.collect::<Vec<_>>());
        let report = json!({ "file": loaded.file, "inputs": inputs, "processes": processes });
        print(&format!("{report:#}\n"))?;
    } else {
        done.iter().try_for_each(|(name, installed)| print(&format!("{name}: {}\n", as_text(installed))))?;
        processes.iter().try_for_each(|(name, what)| print(&format!("{name}: {what}\n")))?;
    }
    let failed: usize = done.iter().map(|(_, installed)| installed.failed.len()).sum();
    if failed > 0 {
        bail!(
            "{failed} table(s) are not covered; run it again when they are less busy, or see what each says"
        );
    }
    Ok(())
}

fn as_text(installed: &Installed) -> String {
    let schema = if installed.schema_changed { "installed" } else { "was in place" };
    let mut text = format!("schema {} {schema}", installed.schema);
    if !installed.changed.is_empty() {
        let _ = write!(text, "; made triggers on {}", installed.changed.join(", "));
    }
    let _ = write!(text, "; {} table(s) are covered", installed.covered);
    for failed in &installed.failed {
        let _ = write!(text, "\n  {failed}");
    }
    text
}
