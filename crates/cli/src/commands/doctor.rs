//! `dapper doctor`: what is wrong with the databases of a pipeline's inputs.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use dapper_postgres::{Finding, Severity};
use serde_json::json;

use super::{load, print};
use crate::arguments::Doctor;
use crate::backends::{self, Backends};
use crate::pipeline::CONNECTION_STRING;

pub(super) async fn doctor(arguments: &Doctor, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let mut inputs = Vec::new();
    for section in backends::postgres_inputs(&loaded.pipeline) {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let findings = backends::diagnose(section)
            .await
            .with_context(|| loaded.problem(line, "cannot examine this input"))?;
        inputs.push((section.config.name.as_str(), findings));
    }
    let findings = inputs.iter().flat_map(|(_, findings)| findings);
    let problems = findings.filter(|finding| finding.severity == Severity::Problem).count();
    if arguments.json {
        let inputs = inputs.iter().map(|(name, findings)| {
            json!({ "name": name, "findings": findings.iter().map(as_json).collect::<Vec<_>>() })
        });
        let inputs = inputs.collect::<Vec<_>>();
        print(&format!("{:#}\n", json!({ "file": loaded.file, "problems": problems, "inputs": inputs })))?;
    } else {
        inputs.iter().try_for_each(|(name, findings)| print(&as_text(name, findings)))?;
    }
    if problems > 0 {
        bail!("{problems} problem(s) found");
    }
    Ok(())
}

fn as_json(finding: &Finding) -> serde_json::Value {
    json!({
        "topic": finding.topic,
        "severity": finding.severity.as_str(),
        "message": finding.message,
        "remedy": finding.remedy,
    })
}

fn as_text(name: &str, findings: &[Finding]) -> String {
    let mut text = format!("{name}\n");
    for Finding { topic, severity, message, remedy, .. } in findings {
        let _ = writeln!(text, "  {:7}  {topic:12}  {message}", severity.as_str());
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "  {:7}  {:12}  -> {remedy}", "", "");
        }
    }
    text
}
