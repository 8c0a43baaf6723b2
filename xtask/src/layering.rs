//! Which crate may depend on which.

use std::collections::BTreeSet;

use crate::metadata::{Dependency, Kind, Member, Workspace};

/// Each package with all that it may depend on among the packages of this workspace. An arrow only ever points down:
/// to a package that stands above in this list. Development dependencies are free: test helpers point everywhere.
const ALLOWED: &[(&str, &[&str])] = &[
    ("dapper-failpoints", &[]),
    ("dapper-core", &[]),
    ("dapper-payload", &[]),
    ("dapper-connect", &[]),
    ("dapper-lock", &["dapper-failpoints"]),
    ("dapper-lock-conformance", &["dapper-lock"]),
    ("dapper-lock-postgres", &["dapper-connect", "dapper-lock", "dapper-failpoints"]),
    ("dapper-lock-etcd", &["dapper-lock"]),
    ("dapper-lock-simulation", &["dapper-lock"]),
    ("dapper-orchestrator", &["dapper-core", "dapper-failpoints"]),
    (
        "dapper-postgres",
        &["dapper-connect", "dapper-core", "dapper-payload", "dapper-lock", "dapper-failpoints"],
    ),
    ("dapper-inbox", &[]),
    ("dapper-sql-process", &["dapper-connect", "dapper-core", "dapper-inbox"]),
    ("dapper-webhook", &["dapper-core"]),
    ("dapper-program", &[]),
    ("dapper-command", &["dapper-core", "dapper-program"]),
    ("dapper-container", &["dapper-core", "dapper-program"]),
    ("dapper-http", &["dapper-core"]),
    (
        "dapper-orchestrator-cli",
        &[
            "dapper-command",
            "dapper-connect",
            "dapper-container",
            "dapper-core",
            "dapper-failpoints",
            "dapper-http",
            "dapper-payload",
            "dapper-lock",
            "dapper-lock-postgres",
            "dapper-lock-etcd",
            "dapper-orchestrator",
            "dapper-postgres",
            "dapper-sql-process",
            "dapper-webhook",
        ],
    ),
    ("dapper-testkit", &["dapper-core", "dapper-failpoints"]),
    ("dapper-browser", &["dapper-testkit"]),
    (
        "dapper-repro",
        &[
            "dapper-core",
            "dapper-lock",
            "dapper-lock-postgres",
            "dapper-lock-simulation",
            "dapper-orchestrator",
            "dapper-postgres",
            "dapper-testkit",
        ],
    ),
    ("dapper-bench", &["dapper-core", "dapper-payload", "dapper-orchestrator-cli", "dapper-testkit"]),
    ("xtask", &[]),
];

/// Packages that must not be built from any client of a database or a store.
const WITHOUT_CLIENT: [&str; 6] = [
    "dapper-core",
    "dapper-payload",
    "dapper-lock",
    "dapper-lock-simulation",
    "dapper-orchestrator",
    "dapper-http",
];

const CLIENTS: [&str; 12] = [
    "async-nats",
    "diesel",
    "etcd-client",
    "kube",
    "mysql_async",
    "postgres",
    "postgres-protocol",
    "redis",
    "rusqlite",
    "sqlx",
    "sqlx-core",
    "tokio-postgres",
];

/// What the core may not ask of tokio: tasks, time, files, sockets, processes.
const RUNTIME_FEATURES: [&str; 10] =
    ["fs", "full", "io-std", "net", "process", "rt", "rt-multi-thread", "signal", "test-util", "time"];

/// All that is wrong, a line each.
pub(crate) fn violations(workspace: &Workspace) -> Vec<String> {
    let ours: BTreeSet<&str> = workspace.members.iter().map(|member| member.name.as_str()).collect();
    let mut violations = Vec::new();
    for member in &workspace.members {
        arrows(member, &ours, &mut violations);
        clients(member, &mut violations);
        runtime(member, &mut violations);
    }
    violations
}

fn arrows(member: &Member, ours: &BTreeSet<&str>, violations: &mut Vec<String>) {
    let Some((name, allowed)) = ALLOWED.iter().find(|(name, _)| *name == member.name) else {
        violations.push(format!("{} is not in the table of layers (xtask/src/layering.rs)", member.name));
        return;
    };
    for dependency in normal(member).filter(|dependency| ours.contains(dependency.name.as_str())) {
        if !allowed.contains(&dependency.name.as_str()) {
            violations.push(format!("{name} must not depend on {}: arrows point down only", dependency.name));
        }
    }
    // Not even for its tests: it has to build when nothing else does.
    if *name == "xtask" {
        let tests = member.dependencies.iter().filter(|dependency| dependency.kind == Kind::Development);
        for dependency in tests.filter(|dependency| ours.contains(dependency.name.as_str())) {
            violations.push(format!("xtask must not depend on {}, not even for tests", dependency.name));
        }
    }
}

fn clients(member: &Member, violations: &mut Vec<String>) {
    if !WITHOUT_CLIENT.contains(&member.name.as_str()) {
        return;
    }
    for client in CLIENTS.iter().filter(|client| member.built_from.contains(**client)) {
        violations
            .push(format!("{} must not be built from a database client, and is from {client}", member.name));
    }
}

fn runtime(member: &Member, violations: &mut Vec<String>) {
    if member.name == "dapper-payload" && member.built_from.contains("tokio") {
        violations.push("dapper-payload must not be built from a runtime, and is from tokio".to_owned());
    }
    if member.name != "dapper-core" {
        return;
    }
    for dependency in normal(member).filter(|dependency| dependency.name == "tokio") {
        for feature in dependency.features.iter().filter(|name| RUNTIME_FEATURES.contains(&name.as_str())) {
            violations.push(format!(
                "dapper-core must not use tokio's runtime, and asks for its feature {feature}"
            ));
        }
    }
}

fn normal(member: &Member) -> impl Iterator<Item = &Dependency> {
    member.dependencies.iter().filter(|dependency| dependency.kind == Kind::Normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace in which every package depends on all that it may.
    fn workspace() -> Workspace {
        let members = ALLOWED.iter().map(|(name, allowed)| Member {
            name: (*name).to_owned(),
            dependencies: allowed.iter().map(|name| dependency(name, Kind::Normal, &[])).collect(),
            built_from: allowed.iter().map(|&name| name.to_owned()).collect(),
            ..Member::default()
        });
        Workspace { members: members.collect() }
    }

    fn dependency(name: &str, kind: Kind, features: &[&str]) -> Dependency {
        let features = features.iter().map(|&feature| feature.to_owned()).collect();
        Dependency { name: name.to_owned(), kind, features }
    }

    /// What is said after `change` to the named package.
    fn after(name: &str, change: impl FnOnce(&mut Member)) -> Vec<String> {
        let mut workspace = workspace();
        change(workspace.members.iter_mut().find(|member| member.name == name).unwrap());
        violations(&workspace)
    }

    #[test]
    fn the_table_itself_points_down_only() {
        for (index, (name, allowed)) in ALLOWED.iter().enumerate() {
            for target in *allowed {
                let position = ALLOWED.iter().position(|(other, _)| other == target);
                assert!(position.is_some_and(|position| position < index), "{name} -> {target}");
            }
        }
        assert_eq!(violations(&workspace()), Vec::<String>::new());
    }

    #[test]
    fn every_reversed_arrow_is_an_error_that_names_it() {
        for (from, allowed) in ALLOWED {
            for to in *allowed {
                let found = after(to, |member| member.dependencies.push(dependency(from, Kind::Normal, &[])));
                assert_eq!(found, [format!("{to} must not depend on {from}: arrows point down only")]);
            }
        }
    }

    #[test]
    fn every_arrow_that_is_not_in_the_table_is_an_error() {
        for (from, allowed) in ALLOWED {
            for (to, _) in ALLOWED.iter().filter(|(to, _)| to != from && !allowed.contains(to)) {
                let found = after(from, |member| member.dependencies.push(dependency(to, Kind::Normal, &[])));
                assert_eq!(found.len(), 1, "{from} -> {to}: {found:?}");
            }
        }
    }

    #[test]
    fn test_helpers_point_everywhere_but_from_here() {
        let helper = || dependency("dapper-testkit", Kind::Development, &[]);
        assert!(after("dapper-core", |member| member.dependencies.push(helper())).is_empty());
        let found = after("xtask", |member| member.dependencies.push(helper()));
        assert_eq!(found, ["xtask must not depend on dapper-testkit, not even for tests"]);
    }

    #[test]
    fn a_client_anywhere_below_is_an_error() {
        for name in WITHOUT_CLIENT {
            for client in CLIENTS {
                let found = after(name, |member| {
                    member.built_from.insert(client.to_owned());
                });
                assert_eq!(
                    found,
                    [format!("{name} must not be built from a database client, and is from {client}")]
                );
            }
        }
        let allowed = after("dapper-postgres", |member| {
            member.built_from.insert("tokio-postgres".to_owned());
        });
        assert!(allowed.is_empty());
    }

    #[test]
    fn the_core_and_the_payload_have_no_runtime() {
        let tokio = |features| dependency("tokio", Kind::Normal, features);
        assert!(after("dapper-core", |member| member.dependencies.push(tokio(&["sync"]))).is_empty());
        let found = after("dapper-core", |member| member.dependencies.push(tokio(&["sync", "rt", "net"])));
        assert_eq!(found.len(), 2, "{found:?}");
        let found = after("dapper-payload", |member| {
            member.built_from.insert("tokio".to_owned());
        });
        assert_eq!(found, ["dapper-payload must not be built from a runtime, and is from tokio"]);
    }

    #[test]
    fn an_unknown_package_needs_a_place() {
        let mut workspace = workspace();
        workspace.members.push(Member { name: "dapper-new".to_owned(), ..Member::default() });
        assert_eq!(
            violations(&workspace),
            ["dapper-new is not in the table of layers (xtask/src/layering.rs)"]
        );
    }
}
