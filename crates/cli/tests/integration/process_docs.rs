//! `docs/processes.md` lists every type of process, and of each exactly the settings that it takes; so does `docs/inputs.md`
//! for the webhook input.

const INPUTS: &str = include_str!("../../../../docs/inputs.md");
const PAGE: &str = include_str!("../../../../docs/processes.md");

/// The first column of the first table in `text`, without its head: what stands between the first two backticks.
fn first_column(text: &str) -> Vec<&str> {
    let rows = text.lines().skip_while(|line| !line.starts_with("| --- ")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a row begins with a name in backticks")).collect()
}

/// What stands under `## ` and the name, up to the next such heading.
fn section(page: &'static str, name: &str) -> &'static str {
    let from = page.find(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("there is no section {name}"));
    let text = &page[from + 1..];
    &text[..text.find("\n## ").unwrap_or(text.len())]
}

fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names
}

#[test]
fn every_type_of_process_has_its_settings_on_the_page() {
    let types: [(&str, &[&str]); 4] = [
        (dapper_command::KIND, &dapper_command::KEYS),
        (dapper_container::KIND, &dapper_container::KEYS),
        (dapper_sql_process::KIND, &dapper_sql_process::KEYS),
        (dapper_webhook::KIND, &dapper_webhook::KEYS),
    ];
    for (kind, keys) in types {
        let listed = first_column(section(PAGE, &format!("`{kind}`")));
        assert_eq!(sorted(listed), sorted(keys.iter().copied()), "{kind}");
    }
    let listed = first_column(section(INPUTS, "`webhook`"));
    assert_eq!(sorted(listed), sorted(dapper_webhook::INPUT_KEYS));
    let all = format!("{:?}", dapper_orchestrator_cli::App::new());
    let listed = sorted(first_column(PAGE));
    assert!(all.ends_with(&format!("process_types: {listed:?} }}")), "{listed:?} are not those in {all}");
}
