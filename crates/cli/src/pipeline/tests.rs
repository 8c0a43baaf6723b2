//! Pipeline files, good and bad: each bad one with its exact message.

use expect_test::{Expect, expect};

use super::{LockSection, Pipeline, Problem, Source, read};
use dapper_core::Operation;
use dapper_orchestrator::{Condition, Filter, Test, Value};
use std::time::Duration;

/// The example of the design document.
const EXAMPLE: &str = include_str!("../../tests/files/example.toml");

fn parse(text: &str) -> Result<Pipeline, Problem> {
    let lookup = |name: &str| match name {
        "DATABASE_URL" => Some("postgres://app:canary-1@db/app".to_owned()),
        "LOCK_DATABASE_URL" => Some("postgres://lock:canary-2@db/lock".to_owned()),
        "HOOK" => Some("https://example.com/canary-3".to_owned()),
        _ => None,
    };
    let source = Source {
        file: "pipeline.toml",
        text,
        lookup: &lookup,
        lock_backends: &[
            ("postgres", &["connection_string"]),
            ("etcd", &["connection_string"]),
            ("memory", &[]),
            ("own", &["path", "limits"]),
        ],
        input_types: &[
            ("postgres", &["connection_string", "tables", "exclude", "images", "wake_up", "retention"]),
            ("timer", &["every"]),
        ],
        process_types: &["log", "webhook"],
    };
    read(&source)
}

/// A good file: an input in line 1, a process in line 6, a link in line 10.
const GOOD: [&str; 3] = [
    "[[inputs]]\nname = \"orders-input\"\ntype = \"postgres\"\nconnection_string = \"${DATABASE_URL}\"\n\n",
    "[[processes]]\nname = \"print\"\ntype = \"log\"\n\n",
    "[[links]]\ninput = \"orders-input\"\nprocess = \"print\"\n",
];

fn refused(text: &str, expected: &Expect) {
    let problem = parse(text).expect_err("the file is bad").to_string();
    assert!(!problem.contains("canary"), "{problem}");
    expected.assert_eq(&problem);
}

/// The good file with `from` replaced by `to`.
fn replaced(from: &str, to: &str, expected: &Expect) {
    let text = GOOD.concat();
    assert!(text.contains(from), "{from}");
    refused(&text.replacen(from, to, 1), expected);
}

#[test]
fn the_designs_example_says_what_it_says() {
    let pipeline = parse(EXAMPLE).unwrap();
    assert_eq!(pipeline.lock.backend, "postgres");
    assert_eq!(pipeline.lock.ttl, Duration::from_secs(10));
    let address = pipeline.lock.config.text("connection_string");
    assert_eq!(address, Ok(Some("postgres://lock:canary-2@db/lock")));
    let input = &pipeline.inputs[0].config;
    assert_eq!((input.name.as_str(), input.kind.as_str()), ("orders-input", "postgres"));
    assert_eq!(input.operations, Some(vec![Operation::Create, Operation::Update, Operation::Delete]));
    let options = serde_json::to_string(&input.options).unwrap();
    expect![[r#"{"images":"key","retention":"24h","tables":["public.*"],"wake_up":"auto"}"#]]
        .assert_eq(&options);
    let process = &pipeline.processes[0];
    assert_eq!(process.config.execution_context["url"], "https://example.com/hook");
    assert_eq!(process.policy.max_attempts, Some(10));
    assert_eq!(process.policy.max_backoff, Duration::from_secs(300));
    assert_eq!((pipeline.links[0].from.as_str(), pipeline.links[0].to.as_str()), ("orders-input", "notify"));
    assert!(!format!("{pipeline:?}").contains("canary"));
}

#[test]
fn the_lock_has_defaults_and_links_may_start_at_processes() {
    let more =
        "[[processes]]\nname = \"then\"\ntype = \"log\"\n[[links]]\ninput = \"print\"\nprocess = \"then\"";
    let pipeline = parse(&(GOOD.concat() + more)).unwrap();
    assert_eq!(pipeline.lock.backend, "postgres");
    assert_eq!(pipeline.lock.config.value("connection_string"), None);
    assert_eq!(pipeline.lock.ttl, Duration::from_secs(10));
    assert_eq!(pipeline.links.len(), 2);
}

#[test]
fn unknown_keys() {
    replaced(
        "connection_string",
        "conection_string",
        &expect![[
            r#"pipeline.toml:4: unknown key "conection_string" in [[inputs]]; did you mean "connection_string"?"#
        ]],
    );
    replaced(
        "[[links]]",
        "[[link]]",
        &expect![[r#"pipeline.toml:10: unknown key "link" in the file; did you mean "links"?"#]],
    );
    replaced(
        "[[processes]]",
        "[lock]\nzzz = 1\n[[processes]]",
        &expect![[r#"pipeline.toml:7: unknown key "zzz" in [lock]"#]],
    );
    replaced(
        "type = \"log\"",
        "type = \"log\"\n[processes.retry]\nmax_atempts = 3",
        &expect![[
            r#"pipeline.toml:10: unknown key "max_atempts" in [processes.retry]; did you mean "max_attempts"?"#
        ]],
    );
    replaced(
        "process = \"print\"",
        "process = \"print\"\ntable = [\"a\"]",
        &expect![[r#"pipeline.toml:13: unknown key "table" in [[links]]; did you mean "tables"?"#]],
    );
    replaced(
        "process = \"print\"",
        "proces = \"print\"",
        &expect![[r#"pipeline.toml:12: unknown key "proces" in [[links]]; did you mean "process"?"#]],
    );
    replaced(
        "type = \"postgres\"",
        "tpye = \"postgres\"",
        &expect![[r#"pipeline.toml:3: unknown key "tpye" in [[inputs]]; did you mean "type"?"#]],
    );
}

#[test]
fn missing_keys() {
    replaced(
        "connection_string = \"${DATABASE_URL}\"\n",
        "",
        &expect![[r#"pipeline.toml:1: missing key "connection_string" in [[inputs]]"#]],
    );
    replaced("type = \"postgres\"\n", "", &expect![[r#"pipeline.toml:1: missing key "type" in [[inputs]]"#]]);
    replaced("name = \"print\"\n", "", &expect![[r#"pipeline.toml:6: missing key "name" in [[processes]]"#]]);
    replaced(
        "input = \"orders-input\"\n",
        "",
        &expect![[r#"pipeline.toml:10: missing key "input" in [[links]]"#]],
    );
    replaced("name = \"orders-input\"", "name = \"\"", &expect![[r#"pipeline.toml:2: "name" is empty"#]]);
    refused("", &expect!["pipeline.toml: there is no [[inputs]]"]);
    refused(GOOD[0], &expect!["pipeline.toml: there is no [[processes]]"]);
}

#[test]
fn wrong_types() {
    replaced(
        "\"${DATABASE_URL}\"",
        "5432",
        &expect![[r#"pipeline.toml:4: "connection_string" must be text in quotes, not a number"#]],
    );
    replaced("[[inputs]]", "[inputs]", &expect!["pipeline.toml:1: write [[inputs]] instead of [inputs]"]);
    replaced(
        "type = \"log\"",
        "type = \"log\"\nexecution_context = { timeout = 3 }",
        &expect![[r#"pipeline.toml:9: "timeout" must be text in quotes, not a number"#]],
    );
    replaced(
        "type = \"log\"",
        "type = \"log\"\nretry = true",
        &expect![[r#"pipeline.toml:9: "retry" must be a table, not a truth value"#]],
    );
    replaced(
        "[[processes]]",
        "operations = \"create\"\n[[processes]]",
        &expect![[r#"pipeline.toml:6: "operations" must be a list of texts in quotes, not a text"#]],
    );
    replaced(
        "type = \"log\"",
        "type = \"log\"\nretry.max_attempts = 0",
        &expect![[r#"pipeline.toml:9: "max_attempts" must be between 1 and 4294967295"#]],
    );
    refused(
        &format!("links = [1]\n{}{}", GOOD[0], GOOD[1]),
        &expect![[r#"pipeline.toml:1: "links" must be a list of tables, not a number; write [[links]]"#]],
    );
}

#[test]
fn durations_operations_and_backends() {
    let lock =
        |rest: &str, expected: &Expect| refused(&format!("[lock]\n{rest}\n{}", GOOD.concat()), expected);
    lock(
        "ttl = \"ten\"",
        &expect![[
            r#"pipeline.toml:2: "ttl" must be a duration above zero, such as "10s", "5m" or "1h 30m""#
        ]],
    );
    lock(
        "ttl = \"-10s\"",
        &expect![[
            r#"pipeline.toml:2: "ttl" must be a duration above zero, such as "10s", "5m" or "1h 30m""#
        ]],
    );
    lock(
        "backend = \"postgre\"",
        &expect![[r#"pipeline.toml:2: unknown lock backend "postgre"; did you mean "postgres"?"#]],
    );
    lock(
        "backend = \"zookeeper\"",
        &expect![[
            r#"pipeline.toml:2: unknown lock backend "zookeeper"; there are postgres, etcd, memory, own"#
        ]],
    );
    lock(
        "backend = \"memory\"\nconnection_string = \"canary\"",
        &expect![[r#"pipeline.toml:3: the lock backend "memory" takes no "connection_string""#]],
    );
    replaced(
        "[[processes]]",
        "operation = [\n  \"insert\",\n  \"upsert\",\n]\n[[processes]]",
        &expect![[
            r#"pipeline.toml:8: unknown operation "upsert"; use one of create (insert), read, update, delete (remove), truncate"#
        ]],
    );
    replaced(
        "[[processes]]",
        "operation = []\noperations = []\n[[processes]]",
        &expect![[r#"pipeline.toml:6: "operation" and "operations" are one key; keep one of them"#]],
    );
}

#[test]
fn an_added_backend_gets_its_keys_and_no_others() {
    let with = |lock: &str| format!("[lock]\n{lock}\n{}", GOOD.concat());
    let pipeline =
        parse(&with("backend = \"own\"\npath = \"${HOOK}\"\nlimits = { open = 3 }\nttl = \"5s\"")).unwrap();
    let LockSection { backend, config, ttl, .. } = &pipeline.lock;
    assert_eq!((backend.as_str(), *ttl), ("own", Duration::from_secs(5)));
    assert_eq!(config.required_text("path"), Ok("https://example.com/canary-3"));
    assert_eq!(config.value("limits").unwrap()["open"], 3);
    assert_eq!(config.text("limits").unwrap_err().to_string(), "\"limits\" must be text in quotes");
    assert_eq!(config.required_text("pth").unwrap_err().to_string(), "missing key \"pth\" in [lock]");
    assert!(!format!("{pipeline:?}").contains("canary"));
    refused(
        &with("backend = \"own\"\npaht = \"/tmp\""),
        &expect![[r#"pipeline.toml:3: unknown key "paht" in [lock]; did you mean "path"?"#]],
    );
    refused(
        &with("backend = \"own\"\nconnection_string = \"canary\""),
        &expect![[r#"pipeline.toml:3: the lock backend "own" takes no "connection_string""#]],
    );
    refused(&with("backend = \"own\"\npath = \"\""), &expect![[r#"pipeline.toml:3: "path" is empty"#]]);
}

#[test]
fn an_added_input_needs_an_address_only_if_it_has_one() {
    let timer = "type = \"timer\"\nevery = \"1s\"\n";
    let text = GOOD.concat();
    let text = text.replace("type = \"postgres\"\nconnection_string = \"${DATABASE_URL}\"\n", timer);
    let input = &parse(&text).unwrap().inputs[0].config;
    assert_eq!((input.kind.as_str(), &input.options["every"]), ("timer", &"1s".into()));
    refused(
        &text.replace("every", "connection_string"),
        &expect![[r#"pipeline.toml:4: unknown key "connection_string" in [[inputs]]"#]],
    );
}

#[test]
fn unknown_types() {
    replaced(
        "\"postgres\"",
        "\"postgresql\"",
        &expect![[r#"pipeline.toml:3: unknown type of input "postgresql"; did you mean "postgres"?"#]],
    );
    replaced(
        "\"log\"",
        "\"webhok\"",
        &expect![[r#"pipeline.toml:8: unknown type of process "webhok"; did you mean "webhook"?"#]],
    );
    replaced(
        "\"log\"",
        "\"exec\"",
        &expect![[r#"pipeline.toml:8: unknown type of process "exec"; there are log, webhook"#]],
    );
}

#[test]
fn names_that_are_taken() {
    replaced(
        "name = \"print\"",
        "name = \"orders-input\"",
        &expect![[r#"pipeline.toml:7: the name "orders-input" is taken in line 2"#]],
    );
    let second = GOOD[0].replace("orders-input", "orders_input");
    refused(
        &(GOOD.concat() + &second),
        &expect![[
            r#"pipeline.toml:14: the name "orders_input" is too close to "orders-input" in line 2: "-" counts as "_""#
        ]],
    );
}

#[test]
fn links_that_lead_nowhere() {
    replaced(
        "process = \"print\"",
        "process = \"prnt\"",
        &expect![[
            r#"pipeline.toml:12: link to "prnt", but there is no such process; did you mean "print"?"#
        ]],
    );
    replaced(
        "input = \"orders-input\"",
        "input = \"order-input\"",
        &expect![[
            r#"pipeline.toml:11: link from "order-input", but there is no such input or process; did you mean "orders-input"?"#
        ]],
    );
    replaced(
        "process = \"print\"",
        "process = \"orders-input\"",
        &expect![[r#"pipeline.toml:12: link to "orders-input", which is an input"#]],
    );
    refused(
        &(GOOD.concat() + GOOD[2]),
        &expect![[r#"pipeline.toml:14: link from "orders-input" to "print" is there twice"#]],
    );
    refused(
        &GOOD[..2].concat(),
        &expect![[
            r#"pipeline.toml:2: input "orders-input" has no link to a process, so its events would be lost"#
        ]],
    );
}

/// The good file with more in its link, from line 13 on.
fn link(more: &str) -> String {
    GOOD.concat() + more
}

#[test]
fn links_with_filters() {
    let open = |text: &str| parse(text).unwrap().links[0].filter.clone();
    assert!(open(&GOOD.concat()).is_open());
    let one = link(
        "operation = [\"insert\"]\ntables = [\"a.*\"]\nwhere = { field = \"new.status\", equals = \"paid\" }",
    );
    let condition = |field: &str, test| Condition::new(field, test).unwrap();
    let paid = condition("new.status", Test::In(vec![Value::Text("paid".into())]));
    let expected = Filter::default()
        .with_operations(vec![Operation::Create])
        .with_tables(["a.*"])
        .unwrap()
        .with_condition(paid.clone());
    assert_eq!(open(&one), expected);
    let many = link(
        "[[links.where]]\nfield = \"new.status\"\nequals = \"paid\"\n[[links.where]]\nfield = \"key.id\"\n\
         in = [1, 2.5, true]\n[[links.where]]\nfield = \"old.x.y\"\nexists = false\n",
    );
    let values = vec![Value::number("1").unwrap(), Value::number("2.5").unwrap(), Value::Text("true".into())];
    let expected = Filter::default()
        .with_condition(paid)
        .with_condition(condition("key.id", Test::In(values)))
        .with_condition(condition("old.x.y", Test::Exists(false)));
    assert_eq!(open(&many), expected);
}

#[test]
fn filters_that_cannot_be_meant() {
    let refused = |more: &str, expected: &Expect| refused(&link(more), expected);
    refused(
        "tables = []",
        &expect![[
            r#"pipeline.toml:13: "tables" is empty, so that no event would pass; leave it out to let all pass"#
        ]],
    );
    refused(
        "operations = []",
        &expect![[
            r#"pipeline.toml:13: "operations" is empty, so that no event would pass; leave it out to let all pass"#
        ]],
    );
    refused(
        "tables = [\n\"ok\",\n\"x.\"]",
        &expect![[
            r#"pipeline.toml:15: the pattern "x." is none; write "schema.table", "schema.*" or "table""#
        ]],
    );
    refused(
        "operations = [\"upsert\"]",
        &expect![[
            r#"pipeline.toml:13: unknown operation "upsert"; use one of create (insert), read, update, delete (remove), truncate"#
        ]],
    );
    refused("where = 3", &expect![[r#"pipeline.toml:13: "where" must be a table, not a number"#]]);
    refused(
        "where = [3]",
        &expect![[
            r#"pipeline.toml:13: "where" must be a list of tables, not a number; write [[links.where]]"#
        ]],
    );
    refused(
        "where = { field = \"new.a\" }",
        &expect!["pipeline.toml:13: a condition takes exactly one of equals, in, exists"],
    );
    refused(
        "[links.where]\nfield = \"new.a\"\nequals = 1\nexists = true",
        &expect!["pipeline.toml:16: a condition takes exactly one of equals, in, exists"],
    );
    refused(
        "[links.where]\nfield = \"status\"\nequals = 1",
        &expect![[
            r#"pipeline.toml:14: the field "status" must begin with new., old. or key.; did you mean "new.status"?"#
        ]],
    );
    refused(
        "[links.where]\nfield = \"new.a\"\nequal = 1",
        &expect![[r#"pipeline.toml:15: unknown key "equal" in [[links.where]]; did you mean "equals"?"#]],
    );
    refused(
        "[links.where]\nfield = \"new.a\"\nequals = []",
        &expect![[r#"pipeline.toml:15: "equals" takes texts, numbers, true and false"#]],
    );
    refused(
        "[links.where]\nfield = \"new.a\"\nin = 3",
        &expect![[r#"pipeline.toml:15: "in" must be a list of values, not empty"#]],
    );
    refused(
        "[links.where]\nfield = \"new.a\"\nexists = \"yes\"",
        &expect![[r#"pipeline.toml:15: "exists" must be true or false"#]],
    );
}

#[test]
fn variables() {
    replaced(
        "${DATABASE_URL}",
        "postgres://app:canary@${DATABASE_HOST}",
        &expect!["pipeline.toml:4: the variable DATABASE_HOST is not set"],
    );
    replaced(
        "${DATABASE_URL}",
        "canary${",
        &expect![[
            r#"pipeline.toml:4: "${" must be followed by the name of a variable and "}"; write "$${" for a plain "${""#
        ]],
    );
    let context = "type = \"log\"\nexecution_context = { url = \"${HOOK}\", body = \"$${HOOK}\" }";
    let pipeline = parse(&GOOD.concat().replace("type = \"log\"", context)).unwrap();
    let context = &pipeline.processes[0].config.execution_context;
    assert_eq!(context["url"], "https://example.com/canary-3");
    assert_eq!(context["body"], "${HOOK}");
}

#[test]
fn a_table_in_an_execution_context_is_as_keys_with_a_dot() {
    let with = |context: &str| {
        let context = format!("type = \"log\"\n[processes.execution_context]\n{context}");
        GOOD.concat().replace("type = \"log\"", &context)
    };
    for text in [
        "header.x-key = \"${HOOK}\"",
        "\"header.x-key\" = \"${HOOK}\"",
        "[processes.execution_context.header]\nx-key = \"${HOOK}\"",
    ] {
        let process = &parse(&with(text)).unwrap().processes[0];
        assert_eq!(process.config.execution_context["header.x-key"], "https://example.com/canary-3");
        assert!(process.lines.keys["header.x-key"] >= 9);
    }
    refused(
        &with("header.x-key = 3"),
        &expect![[r#"pipeline.toml:10: "header.x-key" must be text in quotes, not a number"#]],
    );
}

#[test]
fn syntax_errors_show_the_place_and_not_the_line() {
    replaced(
        "\"${DATABASE_URL}\"",
        "\"postgres://app:canary@db/app",
        &expect![[r#"pipeline.toml:4: not valid TOML: invalid basic string, expected `"`"#]],
    );
    replaced(
        "connection_string = \"${DATABASE_URL}\"",
        "connection_string = canary",
        &expect!["pipeline.toml:4: not valid TOML: string values must be quoted, expected literal string"],
    );
    replaced("connection_string =", "name =", &expect!["pipeline.toml:4: not valid TOML: duplicate key"]);
    refused(
        "= canary",
        &expect![
            "pipeline.toml:1: not valid TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`"
        ],
    );
    refused(
        "[lock]\n[lock]\nbackend = \"canary\"",
        &expect!["pipeline.toml:2: not valid TOML: duplicate key"],
    );
}
