//! What `cargo metadata` says, reduced to what the checks need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::steps::cargo;

/// The packages of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) members: Vec<Member>,
}

/// One package of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// What its manifest declares.
    pub(crate) dependencies: Vec<Dependency>,
    /// Whether cargo builds it when nothing is named.
    pub(crate) is_default: bool,
    /// What it can be built with.
    pub(crate) features: Vec<String>,
    /// The names of all packages that it is built from, development dependencies aside.
    pub(crate) built_from: BTreeSet<String>,
}

/// One declared dependency.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// What a dependency is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Enters the package, or its build script.
    #[default]
    Normal,
    /// Enters its tests only.
    Development,
}

/// Where cargo builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Directories {
        target_directory: PathBuf,
    }
    let text = read(&["--no-deps"])?;
    let directories: Directories = serde_json::from_str(&text).context("cannot read cargo's metadata")?;
    Ok(directories.target_directory)
}

/// The workspace as it is.
pub(crate) fn load() -> Result<Workspace> {
    parse(&read(&["--all-features"])?)
}

fn read(more: &[&str]) -> Result<String> {
    let arguments = ["metadata", "--format-version", "1"].iter().chain(more).copied();
    cargo(arguments).read().context("cannot run cargo metadata")
}

fn parse(text: &str) -> Result<Workspace> {
    let metadata: Metadata = serde_json::from_str(text).context("cannot read cargo's metadata")?;
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let graph: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let members = metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id));
    let members = members.map(|package| Member {
        name: package.name.clone(),
        dependencies: package.dependencies.clone(),
        is_default: metadata.workspace_default_members.contains(&package.id),
        features: package.features.keys().filter(|name| *name != "default").cloned().collect(),
        built_from: built_from(&package.id, &graph, &names),
    });
    Ok(Workspace { members: members.collect() })
}

fn built_from(id: &str, graph: &BTreeMap<&str, &Node>, names: &BTreeMap<&str, &str>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        let edges = graph.get(id).map_or(&[][..], |node| &node.deps);
        for edge in edges.iter().filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind == Kind::Normal)) {
            if seen.insert(edge.pkg.as_str()) {
                open.push(&edge.pkg);
            }
        }
    }
    seen.into_iter().filter_map(|id| names.get(id)).map(|&name| name.to_owned()).collect()
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    workspace_default_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    #[serde(default)]
    kind: Kind,
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        Ok(if word.as_deref() == Some("dev") { Self::Development } else { Self::Normal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_dependencies_are_not_built_from() {
        let text = r#"{
            "workspace_members": ["a"],
            "workspace_default_members": [],
            "packages": [
                {"id": "a", "name": "a", "features": {"default": ["y"], "y": []}, "dependencies": [
                    {"name": "b", "kind": null, "features": ["x"]}, {"name": "c", "kind": "dev", "features": []}]},
                {"id": "b", "name": "b", "dependencies": []},
                {"id": "c", "name": "c", "dependencies": []},
                {"id": "d", "name": "d", "dependencies": []}
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}]}, {"pkg": "c", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "b", "deps": [{"pkg": "d", "dep_kinds": [{"kind": "dev"}, {"kind": "build"}]}]},
                {"id": "c", "deps": []}
            ]}
        }"#;
        let workspace = parse(text).unwrap();
        let [member] = &workspace.members[..] else { panic!("{workspace:?}") };
        assert_eq!(member.features, ["y"]);
        assert!(!member.is_default);
        assert_eq!(member.built_from, ["b", "d"].map(str::to_owned).into());
        let kinds: Vec<Kind> = member.dependencies.iter().map(|dependency| dependency.kind).collect();
        assert_eq!(kinds, [Kind::Normal, Kind::Development]);
        assert_eq!(member.dependencies[0].features, ["x"]);
    }

    #[test]
    fn the_workspace_is_read() {
        let workspace = load().unwrap();
        let own = workspace.members.iter().find(|member| member.name == "xtask").unwrap();
        assert!(own.built_from.contains("serde_json"));
    }
}
