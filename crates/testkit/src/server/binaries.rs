//! Finds the folder of PostgreSQL's server programs.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the folder to take, on machines with several versions.
const CHOSEN: &str = "DAPPER_TEST_POSTGRES_BIN";

/// The folder that `DAPPER_TEST_POSTGRES_BIN` names, whatever is in it, so that no other version is tested by mistake;
/// else the first that holds both `initdb` and `postgres`.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(chosen) = env::var_os(CHOSEN).filter(|chosen| !chosen.is_empty()) {
        return Some(chosen.into());
    }
    on_path().chain(by_pg_config()).chain(usual_folders()).find(|folder| is_complete(folder))
}

/// A folder with only one of the two is a client's, or a wrapper's.
fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file())
}

/// `PATH` often holds links, and the programs look for their companions beside themselves: links are followed.
fn on_path() -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    folders.into_iter().flat_map(|folder| {
        ["postgres", "initdb"].into_iter().filter_map(move |name| {
            let program = folder.join(name).canonicalize().ok()?;
            program.parent().map(Path::to_owned)
        })
    })
}

fn by_pg_config() -> impl Iterator<Item = PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok();
    let output = output.filter(|output| output.status.success());
    output
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.trim_end().into())
        .into_iter()
}

/// Debian, Fedora and PGDG, Homebrew, Postgres.app; of each, the newest version first.
fn usual_folders() -> impl Iterator<Item = PathBuf> {
    const PARENTS: [(&str, &str); 6] = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ];
    PARENTS
        .into_iter()
        .flat_map(|(parent, prefix)| versions(Path::new(parent), prefix))
        .chain(["/usr/bin", "/usr/local/pgsql/bin", "/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from))
}

fn versions(parent: &Path, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let names = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.file_name());
    // Sorted as numbers: 9 is older than 10.
    let numbers: BTreeSet<u32> =
        names.filter_map(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok()).collect();
    let (parent, prefix) = (parent.to_owned(), prefix.to_owned());
    numbers.into_iter().rev().map(move |number| parent.join(format!("{prefix}{number}")).join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_sorted_as_numbers() {
        let folder = std::env::temp_dir().join(format!("dapper-versions-{}", std::process::id()));
        for name in ["9", "16", "15", "common"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let found: Vec<PathBuf> = versions(&folder, "").collect();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, ["16", "15", "9"].map(|name| folder.join(name).join("bin")));
    }

    #[test]
    fn a_folder_needs_both_programs() {
        let folder = std::env::temp_dir().join(format!("dapper-binaries-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("postgres"), "").unwrap();
        let half = is_complete(&folder);
        fs::write(folder.join("initdb"), "").unwrap();
        let whole = is_complete(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert!(!half && whole);
    }
}
