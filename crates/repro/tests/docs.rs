//! What `docs/reliability.md` says of tests and rows.

use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn page() -> String {
    fs::read_to_string(folder().join("reliability.md")).unwrap()
}

#[test]
fn the_table_of_bugs_is_the_list_of_rows() {
    let table = dapper_repro::markdown(&dapper_repro::all());
    let told = "the table differs: replace it by what `cargo xtask repro --markdown` prints";
    assert!(page().ends_with(&format!("\n{table}")), "{told}");
}

#[test]
fn every_test_that_is_named_is_there() {
    let page = page();
    // [`name`](path)
    let links: Vec<(&str, &str)> = page
        .split("[`")
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once("`](")?;
            let (path, _) = rest.split_once(')')?;
            path.ends_with(".rs").then_some((name, path))
        })
        .collect();
    assert!(links.len() > 60, "only {} tests are named", links.len());
    let missing: Vec<_> = links
        .into_iter()
        .filter(|(name, path)| {
            let source = fs::read_to_string(folder().join(path)).unwrap_or_default();
            !source.contains(&format!("fn {name}("))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_fault_has_a_number_and_is_covered_or_said_not_to_be() {
    let page = page();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line[2..3].parse::<u32>().is_ok());
    let mut next = 1;
    for row in rows {
        assert!(row.starts_with(&format!("| {next} | ")), "{row}");
        assert!(row.contains("[`") || row.contains("not covered yet"), "{row}");
        next += 1;
    }
    assert!(next > 40, "only {next}");
}

#[test]
fn every_fault_of_the_chaos_run_that_is_named_is_one() {
    let points = fs::read_to_string(folder().join("chaos.md")).unwrap();
    let page = page();
    let named: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|row| row.split_once("chaos: `"))
        .flat_map(|(_, names)| names.split('`').step_by(2))
        .filter(|name| *name != " |")
        .collect();
    assert!(named.len() > 20, "only {} are named", named.len());
    let unknown: Vec<_> = named
        .into_iter()
        .filter(|name| {
            name.parse::<dapper_testkit::chaos::Fault>().is_err()
                && !points.contains(&format!("| at {name} |"))
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
