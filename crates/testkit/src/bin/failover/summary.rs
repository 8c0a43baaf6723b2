//! What was measured, as a table, for the documentation, or for a program.

use std::time::Duration;

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{Table, TableStyle};
use dapper_testkit::failover::{COMMIT_EVERY, CaseReport, StandbysReport};
use serde_json::{Value, json};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Table,
    Markdown,
    Json,
}

/// All cases that were measured, and what was left out.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    cases: Vec<CaseReport>,
    left_out: Vec<String>,
}

/// What many standbys cost.
#[derive(Debug)]
pub(crate) struct Standbys(pub(crate) StandbysReport);

const HEADINGS: [&str; 12] = [
    "case",
    "backend",
    "runs",
    "p50 ms",
    "p99 ms",
    "max ms",
    "released ms",
    "granted ms",
    "overlap ms",
    "stale accepted",
    "stale refused",
    "lost",
];

impl Summary {
    pub(crate) fn add(&mut self, report: CaseReport) {
        self.cases.push(report);
    }

    /// Says by name what is not measured.
    pub(crate) fn leave_out(&mut self, what: &str, reason: &str) {
        let line = format!("{what}: {reason}");
        eprintln!("left out: {line}");
        self.left_out.push(line);
    }

    /// Whether something was measured, every promise was kept, and every bound.
    pub(crate) fn is_good(&self) -> bool {
        let fine =
            |report: &CaseReport| report.broken_promises().is_empty() && report.missed_bounds().is_empty();
        !self.cases.is_empty() && self.cases.iter().all(fine)
    }

    pub(crate) fn print(&self, form: Form) {
        match form {
            Form::Json => println!("{}", self.json()),
            Form::Table => println!("{}", self.table(UTF8_FULL_CONDENSED)),
            Form::Markdown => println!("{}", self.table(ASCII_MARKDOWN)),
        }
        for report in &self.cases {
            let backend = report.locks.name();
            if report.case.repeats_nothing() {
                eprintln!("{} on {backend}: {}", report.case, repeats(report));
            }
            for line in report.broken_promises().iter().chain(&report.missed_bounds()) {
                eprintln!("{} on {backend}: {line}", report.case);
            }
            for finding in &report.verdict.report.findings {
                eprintln!("{} on {backend}: {finding}", report.case);
            }
        }
        for line in &self.left_out {
            eprintln!("left out: {line}");
        }
        eprintln!("{}", verdict(self.is_good()));
    }

    fn table(&self, style: TableStyle) -> Table {
        let mut table = Table::new();
        table.load_style(style);
        table.set_header(HEADINGS);
        for report in &self.cases {
            let [released, granted] = report.medians();
            let verdict = &report.verdict;
            table.add_row([
                report.case.description().to_owned(),
                report.locks.name().to_owned(),
                report.rounds.len().to_string(),
                ms(report.percentile(50)),
                ms(report.percentile(99)),
                ms(report.percentile(100)),
                released.map_or_else(String::new, ms),
                granted.map_or_else(String::new, ms),
                ms(verdict.overlap),
                verdict.stale_accepted.to_string(),
                format!("{} / {}", verdict.stale_refused_by_row, verdict.late_events),
                format!("{} of {}", verdict.report.lost, verdict.report.committed),
            ]);
        }
        table
    }

    fn json(&self) -> Value {
        let cases = self.cases.iter().map(|report| {
            let (verdict, [released, granted]) = (&report.verdict, report.medians());
            json!({
                "case": report.case.name(),
                "backend": report.locks.name(),
                "ttl_s": report.ttl.as_secs_f64(),
                "runs": report.rounds.len(),
                "commit_every_ms": millis(COMMIT_EVERY),
                "takeover_ms": report.rounds.iter().map(|round| millis(round.takeover)).collect::<Vec<_>>(),
                "p50_ms": millis(report.percentile(50)),
                "p99_ms": millis(report.percentile(99)),
                "max_ms": millis(report.percentile(100)),
                "released_p50_ms": released.map(millis),
                "granted_p50_ms": granted.map(millis),
                "overlap_ms": millis(verdict.overlap),
                "tokens_reused": verdict.tokens_reused,
                "stale_accepted": verdict.stale_accepted,
                "stale_refused_by_row": verdict.stale_refused_by_row,
                "late_events_refused": verdict.late_events,
                "committed": verdict.report.committed,
                "received": verdict.report.received,
                "lost": verdict.report.lost,
                "phantom": verdict.report.phantom,
                "repeats_marked": verdict.report.repeats_marked,
                "marked_first": verdict.report.marked_first,
                "repeats_unmarked": verdict.report.repeats_unmarked,
                "out_of_order": verdict.report.out_of_order,
                "broken": report.broken_promises(),
                "missed": report.missed_bounds(),
            })
        });
        json!({ "good": self.is_good(), "cases": cases.collect::<Vec<_>>(), "left_out": self.left_out })
    }
}

impl Standbys {
    pub(crate) fn is_good(&self) -> bool {
        self.0.broken_promises().is_empty()
    }

    pub(crate) fn print(&self, form: Form) {
        match form {
            Form::Json => println!("{}", self.json()),
            Form::Table => println!("{}", self.table(UTF8_FULL_CONDENSED)),
            Form::Markdown => println!("{}", self.table(ASCII_MARKDOWN)),
        }
        for line in self.0.broken_promises() {
            eprintln!("{line}");
        }
        eprintln!("{}", verdict(self.is_good()));
    }

    fn table(&self, style: TableStyle) -> Table {
        let report = &self.0;
        let mut table = Table::new();
        table.load_style(style);
        table.set_header(["what", "measured"]);
        for (what, value) in [
            ("standbys", report.standbys.to_string()),
            ("statements per second and standby", format!("{:.2}", report.statements_per_second)),
            ("connections per standby", format!("{:.2}", report.connections)),
            ("CPU of all standbys, of one core", format!("{:.2} %", report.standby_cpu * 100.0)),
            ("CPU of the server, of one core", format!("{:.2} %", report.server_cpu * 100.0)),
            ("longest time with one backend_xmin", format!("{} ms", ms(report.longest_backend_xmin))),
            ("samples with a backend_xmin", report.backend_xmins_seen.to_string()),
        ] {
            table.add_row([what, &value]);
        }
        table
    }

    fn json(&self) -> Value {
        let report = &self.0;
        json!({
            "good": self.is_good(),
            "standbys": report.standbys,
            "watch_s": report.watch.as_secs_f64(),
            "statements_per_second_and_standby": report.statements_per_second,
            "connections_per_standby": report.connections,
            "standby_cpu_cores": report.standby_cpu,
            "server_cpu_cores": report.server_cpu,
            "longest_backend_xmin_ms": millis(report.longest_backend_xmin),
            "backend_xmins_seen": report.backend_xmins_seen,
            "broken": report.broken_promises(),
        })
    }
}

fn verdict(good: bool) -> &'static str {
    if good { "All promises were kept, and all bounds." } else { "A PROMISE WAS BROKEN OR A BOUND MISSED." }
}

fn repeats(report: &CaseReport) -> String {
    let of = &report.verdict.report;
    let repeats = of.repeats_marked + of.repeats_unmarked;
    let (runs, received, marked) = (report.rounds.len(), of.received, of.marked_first);
    format!(
        "{repeats} repeats of {received} events over {runs} clean stops, and {marked} events marked as perhaps repeats"
    )
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// In milliseconds, as exactly as it was measured.
fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
