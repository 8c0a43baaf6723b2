//! `dapper status`: how each input is doing.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::bail;
use dapper_postgres::{Count, Lag, ReplicaStatus, Status, StatusReader};
use futures::future::join_all;
use serde_json::json;

use super::{load, print};
use crate::arguments;
use crate::assembly::Loaded;
use crate::backends::{self, Backends, POSTGRES};
use crate::pipeline::InputSection;
use crate::stop;

/// Between the two looks whose difference is the rate.
const RATE_OVER: Duration = Duration::from_millis(500);

pub(super) async fn run(arguments: &arguments::Status, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let leases = backends.leases(&loaded)?;
    let mut readers = Vec::new();
    for section in sections(&loaded, arguments.input.as_deref())? {
        readers.push(StatusReader::new(&section.config, leases.manager(&section.config)?)?);
    }
    let first = look(&mut readers).await;
    let Some(every) = arguments.watch else {
        // What can't be reached now is not waited for again.
        let statuses = if first.iter().any(|status| status.cursor.is_none()) {
            first
        } else {
            tokio::time::sleep(RATE_OVER).await;
            look(&mut readers).await
        };
        print(&show(&loaded, &statuses, arguments.json, false))?;
        let ill: Vec<&str> =
            statuses.iter().filter(|it| !it.state.is_well()).map(|it| it.input.as_str()).collect();
        if !ill.is_empty() {
            bail!("{} input(s) are not well: {}", ill.len(), ill.join(", "));
        }
        return Ok(());
    };
    let stop = stop::on_signal()?;
    let mut statuses = first;
    loop {
        print(&show(&loaded, &statuses, arguments.json, true))?;
        statuses = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            statuses = async {
                tokio::time::sleep(every).await;
                look(&mut readers).await
            } => statuses,
        };
    }
}

async fn look(readers: &mut [StatusReader]) -> Vec<Status> {
    join_all(readers.iter_mut().map(StatusReader::look)).await
}

/// The named input, else all that keep their state in a database.
pub(super) fn sections<'l>(loaded: &'l Loaded, input: Option<&str>) -> anyhow::Result<Vec<&'l InputSection>> {
    let Some(name) = input else { return Ok(backends::postgres_inputs(&loaded.pipeline).collect()) };
    let section = loaded.input(name)?;
    if section.config.kind != POSTGRES {
        bail!("an input of type {} has no state in a database", section.config.kind);
    }
    Ok(vec![section])
}

fn show(loaded: &Loaded, statuses: &[Status], as_json: bool, watching: bool) -> String {
    if as_json {
        let whole = json!({ "file": loaded.file, "inputs": statuses });
        return if watching { format!("{whole}\n") } else { format!("{whole:#}\n") };
    }
    let mut text = String::new();
    for (index, status) in statuses.iter().enumerate() {
        if index > 0 || watching {
            text.push('\n');
        }
        text.push_str(&as_text(status));
    }
    text
}

fn as_text(status: &Status) -> String {
    let mut text =
        format!("{}  {}: {}\n", printable(&status.input), status.state.as_str(), printable(&status.reason));
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "  {what:12}  {}", printable(&value));
    };
    line("database", status.server.clone());
    match &status.holder {
        Some(holder) => {
            let since = holder.since.as_ref().map_or_else(String::new, |since| format!(", since {since}"));
            let who = holder.replica.as_ref().map_or_else(|| holder.id.clone(), replica);
            line("holder", format!("{who}, token {}{since}", holder.token));
        }
        None if status.cursor.is_some() => line("holder", "none".to_owned()),
        None => {}
    }
    for (index, standby) in status.standbys.iter().enumerate() {
        line(if index == 0 { "standbys" } else { "" }, replica(standby));
    }
    if let Some(cursor) = &status.cursor {
        let moved = cursor.moved_seconds.map_or_else(String::new, |ago| format!(", the last {ago:.1} s ago"));
        let rate = status.rate.map_or_else(String::new, |rate| format!(", {rate:.0}/s"));
        line("handled", format!("{} events{rate}{moved}", cursor.handled));
    }
    if let Some(lag) = &status.lag {
        line("waiting", waiting(lag));
    }
    if let Some(parked) = &status.parked {
        line("parked", format!("{} key(s), {} event(s)", count(parked.keys), count(parked.events)));
    }
    if let Some(dead) = &status.dead_letters {
        line("dead letters", count(dead.letters));
    }
    if let Some(coverage) = &status.coverage {
        let problems = match coverage.problems {
            0 => String::new(),
            problems => format!(", {problems} with problems"),
        };
        line("tables", format!("{} covered{problems}", coverage.covered));
    }
    for warning in &status.warnings {
        line("warning", warning.clone());
    }
    text
}

fn replica(replica: &ReplicaStatus) -> String {
    let from = replica.address.as_ref().map_or_else(String::new, |address| format!(" from {address}"));
    format!("{} ({}, process {}{from})", replica.id, replica.run_by, replica.process_id)
}

fn waiting(lag: &Lag) -> String {
    let about = if lag.exact { "" } else { "about " };
    match lag.changes {
        0 => "0 changes".to_owned(),
        changes => format!("{about}{changes} change(s), the oldest for {:.1} s", lag.seconds),
    }
}

fn count(count: Count) -> String {
    if count.exact { count.count.to_string() } else { format!("more than {}", count.count) }
}

/// Without what would steer a terminal: some of it was written by others.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
