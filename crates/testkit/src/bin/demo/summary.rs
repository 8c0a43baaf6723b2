//! The table at the end, and the verdict.

use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use dapper_testkit::history::Report;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) report: Report,
    /// Where leaders were killed and stopped.
    pub(crate) takeovers: Option<Takeovers>,
    /// The exit codes of the replicas that were asked to stop.
    pub(crate) exits: Vec<String>,
}

/// How long it took until another replica's first event; `None` when there was none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takeovers {
    pub(crate) after_kill: Option<Duration>,
    pub(crate) after_stop: Option<Duration>,
}

impl Summary {
    /// Whether every promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        self.report.is_clean() && self.exits.iter().all(|code| code == "0")
    }

    /// Prints the table, or JSON.
    pub(crate) fn print(&self, json: bool) {
        if json {
            println!("{}", self.json());
        } else {
            println!("\n{}", self.table());
        }
        for finding in &self.report.findings {
            eprintln!("{finding}");
        }
        if !json {
            println!("{}", if self.is_good() { "Nothing was lost." } else { "A PROMISE WAS BROKEN." });
        }
    }

    fn table(&self) -> Table {
        let report = &self.report;
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let rows = [
            ("committed changes", report.committed.to_string()),
            ("received", report.received.to_string()),
            ("lost", report.lost.to_string()),
            ("received, though not committed", report.phantom.to_string()),
            (
                "repeats (marked / unmarked)",
                format!("{} / {}", report.repeats_marked, report.repeats_unmarked),
            ),
            ("out of order per key", report.out_of_order.to_string()),
        ];
        for (name, value) in rows {
            table.add_row([name, &value]);
        }
        if let Some(takeovers) = self.takeovers {
            table.add_row(["takeover after kill -9", &milliseconds(takeovers.after_kill)]);
            table.add_row(["takeover after SIGTERM", &milliseconds(takeovers.after_stop)]);
        }
        table.add_row(["exit codes after SIGTERM", &self.exits.join(", ")]);
        // Whatever else went wrong gets a row only then.
        for (name, count) in [
            ("one event id, two events", report.conflicting),
            ("without an event id or a time", report.malformed),
            ("statements of the writers that failed", report.failed_statements),
            ("delivered under a lower token", report.stale),
        ] {
            if count > 0 {
                table.add_row([name, &count.to_string()]);
            }
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn json(&self) -> serde_json::Value {
        let report = &self.report;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let takeovers = self.takeovers.unwrap_or_default();
        serde_json::json!({
            "good": self.is_good(),
            "committed": report.committed,
            "deliveries": report.deliveries,
            "received": report.received,
            "lost": report.lost,
            "phantom": report.phantom,
            "repeats_marked": report.repeats_marked,
            "repeats_unmarked": report.repeats_unmarked,
            "out_of_order": report.out_of_order,
            "stale": report.stale,
            "conflicting": report.conflicting,
            "malformed": report.malformed,
            "failed_statements": report.failed_statements,
            "takeover_after_kill_s": seconds(takeovers.after_kill),
            "takeover_after_stop_s": seconds(takeovers.after_stop),
            "exit_codes": self.exits,
            "findings": report.findings,
        })
    }
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "no later event".to_owned(), |time| format!("{} ms", time.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let report = Report {
            committed: 4012,
            deliveries: 4014,
            received: 4012,
            repeats_marked: 2,
            ..Report::default()
        };
        Summary {
            report,
            takeovers: Some(Takeovers { after_kill: Some(Duration::from_micros(81_900)), after_stop: None }),
            exits: vec!["0".to_owned(), "0".to_owned()],
        }
    }

    #[test]
    fn the_table_has_what_was_promised() {
        let text = summary().table().to_string();
        for row in [
            "│ committed changes              ┆           4012 │",
            "│ repeats (marked / unmarked)    ┆          2 / 0 │",
            "│ takeover after kill -9         ┆          81 ms │",
            "│ takeover after SIGTERM         ┆ no later event │",
        ] {
            assert!(text.contains(row), "{text}");
        }
        let text = Summary { takeovers: None, ..summary() }.table().to_string();
        assert!(!text.contains("takeover") && text.contains("exit codes"), "{text}");
    }

    #[test]
    fn any_broken_promise_is_bad() {
        assert!(summary().is_good());
        let breaks: [fn(&mut Summary); 7] = [
            |summary| summary.report.lost = 1,
            |summary| summary.report.phantom = 1,
            |summary| summary.report.repeats_unmarked = 1,
            |summary| summary.report.out_of_order = 1,
            |summary| summary.report.conflicting = 1,
            |summary| summary.report.failed_statements = 1,
            |summary| summary.exits[0] = "1".to_owned(),
        ];
        for change in breaks {
            let mut summary = summary();
            change(&mut summary);
            assert!(!summary.is_good(), "{summary:?}");
            assert_eq!(summary.json()["good"], false);
        }
    }
}
