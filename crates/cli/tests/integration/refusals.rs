//! One clear error for each thing that is wrong: exit code, exact text, and no secret in it.

use crate::support::{CANARY, EXAMPLE, SMALL, dapper};
use expect_test::{Expect, expect};

/// What is said of `pipeline` by a command that reaches out to nothing.
fn check(pipeline: &str, expected: &Expect) {
    let said = dapper(pipeline, &["check", "--offline", "pipeline.toml"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    expected.assert_eq(&said.err);
}

#[test]
fn files_that_cannot_be_read() {
    let said = dapper("", &["check", "nowhere.toml"]);
    assert_eq!(said.code, Some(1));
    expect![[r#"
        error: cannot read nowhere.toml: No such file or directory (os error 2)
    "#]]
    .assert_eq(&said.err);
}

#[test]
fn files_that_are_wrong() {
    check(
        &SMALL.replace("connection_string", "conection_string"),
        &expect![[r#"
            error: pipeline.toml:4: unknown key "conection_string" in [[inputs]]; did you mean "connection_string"?
        "#]],
    );
    check(
        &SMALL.replace("${DATABASE_URL}", "${DATABASE_ULR}"),
        &expect![[r#"
            error: pipeline.toml:4: the variable DATABASE_ULR is not set
        "#]],
    );
    check(
        &SMALL.replace("\"${DATABASE_URL}\"", &format!("\"postgres://app:{CANARY}@db/app")),
        &expect![[r#"
            error: pipeline.toml:4: not valid TOML: invalid basic string, expected `"`
        "#]],
    );
    check(
        &format!("[lock]\nttl = \"2ms\"\n{SMALL}"),
        &expect![[r#"
        error: pipeline.toml:2: a lease can't live 2ms: it must be between 100ms and 3600s
    "#]],
    );
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_backend_that_is_not_built_in() {
    check(
        &format!("[lock]\nbackend = \"etcd\"\nconnection_string = \"http://u:{CANARY}@e:2379\"\n{SMALL}"),
        &expect![[r#"
            error: pipeline.toml:2: the lock backend "etcd" is not built into this binary: build it with `cargo install dapper-orchestrator-cli --features etcd`, which needs protoc, or use another backend
        "#]],
    );
}

#[test]
fn options_that_an_input_refuses() {
    let with = |line: &str| SMALL.replace("\n\n[[processes]]", &format!("\n{line}\n\n[[processes]]"));
    check(
        &with("wake_up = \"push\""),
        &expect![[r#"
        error: pipeline.toml:5: input "orders-input": wake_up "push" is unknown; use "auto", "notify" or "poll"
    "#]],
    );
    check(
        &with("operation = []"),
        &expect![[r#"
        error: pipeline.toml:5: input "orders-input": operations is empty; name at least one of create, update, delete, truncate
    "#]],
    );
    check(
        &with("tables = \"orders\""),
        &expect![[r#"
        error: pipeline.toml:5: input "orders-input": tables must be a list of strings
    "#]],
    );
}

#[test]
fn graphs_that_are_none() {
    let cycle = "[[processes]]
name = \"again\"
type = \"log\"
[[links]]
input = \"print\"
process = \"again\"
[[links]]
input = \"again\"
process = \"print\"
";
    check(
        &format!("{SMALL}{cycle}"),
        &expect![[r#"
        error: pipeline.toml: processes form a cycle: again, print
    "#]],
    );
}

#[test]
fn processes_that_refuse_their_settings() {
    let context = "type = \"log\"\n[processes.execution_context]\nurl = \"http://c4n4ry\"";
    check(
        &SMALL.replace("type = \"log\"", context),
        &expect![[r#"
        error: pipeline.toml:10: process "print": a process of type "log" takes no "url"
    "#]],
    );
    let context = format!("type = \"webhook\"\n[processes.execution_context]\nmethod = \"{CANARY}\"");
    check(
        &SMALL.replace("type = \"log\"", &context),
        &expect![[r#"
        error: pipeline.toml:9: process "print": "url" is missing or empty; set it to the endpoint, such as https://example.com/hook
    "#]],
    );
}

#[test]
fn addresses_that_do_not_answer() {
    let commands: [&[&str]; 4] = [
        &["run", "pipeline.toml"],
        &["check", "pipeline.toml"],
        &["uninstall", "pipeline.toml"],
        &["rebase", "pipeline.toml", "orders-input"],
    ];
    for arguments in commands {
        let said = dapper(SMALL, arguments);
        assert_eq!(said.code, Some(1), "{said:?}");
        let last = said.err.lines().last().unwrap();
        assert!(last.starts_with("error: pipeline.toml:") && last.contains("127.0.0.1:1"), "{last}");
        assert!(last.contains("Connection refused"), "{last}");
    }
}

#[test]
fn nothing_secret_is_logged_at_any_level_or_form() {
    for format in ["text", "json"] {
        let arguments = ["run", "pipeline.toml", "--log-level", "trace", "--log-format", format];
        for pipeline in [SMALL, EXAMPLE] {
            assert_eq!(dapper(pipeline, &arguments).code, Some(1));
        }
    }
}

#[test]
fn an_input_that_is_not_there() {
    let said = dapper(SMALL, &["rebase", "pipeline.toml", "order-input"]);
    assert_eq!(said.code, Some(1));
    expect![[r#"
        error: pipeline.toml: there is no input "order-input"; did you mean "orders-input"?
    "#]]
    .assert_eq(&said.err);
}

#[test]
fn wrong_use_is_code_2() {
    for arguments in [
        &["fly", "pipeline.toml"][..],
        &["run"],
        &["run", "pipeline.toml", "--concurrency", "0"],
        &["run", "pipeline.toml", "--log-level", "a=b=c"],
        &["run", "pipeline.toml", "--drain-deadline", "soon"],
    ] {
        assert_eq!(dapper(SMALL, arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn settings_of_processes_are_named_in_their_line() {
    let with = |kind: &str, context: &str| {
        let context = format!("\"{kind}\"\n[processes.execution_context]\n{context}");
        SMALL.replace("\"log\"", &context)
    };
    check(
        &with("webhook", &format!("url = \"http://h\"\nheader.x-key = \"ok\"\nsecret = \"whsec_{CANARY}\"")),
        &expect![[r#"
            error: pipeline.toml:12: process "print": "secret" holds, as number 1, something that is not whsec_ and base64, as the Standard Webhooks specification has it
        "#]],
    );
    check(
        &with(
            "webhook",
            &format!("url = \"http://h\"\n[processes.execution_context.header]\nhost = \"{CANARY}\""),
        ),
        &expect![[r#"
            error: pipeline.toml:11: process "print": "header.host" is a header that the process sets itself
        "#]],
    );
    check(
        &with("command", "command = \"true\"\nenv.PIPELINE_EVENT = \"x\""),
        &expect![[r#"
            error: pipeline.toml:11: process "print": "env.PIPELINE_EVENT" has no name that a variable may have here
        "#]],
    );
}

#[test]
fn filters_on_fields_that_events_do_not_have() {
    let with = |images: &str, field: &str| {
        let link =
            format!("process = \"print\"\nwhere = {{ field = \"{field}.status\", equals = \"paid\" }}");
        let input = format!("type = \"postgres\"\n{images}");
        SMALL.replace("process = \"print\"", &link).replace("type = \"postgres\"\n", &input)
    };
    check(
        &with("", "new"),
        &expect![[r#"
            error: pipeline.toml:13: the link looks at fields of "new", which events of input "orders-input" do not have with images = "key"; set its images = "new" or "old-and-new"
        "#]],
    );
    check(
        &with("images = \"new\"\n", "old"),
        &expect![[r#"
            error: pipeline.toml:14: the link looks at fields of "old", which events of input "orders-input" do not have with images = "new"; set its images = "old-and-new"
        "#]],
    );
    for (images, field) in [("", "key"), ("images = \"new\"\n", "new"), ("images = \"old-and-new\"\n", "old")]
    {
        let said = dapper(&with(images, field), &["check", "--offline", "pipeline.toml"]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{field}");
        assert!(said.out.contains("link     orders-input -> print (filtered)\n"), "{}", said.out);
    }
}
