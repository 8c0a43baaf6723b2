//! The commands by which a running pipeline is watched and steered, from outside.

use std::time::{Duration, Instant};

use dapper_testkit::Database;
use serde_json::Value;

use crate::support::{CANARY, Dapper, Running, SMALL, Said, dapper, database};

fn run(database: &Database, arguments: &[&str]) -> Said {
    Dapper::new(SMALL, arguments).env("DATABASE_URL", &database.url()).run()
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The status of the only input, once it is so.
async fn until(database: &Database, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = json(&run(database, &["status", "--json", "pipeline.toml"]))["inputs"][0].clone();
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "never: {status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_from_outside_who_leads_who_stands_by_and_that_nobody_is_there() {
    let (database, client) = database().await;
    let nothing = run(&database, &["status", "pipeline.toml"]);
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.out.starts_with("orders-input  not_installed: "), "{nothing:?}");
    assert_eq!(nothing.err, "error: 1 input(s) are not well: orders-input\n");

    let mut leader = Running::start(SMALL, &database);
    leader.logged("tables under capture").await;
    let mut standby = Running::start(SMALL, &database);
    standby.logged("standing by").await;
    client.batch_execute("INSERT INTO orders SELECT generate_series(1, 20)").await.unwrap();
    let status = until(&database, |status| {
        status["cursor"]["handled"] == 20 && status["standbys"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!((&status["state"], &status["holder"]["token"]), (&"idle".into(), &1.into()));
    assert_eq!((&status["lag"]["changes"], &status["lag"]["exact"]), (&0.into(), &true.into()));
    assert!(status["holder"]["replica"]["run_by"].as_str().unwrap().contains('@'), "{status:#}");
    assert_ne!(status["holder"]["id"], status["standbys"][0]["id"]);
    assert_ne!(status["holder"]["replica"]["process_id"], status["standbys"][0]["process_id"]);
    let text = run(&database, &["status", "pipeline.toml"]);
    assert_eq!((text.code, text.err.as_str()), (Some(0), ""));
    for part in ["orders-input  idle: nothing waits\n", ", token 1, since 20", "  handled       20 events"] {
        assert!(text.out.contains(part), "{part:?}: {}", text.out);
    }

    leader.signal(nix::sys::signal::Signal::SIGKILL);
    let status = until(&database, |status| status["holder"]["token"] == 2).await;
    assert_eq!(status["standbys"], serde_json::json!([]));
    assert_eq!(status["warnings"][0], "no replica stands by: nobody would take over");
    standby.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(standby.exit_code().await, Some(0));
    client.batch_execute("INSERT INTO orders VALUES (21)").await.unwrap();
    let status = until(&database, |status| status["state"] == "no_holder").await;
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.starts_with("no replica is connected: start `dapper run`; 1 change waits"), "{reason}");
}

#[test]
fn status_names_what_it_can_not_reach_and_no_secret() {
    let begun = Instant::now();
    let said = dapper(SMALL, &["status", "pipeline.toml"]);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(said.code, Some(1));
    for part in ["orders-input  unreachable: ", "127.0.0.1:1", "database \"app\"", "user \"app\""] {
        assert!(said.out.contains(part), "{part:?}: {}", said.out);
    }
    assert!(!said.out.contains(CANARY));
    let unknown = dapper(SMALL, &["status", "pipeline.toml", "--input", "orders-imput"]);
    let expected =
        "error: pipeline.toml: there is no input \"orders-imput\"; did you mean \"orders-input\"?\n";
    assert_eq!((unknown.code, unknown.err.as_str()), (Some(1), expected));
    let often = dapper(SMALL, &["status", "pipeline.toml", "--watch", "1ms"]);
    assert!(often.code == Some(2) && often.err.contains("must be 100ms at least"), "{often:?}");
}

#[test]
fn a_wrong_command_suggests_the_near_one() {
    for (wrong, near) in [("statu", "status"), ("grap", "graph"), ("docter", "doctor")] {
        let said = dapper(SMALL, &[wrong, "pipeline.toml"]);
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains(&format!("'{near}'")), "{}", said.err);
    }
}

#[test]
fn the_graph_is_drawn_for_people_and_for_programs() {
    let draw = |arguments: &[&str]| {
        let said = dapper(SMALL, &[&["graph", "pipeline.toml"], arguments].concat());
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
        said
    };
    assert_eq!(draw(&[]).out, "orders-input\n└─▶ print\n");
    assert!(draw(&["--format", "mermaid"]).out.starts_with("flowchart LR\n"));
    assert!(draw(&["--format", "dot"]).out.starts_with("digraph pipeline {\n"));
    let graph = json(&draw(&["--json"]));
    assert_eq!(graph["links"], serde_json::json!([{ "from": "orders-input", "to": "print" }]));
    assert_eq!(graph["inputs"][0]["type"], "postgres");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_resume_and_skip_act_on_running_replicas_and_are_recorded() {
    let (database, client) = database().await;
    let mut replica = Running::start(SMALL, &database);
    replica.logged("tables under capture").await;
    let paused = run(&database, &["pause", "pipeline.toml", "--input", "orders-input", "--reason", "lunch"]);
    assert_eq!((paused.code, paused.out.as_str()), (Some(0), "orders-input: is paused\n"), "{paused:?}");
    replica.logged("what is paused has changed").await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    let status = until(&database, |status| status["lag"]["changes"] == 1).await;
    assert_eq!(status["state"], "paused");
    assert!(status["reason"].as_str().unwrap().contains("lunch; 1 change waits"), "{status:#}");
    assert_eq!(run(&database, &["status", "pipeline.toml"]).code, Some(0), "a pause is no fault");

    // Meanwhile what waits is skipped.
    let skip = |more: &[&str]| {
        run(&database, &[&["skip", "pipeline.toml", "--input", "orders-input"], more].concat())
    };
    let shown = skip(&[]);
    assert_eq!(shown.code, Some(0));
    assert!(shown.out.contains("  --seq 1  orders, 1 change(s)\n"), "{}", shown.out);
    let blind = skip(&["--yes"]);
    assert!(blind.code == Some(1) && blind.err.contains("skip what?"), "{blind:?}");
    let asked = skip(&["--seq", "1"]);
    assert_eq!(asked.err, "error: nothing was skipped; with --yes it is\n");
    assert!(asked.out.starts_with("orders-input: would be skipped, making 1 dead letter(s)\n  print  {"));
    let done = json(&skip(&["--seq", "1", "--yes", "--reason", "test", "--json"]));
    assert_eq!((&done["skipped"], &done["dead_letters"]), (&true.into(), &1.into()), "{done:#}");
    assert_eq!(done["events"][0]["event"]["id"], "1");
    let again = skip(&["--seq", "1", "--yes"]);
    assert!(again.code == Some(1) && again.err.contains("pipeline.toml:4: cannot skip this"), "{again:?}");

    client.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    let resumed = json(&run(&database, &["resume", "pipeline.toml", "--input", "orders-input", "--json"]));
    assert_eq!(resumed["inputs"][0], serde_json::json!({ "input": "orders-input", "changed": true }));
    assert!(replica.printed().await.contains("\"id\":\"2\""));

    let paused = run(&database, &["pause", "pipeline.toml", "--process", "print"]);
    assert_eq!((paused.code, paused.out.as_str()), (Some(0), "orders-input: process print is paused\n"));
    replica.logged("what is paused has changed").await;
    client.batch_execute("INSERT INTO orders VALUES (3)").await.unwrap();
    let status = until(&database, |status| status["parked"]["events"]["count"] == 1).await;
    assert_eq!(status["pauses"][0]["process"], "print");
    let resumed = run(&database, &["resume", "pipeline.toml", "--process", "print"]);
    assert_eq!(resumed.out, "orders-input: process print goes on\n");
    assert!(replica.printed().await.contains("\"id\":\"3\""));

    let records = json(&run(&database, &["audit", "pipeline.toml", "--json"]));
    let records = records["inputs"][0]["records"].as_array().unwrap();
    let actions: Vec<&str> = records.iter().map(|record| record["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["install", "pause", "skip", "resume", "pause", "resume"]);
    assert!(records.iter().all(|record| record["run_by"].as_str().unwrap().contains('@')), "{records:#?}");
    let text = run(&database, &["audit", "pipeline.toml", "--since", "1h", "--limit", "5"]);
    assert!(text.out.starts_with("orders-input: 5 record(s)\n"), "{}", text.out);
    assert!(text.out.contains("  pause  the input: lunch\n"), "{}", text.out);
}

#[test]
fn what_is_paused_is_named_by_one_name_that_the_file_has() {
    let said = |arguments: &[&str]| {
        let said = dapper(SMALL, arguments);
        (said.code, said.err)
    };
    let (code, err) = said(&["pause", "pipeline.toml", "--process", "prin"]);
    assert_eq!(code, Some(1));
    assert_eq!(err, "error: pipeline.toml: there is no process \"prin\"; did you mean \"print\"?\n");
    for wrong in [
        &["pause", "pipeline.toml"][..],
        &["resume", "pipeline.toml", "--process", "print", "--input", "orders-input"],
        &["skip", "pipeline.toml", "--seq", "1"],
        &["skip", "pipeline.toml", "--input", "orders-input", "--seq", "1", "--event", "x"],
    ] {
        assert_eq!(said(wrong).0, Some(2), "{wrong:?}");
    }
    let (code, err) = said(&["pause", "pipeline.toml", "--input", "orders-input"]);
    assert_eq!(code, Some(1));
    for part in ["pipeline.toml:4: input \"orders-input\": cannot pause", "127.0.0.1:1", "user \"app\""] {
        assert!(err.contains(part), "{part:?}: {err}");
    }
}
