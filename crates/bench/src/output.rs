//! Cases as tables for the terminal and for Markdown, as JSON, and as plots.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::case::{Bound, Case, Metric, Series, Target};
use crate::plot;

/// A table, the targets and the notes.
pub(crate) fn terminal(case: &Case) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header(case));
    for name in names(case) {
        table.add_row(row(case, name));
    }
    let mut text = format!("\n{} ({})\n{table}\n", case.title, case.path());
    for target in &case.targets {
        let _ =
            writeln!(text, "{}: {}", if target.is_met() { "met    " } else { "NOT MET" }, sentence(target));
    }
    text
}

/// The same for `docs/performance.md`.
pub(crate) fn markdown(case: &Case) -> String {
    let mut text = format!("### {}\n\n", case.title);
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header = header(case);
    text.push_str(&line(&header));
    text.push_str(&line(&vec!["---".to_owned(); header.len()]));
    for name in names(case) {
        text.push_str(&line(&row(case, name)));
    }
    if !case.targets.is_empty() {
        text.push_str("\n| target | figure | |\n| --- | --- | --- |\n");
    }
    for target in &case.targets {
        let verdict = if target.is_met() { "met" } else { "**not met**" };
        text.push_str(&line(&[wanted(target), figure(target.figure), verdict.to_owned()]));
    }
    for note in &case.notes {
        let _ = write!(text, "\n{note}\n");
    }
    text
}

/// Writes the case and its plot into the folder of results.
pub(crate) fn keep(case: &Case, folder: &Path) -> Result<()> {
    let file = folder.join(format!("{}.{}.json", case.scenario, case.name));
    let text = serde_json::to_string_pretty(case)?;
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    plot::draw(case, &file.with_extension("svg"))
}

/// Every way, in the order in which they came.
fn names(case: &Case) -> Vec<&str> {
    let mut names = Vec::new();
    for series in case.metrics.iter().flat_map(|metric| &metric.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    names
}

fn header(case: &Case) -> Vec<String> {
    let mut cells = vec![case.axis.clone().unwrap_or_default()];
    for metric in shown(case) {
        cells.push(format!("{}, {}", metric.name, metric.unit));
        cells.extend(metric.baseline.as_ref().map(|baseline| format!("of {baseline}")));
    }
    cells
}

fn shown(case: &Case) -> impl Iterator<Item = &Metric> {
    case.metrics.iter().filter(|metric| !metric.series.is_empty())
}

fn row(case: &Case, name: &str) -> Vec<String> {
    let mut cells = vec![name.to_owned()];
    for metric in shown(case) {
        let series = metric.series.iter().find(|series| series.name == name);
        cells.push(series.map(middle).unwrap_or_default());
        if metric.baseline.is_some() {
            let ratio = series.and_then(|series| metric.ratio(series));
            cells.push(ratio.map(|ratio| spread(ratio.median, ratio.least, ratio.most)).unwrap_or_default());
        }
    }
    cells
}

fn middle(series: &Series) -> String {
    let Some(figures) = series.spread() else { return String::new() };
    if series.rounds.len() == 1 {
        return figure(figures.median);
    }
    spread(figures.median, figures.least, figures.most)
}

fn spread(median: f64, least: f64, most: f64) -> String {
    format!("{} ({} to {})", figure(median), figure(least), figure(most))
}

/// Three digits or so: no measurement here has more.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => thousands(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn sentence(target: &Target) -> String {
    format!("{}, is {}", wanted(target), figure(target.figure))
}

fn wanted(target: &Target) -> String {
    match target.bound {
        Bound::AtLeast(bound) => format!("{} ≥ {}", target.what, figure(bound)),
        Bound::AtMost(bound) => format!("{} ≤ {}", target.what, figure(bound)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_they_bear() {
        let figures = [1_234_567.8, -1_500.0, 999.6, 42.25, 0.8149, 0.0123, 0.0];
        let texts = ["1,234,568", "-1,500", "1000", "42.2", "0.81", "0.012", "0"];
        assert_eq!(figures.map(figure), texts);
    }

    #[test]
    fn a_target_that_is_not_met_is_said_beside_its_figure() {
        let mut case = Case::new("write", "n", "Inserts");
        case.metric("rate", "/s", Some("none"));
        for (none, ours) in [(100.0, 80.0), (200.0, 120.0)] {
            case.push("rate", "none", none);
            case.push("rate", "ours", ours);
        }
        case.target("ours / none", case.ratio("rate", "ours", "none"), Bound::AtLeast(0.8));
        let text = markdown(&case);
        assert!(text.contains("| ours | 100 (80.0 to 120) | 0.70 (0.60 to 0.80) |"), "{text}");
        assert!(text.contains("| ours / none ≥ 0.80 | 0.70 | **not met** |"), "{text}");
        assert!(terminal(&case).contains("NOT MET: ours / none ≥ 0.80, is 0.70"));
    }
}
