//! The tables in `docs/performance.md`: each scenario's stand between two comments that name it, and all else is left as
//! it is.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bench::kept;
use crate::case::Case;
use crate::output;

/// Beside the page.
const PLOTS: &str = "performance";

/// Puts everything that was kept into the page, and the plots beside it.
pub(crate) fn write(folder: &Path, page: &Path) -> Result<()> {
    let mut text =
        std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let cases = kept(folder)?;
    let plots = page.with_file_name(PLOTS);
    std::fs::create_dir_all(&plots)?;
    let mut scenarios: Vec<&str> = cases.iter().map(|case| case.scenario.as_str()).collect();
    scenarios.dedup();
    for scenario in scenarios {
        let mut section = String::new();
        for case in cases.iter().filter(|case| case.scenario == scenario) {
            let plot = format!("{}.{}.svg", case.scenario, case.name);
            std::fs::copy(folder.join(&plot), plots.join(&plot))
                .with_context(|| format!("there is no {plot}"))?;
            let _ =
                write!(section, "{}\n![{}]({PLOTS}/{plot})\n\n", output::markdown(case), alternative(case));
        }
        text = replaced(&text, scenario, &section).with_context(|| {
            format!(
                "{} has no place for {scenario}: <!-- bench:{scenario} --> … <!-- /bench:{scenario} -->",
                page.display()
            )
        })?;
    }
    std::fs::write(page, text).with_context(|| format!("cannot write {}", page.display()))
}

fn alternative(case: &Case) -> String {
    format!("Plot: {}", case.title)
}

/// The text with another section between the comments that name a scenario.
fn replaced(text: &str, scenario: &str, section: &str) -> Option<String> {
    let (start, end) = (format!("<!-- bench:{scenario} -->"), format!("<!-- /bench:{scenario} -->"));
    let (before, rest) = text.split_once(&start)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{start}\n\n{section}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_comments_changes() {
        let text = "a\n<!-- bench:idle -->old<!-- /bench:idle -->\nb";
        let new = replaced(text, "idle", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- bench:idle -->\n\nnew\n<!-- /bench:idle -->\nb");
        assert_eq!(replaced(&new, "idle", "new\n").unwrap(), new);
        assert!(replaced(text, "drain", "").is_none());
    }
}
