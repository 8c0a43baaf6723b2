//! What reading a payload takes: time here, allocations in a program that counts them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::Value;

use crate::allocations;
use crate::bench::Bench;
use crate::case::{Bound, Case};
use crate::child::beside;

const NAME: &str = "parser";
const DAPPER: &str = "dapper-payload";
const VALUE: &str = "serde_json::Value";
const TYPED: &str = "typed derive";
/// The bytes of what it read, so that nothing can be left out.
type Read = fn(&str) -> Result<usize>;

const WAYS: [(&str, Read); 3] = [(DAPPER, ours), (VALUE, value), (TYPED, typed)];

/// Turns of each way; they are short.
const TURNS: u32 = 5;
const TURN: Duration = Duration::from_millis(60);
const QUICK_TURN: Duration = Duration::from_millis(3);

/// What [`crate::parser_allocations`] prints: by payload and way, allocations of one reading.
type Allocations = BTreeMap<String, BTreeMap<String, u64>>;

pub(crate) async fn run(bench: &Bench) -> Result<()> {
    let output = tokio::process::Command::new(beside("bench-counted")?).arg("parser").output().await?;
    let allocations: Allocations =
        serde_json::from_slice(&output.stdout).context("bench-counted said what is not understood")?;
    for (name, title, payload) in payloads() {
        if !bench.wants(NAME, name) {
            continue;
        }
        let mut case = Case::new(NAME, name, format!("{title}, {} bytes", payload.len()));
        case.metric("time", "ns per payload", Some(DAPPER));
        case.metric("allocations", "per payload", None);
        let turn = if bench.scale.is_quick { QUICK_TURN } else { TURN };
        for _ in 0..bench.scale.rounds * TURNS {
            for (way, read) in WAYS {
                case.push("time", way, nanoseconds(read, &payload, turn)?);
            }
        }
        for (way, _) in WAYS {
            let counted =
                allocations.get(name).and_then(|ways| ways.get(way)).context("a count is missing")?;
            case.push("allocations", way, *counted as f64);
        }
        bench.progress(&case.path(), bench.scale.rounds - 1, "done");
        let faster = case.ratio("time", VALUE, DAPPER);
        case.target("serde_json::Value / dapper-payload, time", faster, Bound::AtLeast(3.0));
        if name == "ancestor" {
            let least = case.median("allocations", DAPPER);
            case.target("allocations for the ancestor's payload", least, Bound::AtMost(0.0));
        }
        case.note(
            "Each reads table, operation, and the id of every change as text; what a caller would keep of them is its own. \
             dapper-payload also checks everything that the form demands.",
        );
        bench.finish(&case)?;
    }
    Ok(())
}

fn payloads() -> Vec<(&'static str, &'static str, String)> {
    let ids = |count: u32| (1..=count).map(|n| (1_000_000 + n).to_string()).collect::<Vec<_>>().join(",");
    let image = r#"{"id":1,"customer":"Søren O'Neil","total":129.95,"lines":3,"paid":true,"note":"left at the door"}"#;
    let images = [image; 20].join(",");
    vec![
        (
            "ancestor",
            "The ancestor's notification",
            r#"{"tbl": "orders", "id": 42, "op": "INSERT"}"#.to_owned(),
        ),
        (
            "one-key",
            "A change set of one row",
            r#"{"tbl":"orders","op":"INSERT","key":["id"],"ids":[42]}"#.to_owned(),
        ),
        (
            "1000-keys",
            "A change set of 1,000 rows",
            format!(r#"{{"tbl":"orders","op":"INSERT","key":["id"],"ids":[{}]}}"#, ids(1_000)),
        ),
        (
            "composite",
            "A change set of 20 rows with a key of two columns",
            format!(
                r#"{{"schema":"audit","tbl":"orders","op":"UPDATE","key":["region","nr"],"ids":[{}]}}"#,
                [r#"["eu",1234567]"#; 20].join(",")
            ),
        ),
        (
            "images",
            "A change set of 20 rows with their images",
            format!(r#"{{"tbl":"orders","op":"INSERT","key":["id"],"ids":[{}],"new":[{images}]}}"#, ids(20)),
        ),
    ]
}

fn ours(text: &str) -> Result<usize> {
    let payload = dapper_payload::parse(text)?;
    let ids = payload.changes().map(|change| black_box(change.id()).len());
    Ok(payload.table().len() + payload.kind() as usize + ids.sum::<usize>())
}

fn value(text: &str) -> Result<usize> {
    let payload: Value = serde_json::from_str(text)?;
    let (Some(table), Some(operation)) = (payload["tbl"].as_str(), payload["op"].as_str()) else {
        bail!("table and operation are missing");
    };
    let ids = match payload.get("ids").and_then(Value::as_array) {
        Some(ids) => ids.iter().map(length).sum(),
        None => length(&payload["id"]),
    };
    Ok(table.len() + operation.len() + ids)
}

/// What most write for a payload whose form they know.
#[derive(Deserialize)]
struct Typed {
    tbl: String,
    op: String,
    id: Option<Value>,
    #[serde(default)]
    ids: Vec<Value>,
}

fn typed(text: &str) -> Result<usize> {
    let payload: Typed = serde_json::from_str(text)?;
    let ids: usize = payload.ids.iter().chain(&payload.id).map(length).sum();
    Ok(payload.tbl.len() + payload.op.len() + ids)
}

/// The id as text, and its bytes.
fn length(id: &Value) -> usize {
    match id {
        Value::String(text) => black_box(text.as_str()).len(),
        other => black_box(other.to_string()).len(),
    }
}

/// Of this thread's own time: whatever else runs on the machine does not count.
fn nanoseconds(read: Read, payload: &str, turn: Duration) -> Result<f64> {
    let (started, mut times) = (own_time()?, 0_u32);
    loop {
        for _ in 0..64 {
            black_box(read(black_box(payload))?);
        }
        times += 64;
        let taken = own_time()? - started;
        if taken >= turn {
            return Ok(taken.as_nanos() as f64 / f64::from(times));
        }
    }
}

fn own_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// One reading of each payload in each way, for a program with [`Counting`](crate::Counting).
pub(crate) fn print_allocations() -> Result<()> {
    let mut all = Allocations::new();
    for (name, _, payload) in payloads() {
        for (way, read) in WAYS {
            let before = allocations::count();
            black_box(read(black_box(&payload))?);
            let after = allocations::count();
            all.entry(name.to_owned()).or_default().insert(way.to_owned(), after - before);
        }
    }
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_read_the_same_ids() {
        for (name, _, payload) in payloads() {
            let (theirs, typed) = (value(&payload).unwrap(), typed(&payload).unwrap());
            assert_eq!(theirs, typed, "{name}");
            let operation = dapper_payload::parse(&payload).unwrap();
            let ids: usize = operation.changes().map(|change| change.id().len()).sum();
            let operations = if payload.contains("UPDATE") || payload.contains("INSERT") { 6 } else { 0 };
            assert_eq!(theirs, ids + operation.table().len() + operations, "{name}");
        }
    }
}
