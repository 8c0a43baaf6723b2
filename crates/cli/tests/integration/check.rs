//! `dapper check` and what is printed of a pipeline.

use crate::support::{EXAMPLE, SMALL, dapper};
use expect_test::expect;

#[test]
fn the_designs_example_is_good() {
    let said = dapper(EXAMPLE, &["check", "--offline", "pipeline.toml"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    expect![[r#"
        lock     postgres, ttl 10s
        input    orders-input (postgres)
        process  notify (webhook)
        link     orders-input -> notify
        pipeline.toml is good; no address was tried
    "#]]
    .assert_eq(&said.out);
}

#[test]
fn the_summary_is_json_on_request() {
    let said = dapper(EXAMPLE, &["check", "--offline", "--json", "pipeline.toml"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let summary: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    expect![[r#"{"file":"pipeline.toml","inputs":[{"name":"orders-input","type":"postgres"}],"links":[{"input":"orders-input","process":"notify"}],"lock":{"backend":"postgres","ttl_ms":10000},"offline":true,"processes":[{"name":"notify","type":"webhook"}],"reached":[],"warnings":[]}"#]]
    .assert_eq(&summary.to_string());
}

#[test]
fn a_process_that_is_never_reached_is_a_warning() {
    let more = "[[processes]]\nname = \"idle\"\ntype = \"log\"\n";
    let said = dapper(&format!("{SMALL}{more}"), &["check", "--offline", "pipeline.toml"]);
    assert_eq!(said.code, Some(0));
    let warning = "warning  process \"idle\" is never reached: no link leads to it from an input\n";
    assert!(said.out.contains(warning), "{}", said.out);
}

#[test]
fn version_and_help() {
    let said = dapper("", &["--version"]);
    assert_eq!(said.out, format!("dapper {}\n", env!("CARGO_PKG_VERSION")));
    let said = dapper("", &["--help"]);
    assert!(
        said.code == Some(0) && said.out.contains("dapper check pipeline.toml && dapper run"),
        "{said:?}"
    );
}

#[test]
fn each_command_explains_itself() {
    for (command, wanted) in [
        ("run", "Start as many replicas as you like"),
        ("check", "Webhooks are connected to, and sent nothing"),
        ("uninstall", "it refuses while one is connected"),
        ("rebase", "marked as a possible repeat"),
    ] {
        let said = dapper("", &[command, "--help"]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        let text = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(wanted) && text.contains("Example"), "{}", said.out);
    }
}
