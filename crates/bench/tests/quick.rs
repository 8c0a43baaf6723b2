//! Every scenario runs to its end, in the least of everything, and leaves its cases behind.

use std::process::Command;

#[test]
fn every_scenario_runs() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["run", "--quick", "--json", "--results", results])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let cases = [
        "cost.event",
        "drain.large",
        "drain.one-row",
        "drain.work",
        "growth.backlog",
        "growth.images",
        "growth.standbys",
        "growth.tables",
        "growth.writers",
        "idle.replicas",
        "latency.1000",
        "memory.replica",
        "parser.ancestor",
        "write.half-rate",
        "write.one-row-8",
    ];
    for case in cases {
        for kind in ["json", "svg"] {
            let file = folder.path().join(format!("{case}.{kind}"));
            assert!(file.is_file(), "{case} has left no {kind}; {complaints}");
        }
    }
}
