//! Compares the headings of the architecture document with the crates.

use std::collections::BTreeSet;

/// What is wrong: a crate without a heading, a heading without a crate, two headings for one.
///
/// A crate's heading, of any level, starts with the package's name in backticks: ``### `dapper-core` ``.
pub(crate) fn violations(text: &str, crates: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for name in headings(text) {
        if !crates.contains(&name) {
            violations
                .push(format!("a heading names `{name}`, and no package of the workspace has that name"));
        } else if !seen.insert(name) {
            violations.push(format!("`{name}` has two headings"));
        }
    }
    for name in crates.iter().filter(|name| !seen.contains(*name)) {
        violations.push(format!("`{name}` has no heading"));
    }
    violations
}

/// The names in the headings, those inside code blocks aside.
fn headings(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code || !line.starts_with('#') {
            return None;
        }
        let heading = line.trim_start_matches('#').trim_start();
        Some(heading.strip_prefix('`')?.split_once('`')?.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "# Architecture\n## Crates\n### `a`, the first\ntext `c`\n```sh\n# `d`\n```\n#### `b`\n";

    #[test]
    fn one_heading_for_each_crate_is_right() {
        assert_eq!(violations(GOOD, &["a", "b"]), Vec::<String>::new());
    }

    #[test]
    fn each_mismatch_is_named() {
        let message = |text: &str, crates: &[&str]| violations(text, crates).join("; ");
        assert_eq!(message(GOOD, &["a", "b", "c"]), "`c` has no heading");
        assert_eq!(
            message(GOOD, &["a"]),
            "a heading names `b`, and no package of the workspace has that name"
        );
        assert_eq!(message(&format!("{GOOD}## `a`\n"), &["a", "b"]), "`a` has two headings");
    }
}
