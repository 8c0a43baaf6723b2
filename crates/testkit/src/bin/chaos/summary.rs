//! What came of it, as a table, for a program, or for the documentation.

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use dapper_testkit::chaos::{ChaosReport, Fault};
use serde_json::{Value, json};

pub(crate) struct Summary(pub(crate) ChaosReport);

impl Summary {
    /// Every promise was kept, and as much tried as was asked for.
    pub(crate) fn is_good(&self) -> bool {
        self.0.verdict.is_clean() && self.0.shortfalls().is_empty()
    }

    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            println!("{}", table(&self.figures()));
            println!("{}", table(&self.faults()));
        }
        for finding in &self.0.verdict.findings {
            eprintln!("{finding}");
        }
        for (name, count) in self.0.verdict.violations() {
            eprintln!("VIOLATION: {name}: {count}");
        }
        for line in self.0.shortfalls() {
            eprintln!("NOT REACHED: {line}");
        }
        eprintln!("seed {}: {}", self.0.options.seed, self.verdict());
    }

    fn verdict(&self) -> &'static str {
        if self.is_good() { "every promise was kept." } else { "NOT EVERYTHING IS AS IT SHOULD BE." }
    }

    fn figures(&self) -> Vec<(String, String)> {
        let ChaosReport { verdict, took, restarts, failed_starts, promotions, .. } = &self.0;
        let row = |name: &str, value: u64| (name.to_owned(), value.to_string());
        vec![
            row("minutes", took.as_secs() / 60),
            row("faults injected", self.0.injected()),
            row("committed changes", verdict.committed),
            row("events received", verdict.received),
            row("**lost**", verdict.lost),
            row("**received, though not committed**", verdict.phantom),
            row("**repeats unmarked**", verdict.repeats_unmarked),
            row("**out of order per key**", verdict.out_of_order),
            row("**stale tokens accepted**", verdict.stale_accepted),
            row("**application statements failed**", verdict.failed_statements),
            row("**double effects through the inbox**", verdict.double_effects),
            row("**without effect through the inbox**", verdict.effects_missing),
            row("**dead letters**", verdict.dead_letters),
            row("**left parked**", verdict.parked_left),
            row("effects through the inbox", verdict.effects),
            row("events that failed and were parked", verdict.parked),
            row("malformed events", verdict.malformed),
            row("replicas that broke by themselves", verdict.broken_replicas),
            row("repeats, marked", verdict.repeats_marked),
            row("requests with a stale token, refused by the receiver", verdict.stale_refused),
            row("committed changes that a crash or a promotion took back", verdict.rewound),
            row("of these, delivered before the promotion", verdict.rewound_delivered),
            row("replicas started again", *restarts),
            row("starts that failed while PostgreSQL was away", *failed_starts),
            row("promotions", promotions.0),
            row("warnings of replicas about a promotion", promotions.1),
        ]
    }

    fn faults(&self) -> Vec<(String, String)> {
        let by_kind = Fault::ALL.into_iter().map(|fault| {
            let count = self.0.faults.get(&fault).copied().unwrap_or(0);
            (fault.description().to_owned(), count.to_string())
        });
        let points = self.0.points.iter().map(|(name, count)| (format!("at {name}"), count.to_string()));
        let skipped = ("not possible when its time had come".to_owned(), self.0.skipped.to_string());
        by_kind.chain(points).chain([skipped]).collect()
    }

    fn command(&self) -> String {
        let options = &self.0.options;
        let mut command = format!("cargo xtask chaos --minutes {}", options.limit.as_secs_f64() / 60.0);
        for (name, value) in [
            ("faults", options.faults.map(|count| count.to_string())),
            ("events", options.events.map(|count| count.to_string())),
            ("rate", options.rate.map(|rate| rate.to_string())),
            ("seed", Some(options.seed.to_string())),
        ] {
            if let Some(value) = value {
                command.push_str(&format!(" --{name} {value}"));
            }
        }
        command
    }

    pub(crate) fn markdown(&self) -> String {
        let options = &self.0.options;
        let mut text = format!(
            "`{}`, dapper {}, PostgreSQL {}, {} replicas, {} writers, TTL {} ms: {}\n\n",
            self.command(),
            env!("CARGO_PKG_VERSION"),
            self.0.server,
            options.replicas,
            options.writers,
            options.ttl.as_millis(),
            self.verdict()
        );
        for (heading, rows) in [("what", self.figures()), ("fault", self.faults())] {
            text.push_str(&format!("| {heading} | count |\n| --- | ---: |\n"));
            for (name, value) in rows {
                text.push_str(&format!("| {name} | {value} |\n"));
            }
            text.push('\n');
        }
        text
    }

    fn json(&self) -> Value {
        let figures: serde_json::Map<String, Value> = self
            .figures()
            .into_iter()
            .map(|(name, value)| {
                let value = value.parse::<u64>().map_or(Value::Null, Value::from);
                (name.replace("**", ""), value)
            })
            .collect();
        let faults: serde_json::Map<String, Value> =
            self.0.faults.iter().map(|(fault, count)| (fault.name().to_owned(), (*count).into())).collect();
        json!({
            "good": self.is_good(),
            "command": self.command(),
            "seed": self.0.options.seed,
            "seconds": self.0.took.as_secs(),
            "postgresql": self.0.server,
            "figures": figures,
            "faults": faults,
            "points": self.0.points,
            "skipped": self.0.skipped,
            "violations": self.0.verdict.violations().iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            "not_reached": self.0.shortfalls(),
            "findings": self.0.verdict.findings,
        })
    }
}

fn table(rows: &[(String, String)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    for (name, value) in rows {
        table.add_row([name.replace("**", ""), value.clone()]);
    }
    table
}
