//! What the builder refuses.

use crate::support::{idle, recorder};
use dapper_orchestrator::{GraphError, GraphWarning, Orchestrator, OrchestratorBuilder};
use expect_test::{Expect, expect};

/// Two inputs, `orders` and `users`, and three processes, `notify`, `audit` and `archive`; `users` -> `audit`.
fn graph() -> OrchestratorBuilder {
    let mut builder = Orchestrator::builder().add_input(idle("orders")).add_input(idle("users"));
    for id in ["notify", "audit", "archive"] {
        builder = builder.add_process(recorder(id).0);
    }
    builder.add_link("users", "audit")
}

fn check(builder: OrchestratorBuilder, expected: &Expect) -> GraphError {
    let error = builder.build().unwrap_err();
    expected.assert_eq(&error.to_string());
    error
}

#[tokio::test]
async fn duplicate_ids() {
    let message = expect![[r#"more than one input or process has the id "notify""#]];
    check(graph().add_process(recorder("notify").0), &message);
    check(graph().add_input(idle("notify")), &message);
    let error = check(
        graph().add_input(idle("orders")),
        &expect![[r#"more than one input or process has the id "orders""#]],
    );
    assert_eq!(error, GraphError::DuplicateNode { node: "orders".into() });
}

#[tokio::test]
async fn links_to_nothing() {
    check(
        graph().add_link("orders", "notfy"),
        &expect![[r#"link "orders" -> "notfy": there is no "notfy"; did you mean "notify"?"#]],
    );
    check(graph().add_link("zzz", "notify"), &expect![[r#"link "zzz" -> "notify": there is no "zzz""#]]);
}

#[tokio::test]
async fn duplicate_links() {
    check(graph().add_link("users", "audit"), &expect![[r#"link "users" -> "audit" is there twice"#]]);
}

#[tokio::test]
async fn links_into_inputs() {
    check(
        graph().add_link("audit", "users"),
        &expect![[r#"link "audit" -> "users" leads into an input; links lead into processes"#]],
    );
}

#[tokio::test]
async fn cycles_are_named_in_one_order() {
    for rotation in 0..3 {
        let mut links = [("notify", "audit"), ("audit", "archive"), ("archive", "notify")];
        links.rotate_left(rotation);
        let builder = links.into_iter().fold(graph(), |builder, (from, to)| builder.add_link(from, to));
        check(builder, &expect!["processes form a cycle: archive, audit, notify"]);
    }
    check(graph().add_link("audit", "audit"), &expect!["processes form a cycle: audit"]);
}

#[tokio::test]
async fn inputs_without_links() {
    check(graph(), &expect![[r#"input "orders" has no link to a process, so its events would be lost"#]]);
}

#[tokio::test]
async fn zero_concurrency() {
    check(graph().concurrency(0), &expect!["concurrency must be at least 1"]);
}

#[tokio::test]
async fn unreachable_processes_are_a_warning() {
    let orchestrator = graph().add_link("orders", "audit").add_link("notify", "archive").build().unwrap();
    let unreachable = |process: &str| GraphWarning::UnreachableProcess { process: process.into() };
    assert_eq!(orchestrator.warnings(), [unreachable("notify"), unreachable("archive")]);
    expect![[r#"
        flowchart LR
            i0(["orders"])
            i1(["users"])
            p0["archive"]
            p1["audit"]
            p2["notify"]
            p2 --> p0
            i0 --> p1
            i1 --> p1
    "#]]
    .assert_eq(&orchestrator.to_mermaid());
    assert!(orchestrator.to_dot().starts_with("digraph"));
}
