//! `dapper audit`: who changed what by a command, and when.

use anyhow::Context;
use dapper_postgres::{AuditRecord, audit};
use serde_json::json;

use super::status::{printable, sections};
use super::{load, print};
use crate::arguments::Audit;
use crate::backends::Backends;
use crate::pipeline::CONNECTION_STRING;

pub(super) async fn run(arguments: &Audit, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let mut inputs = Vec::new();
    for section in sections(&loaded, arguments.input.as_deref())? {
        let line = section.lines.of(Some(CONNECTION_STRING));
        let since = arguments.since.map(|since| since.0);
        let records = audit(&section.config, since, arguments.limit)
            .await
            .with_context(|| loaded.problem(line, "cannot read the audit of this input"))?;
        inputs.push((section.config.name.as_str(), records));
    }
    if arguments.json {
        let inputs = inputs.iter().map(|(name, records)| json!({ "name": name, "records": records }));
        let whole = json!({ "file": loaded.file, "inputs": inputs.collect::<Vec<_>>() });
        return print(&format!("{whole:#}\n"));
    }
    for (name, records) in inputs {
        print(&format!("{name}: {} record(s)\n", records.len()))?;
        records.iter().try_for_each(|record| print(&as_line(record)))?;
    }
    Ok(())
}

fn as_line(record: &AuditRecord) -> String {
    let AuditRecord { at, role, run_by, address, action, details, .. } = record;
    let from = address.as_ref().map_or_else(String::new, |address| format!(" from {address}"));
    format!("  {at}  {}  {action}  {}\n", printable(&format!("{run_by} as {role}{from}")), printable(details))
}
