//! Which tables are covered, which are not, and why.

use tokio_postgres::Client;

use super::Finding;
use crate::PostgresError;
use crate::coverage::{self, Drift};
use crate::options::Options;

/// Names of tables that are listed; the rest is counted.
const LISTED: usize = 20;

pub(super) async fn tables(client: &Client, options: &Options) -> Result<Vec<Finding>, PostgresError> {
    let mut findings = Vec::new();
    let (mut covered, mut keyless, mut unmatched) = (Vec::new(), Vec::new(), Vec::new());
    let mut any_wanted = false;
    for (table, drifts) in coverage::survey(client, options).await? {
        let wanted = options.wants(&table).is_some();
        any_wanted |= wanted;
        if wanted && table.key().is_empty() {
            keyless.push(table.to_string());
        }
        if let Some(refused) = options.refuses(&table) {
            any_wanted = true;
            findings.push(Finding::problem(
                "tables",
                format!("table {table} is not covered: {refused}"),
                "leave it out with `exclude`, or detach the foreign table",
            ));
        }
        if !drifts.is_empty() {
            findings.push(uncovered(&table.to_string(), wanted, &drifts));
        } else if wanted {
            covered.push(table.to_string());
        } else if options.refuses(&table).is_none() {
            unmatched.push(table.to_string());
        }
    }
    if !any_wanted {
        findings.push(Finding::problem(
            "tables",
            "no table is asked for",
            "see which tables there are, and what `tables` and `exclude` in the pipeline file say",
        ));
    }
    if !covered.is_empty() {
        findings.push(Finding::ok("tables", format!("covered: {}", list(&covered))));
    }
    if !keyless.is_empty() {
        let what = format!("without a key, so that events have an empty id: {}", list(&keyless));
        findings.push(Finding::note("keys", what));
    }
    if !unmatched.is_empty() {
        let what = format!("not covered, since `tables` and `exclude` leave them out: {}", list(&unmatched));
        findings.push(Finding::note("tables", what));
    }
    Ok(findings)
}

fn uncovered(table: &str, wanted: bool, drifts: &[Drift]) -> Finding {
    let what = coverage::describe(drifts);
    if !wanted {
        return Finding::problem(
            "triggers",
            format!("table {table} is not asked for: {what}"),
            "run `dapper install`, or wait for a running replica to do it",
        );
    }
    let new = matches!(drifts, [Drift::New]);
    Finding::problem(
        if new { "tables" } else { "triggers" },
        format!("table {table} is not covered as it should be: {what}"),
        "run `dapper install`, or wait for a running replica to do it; if it does not, its log says why",
    )
}

fn list(names: &[String]) -> String {
    let mut text = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}
