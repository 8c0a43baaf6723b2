//! `dapper install`, with and without `--dry-run`, and `dapper doctor`.

use crate::support::{Dapper, Running, SMALL, Said, database};
use dapper_testkit::Database;
use serde_json::Value;

fn dapper(database: &Database, pipeline: &str, arguments: &[&str]) -> Said {
    Dapper::new(pipeline, arguments).env("DATABASE_URL", &database.url()).run()
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The topics of the problems that the doctor finds.
fn problems(said: &Said) -> Vec<String> {
    let found = json(said);
    let findings = found["inputs"][0]["findings"].as_array().unwrap();
    let problems = findings.iter().filter(|finding| finding["severity"] == "problem");
    problems.map(|finding| finding["topic"].as_str().unwrap().to_owned()).collect()
}

const NEVER: &str = "connection_string = \"${DATABASE_URL}\"\ninstall = \"never\"";

#[tokio::test]
async fn what_a_dry_run_prints_is_what_an_installation_does() {
    let (database, client) = database().await;
    let script = dapper(&database, SMALL, &["install", "--dry-run", "pipeline.toml"]);
    assert_eq!(script.code, Some(0), "{script:?}");
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'dapper%'";
    assert_eq!(client.query_one(there, &[]).await.unwrap().get::<_, i64>(0), 0);
    let plan = json(&dapper(&database, SMALL, &["install", "--dry-run", "--json", "pipeline.toml"]));
    let steps = plan["places"][0]["steps"].as_array().unwrap();
    let whats: Vec<&str> = steps.iter().map(|step| step["what"].as_str().unwrap()).collect();
    assert_eq!(
        whats,
        [
            "schema dapper_orders_input",
            "event trigger for new tables",
            "table public.orders",
            "table of leases"
        ]
    );

    client.batch_execute(&script.out).await.unwrap();
    let empty = json(&dapper(&database, SMALL, &["install", "--dry-run", "--json", "pipeline.toml"]));
    assert_eq!(empty["places"][0]["steps"], serde_json::json!([]));
    let done = dapper(&database, SMALL, &["install", "pipeline.toml"]);
    assert_eq!(done.out, "orders-input: schema dapper_orders_input was in place; 1 table(s) are covered\n");
}

#[tokio::test]
async fn a_replica_that_is_not_to_install_runs_on_what_was_installed() {
    let (database, client) = database().await;
    let pipeline = SMALL.replace("connection_string = \"${DATABASE_URL}\"", NEVER);
    let refused = dapper(&database, &pipeline, &["run", "pipeline.toml"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("install = \"never\"; run `dapper install`"), "{}", refused.err);
    let done = dapper(&database, &pipeline, &["install", "--json", "pipeline.toml"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let input = json(&done)["inputs"][0].clone();
    assert_eq!((&input["schema_changed"], &input["changed"][0]), (&true.into(), &"public.orders".into()));
    let mut replica = Running::start(&pipeline, &database);
    replica.logged("lease acquired").await;
    client.batch_execute("INSERT INTO orders VALUES (7)").await.unwrap();
    assert!(replica.printed().await.contains("\"id\":\"7\""));
}

#[tokio::test]
async fn the_doctors_exit_code_says_whether_something_is_wrong() {
    let (database, client) = database().await;
    let sick = dapper(&database, SMALL, &["doctor", "--json", "pipeline.toml"]);
    assert_eq!((sick.code, problems(&sick)), (Some(1), vec!["layout".to_owned()]), "{sick:?}");
    assert_eq!(sick.err, "error: 1 problem(s) found\n");

    let mut replica = Running::start(SMALL, &database);
    replica.logged("tables under capture").await;
    let healthy = dapper(&database, SMALL, &["doctor", "pipeline.toml"]);
    assert_eq!((healthy.code, healthy.err.as_str()), (Some(0), ""), "{healthy:?}");
    assert!(healthy.out.contains("  ok       tables        covered: public.orders\n"), "{}", healthy.out);
    client.batch_execute("DROP SCHEMA dapper_orders_input CASCADE").await.unwrap();
    assert_eq!(dapper(&database, SMALL, &["doctor", "pipeline.toml"]).code, Some(1));
}
