//! What the crate for etcd needs besides Rust: `protoc` to be built, `etcd` to be tested.

use std::env;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::metadata::Workspace;
use crate::{etcd_binary, packages};

/// The package that is left out where it can't be built.
pub(crate) const PACKAGE: &str = "dapper-lock-etcd";
/// The feature of `dapper` that needs that package.
pub(crate) const FEATURE: &str = "dapper-orchestrator-cli/etcd";

/// Imported by etcd's own files; comes with protoc or in a package of its own.
const INCLUDED: &str = "google/protobuf/descriptor.proto";

type Verdict = Result<(), String>;

/// Sees to it that the package can be built, by installing what is missing; the error says why it can't.
pub(crate) fn can_build() -> Verdict {
    static VERDICT: OnceLock<Verdict> = OnceLock::new();
    let see_to = || {
        if has_protoc() {
            return Ok(());
        }
        packages::install(&["protobuf-compiler", "libprotobuf-dev"])
            .map_err(|reason| format!("building {PACKAGE} needs protoc and its {INCLUDED}: {reason}"))?;
        has_protoc().then_some(()).ok_or_else(|| "protoc was installed and does not work".to_owned())
    };
    VERDICT.get_or_init(see_to).clone()
}

/// The same for building and testing it.
pub(crate) fn can_test() -> Verdict {
    can_build()?;
    static VERDICT: OnceLock<Verdict> = OnceLock::new();
    let see_to = || match etcd_binary::find() {
        Some(_) => Ok(()),
        None => packages::install(&["etcd-server"])
            .map_err(|reason| format!("testing {PACKAGE} needs the program etcd: {reason}")),
    };
    VERDICT.get_or_init(see_to).clone()
}

/// Cargo's arguments that choose everything with all features, or everything that can be built here.
pub(crate) fn everything(workspace: &Workspace) -> Vec<String> {
    if can_build().is_ok() {
        return ["--workspace", "--all-features"].map(str::to_owned).to_vec();
    }
    let mut arguments = ["--workspace", "--exclude", PACKAGE].map(str::to_owned).to_vec();
    for member in workspace.members.iter().filter(|member| member.name != PACKAGE) {
        let features = member.features.iter().map(|feature| format!("{}/{feature}", member.name));
        arguments.extend(
            features.filter(|feature| feature != FEATURE).flat_map(|name| ["--features".to_owned(), name]),
        );
    }
    arguments
}

/// What is wrong with the workspace's `default-members`: all packages must be there but this one.
pub(crate) fn violations(workspace: &Workspace) -> Vec<String> {
    let wrong = workspace.members.iter().filter(|member| member.is_default == (member.name == PACKAGE));
    wrong
        .map(|member| {
            let verb = if member.is_default { "must not be" } else { "must be" };
            format!("{} {verb} in default-members (Cargo.toml)", member.name)
        })
        .collect()
}

/// Whether there is a protoc that finds what it comes with, as the build will call it.
fn has_protoc() -> bool {
    let program = env::var_os("PROTOC").filter(|path| !path.is_empty()).unwrap_or_else(|| "protoc".into());
    let mut command = Command::new(program);
    if let Some(folder) = env::var_os("PROTOC_INCLUDE").filter(|folder| !folder.is_empty()) {
        let mut argument = OsString::from("-I");
        argument.push(folder);
        command.arg(argument);
    }
    command.args([INCLUDED, "--descriptor_set_out=/dev/null"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{self, Member};

    #[test]
    fn a_package_that_is_not_built_by_default_is_named_and_so_is_this_one_when_it_is() {
        let member =
            |name: &str, is_default| Member { name: name.to_owned(), is_default, ..Member::default() };
        let mut workspace = Workspace { members: vec![member("a", true), member(PACKAGE, false)] };
        assert_eq!(violations(&workspace), Vec::<String>::new());
        workspace.members.iter_mut().for_each(|member| member.is_default = !member.is_default);
        assert_eq!(
            violations(&workspace),
            [
                "a must be in default-members (Cargo.toml)",
                "dapper-lock-etcd must not be in default-members (Cargo.toml)"
            ]
        );
    }

    #[test]
    fn the_package_and_the_feature_are_there() {
        let workspace = metadata::load().unwrap();
        let member = |name: &str| workspace.members.iter().find(|member| member.name == name).unwrap();
        assert!(member(PACKAGE).built_from.contains("etcd-client"));
        let (package, feature) = FEATURE.split_once('/').unwrap();
        assert!(member(package).features.iter().any(|name| name == feature));
    }
}
