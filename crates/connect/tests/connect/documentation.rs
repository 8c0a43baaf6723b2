//! The lists in docs/connections.md are those of the code.

use std::fs;
use std::path::Path;

use dapper_connect::{PARAMETERS, Support};

/// The rows of the table below a heading.
fn rows<'t>(text: &'t str, heading: &str) -> Vec<&'t str> {
    let at = text.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let section = &text[at + 1..];
    let section = section.split("\n## ").next().unwrap_or_default();
    section.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_page_lists_what_is_supported_and_what_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/connections.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut supported, mut refused) = (Vec::new(), Vec::new());
    for parameter in PARAMETERS {
        let variable = parameter.variable.map(|name| format!("`{name}`")).unwrap_or_default();
        let (list, says) = match parameter.support {
            Support::Yes(values) => (&mut supported, values),
            Support::No(remedy) => (&mut refused, remedy),
            other => panic!("{other:?} has no list"),
        };
        list.push(format!("| `{}` | {variable} | {says} |", parameter.name));
    }
    assert_eq!(rows(&text, "Parameters"), supported);
    assert_eq!(rows(&text, "Refused"), refused);
}
