//! Where the libraries' metrics come together: a recorder for the `metrics` facade, read by `/metrics`, by readiness and
//! by the page.
//!
//! A histogram is a row of counters with fixed bounds. So its memory does not grow with what is recorded, however rarely
//! anybody reads it, and a value that stands for many runs costs as much as one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Series that are kept; further ones are not counted.
const MOST_SERIES: usize = 10_000;
/// The upper bounds of histograms of durations, in seconds.
const SECONDS: [f64; 18] = [
    0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];
/// The upper bounds of all other histograms.
const SIZES: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 100_000.0];

/// All series. Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    series: RwLock<BTreeMap<Id, Value>>,
    help: RwLock<BTreeMap<String, String>>,
}

/// A name, and the labels in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    name: String,
    labels: Vec<(String, String)>,
}

#[derive(Clone)]
enum Value {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Cells>),
}

/// The counters of a histogram.
struct Cells {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    /// A number's bits.
    sum: AtomicU64,
}

impl Registry {
    /// Takes the counts of the whole program from now on; false when another recorder does.
    #[must_use]
    pub fn install(&self) -> bool {
        metrics::set_global_recorder(self.clone()).is_ok()
    }

    /// A counter's or a gauge's value, `None` when there is no such series.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut labels: Vec<(String, String)> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.sort();
        let series = self.shared.series.read().unwrap_or_else(PoisonError::into_inner);
        match series.get(&Id { name: name.to_owned(), labels })? {
            Value::Counter(count) => Some(count.load(Ordering::Relaxed) as f64),
            Value::Gauge(bits) => Some(f64::from_bits(bits.load(Ordering::Relaxed))),
            Value::Histogram(_) => None,
        }
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let series = self.shared.series.read().unwrap_or_else(PoisonError::into_inner);
        let help = self.shared.help.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::with_capacity(series.len() * 96);
        let mut last = "";
        for (id, value) in series.iter() {
            if id.name != last {
                if let Some(help) = help.get(&id.name) {
                    let _ = writeln!(out, "# HELP {} {}", id.name, escape_help(help));
                }
                let _ = writeln!(out, "# TYPE {} {}", id.name, value.kind());
                last = &id.name;
            }
            value.render(&mut out, id);
        }
        out
    }

    fn entry(&self, key: &Key, new: impl FnOnce() -> Value) -> Option<Value> {
        let mut labels: Vec<(String, String)> =
            key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
        labels.sort();
        let id = Id { name: key.name().to_owned(), labels };
        let mut series = self.shared.series.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = series.get(&id) {
            return Some(value.clone());
        }
        if series.len() >= MOST_SERIES {
            return None;
        }
        let value = new();
        series.insert(id, value.clone());
        Some(value)
    }

    fn describe(&self, name: &KeyName, text: SharedString) {
        let mut help = self.shared.help.write().unwrap_or_else(PoisonError::into_inner);
        help.insert(name.as_str().to_owned(), text.into_owned());
    }
}

impl Recorder for Registry {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, description);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.entry(key, || Value::Counter(Arc::default())) {
            Some(Value::Counter(count)) => Counter::from_arc(count),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.entry(key, || Value::Gauge(Arc::default())) {
            Some(Value::Gauge(bits)) => Gauge::from_arc(bits),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let bounds: &[f64] = if key.name().ends_with("_seconds") { &SECONDS } else { &SIZES };
        match self.entry(key, || Value::Histogram(Arc::new(Cells::new(bounds)))) {
            Some(Value::Histogram(cells)) => Histogram::from_arc(cells),
            _ => Histogram::noop(),
        }
    }
}

impl Cells {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }
}

impl HistogramFn for Cells {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(count as u64, Ordering::Relaxed);
        let more = value * count as f64;
        let add = |bits| Some((f64::from_bits(bits) + more).to_bits());
        // Never fails: `add` always has an answer.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    fn render(&self, out: &mut String, id: &Id) {
        let name = &id.name;
        let labels = |more: Option<String>| {
            let own = id.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
            let all: Vec<String> = own.chain(more).collect();
            if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
        };
        match self {
            Self::Counter(count) => {
                let _ = writeln!(out, "{name}{} {}", labels(None), count.load(Ordering::Relaxed));
            }
            Self::Gauge(bits) => {
                let value = number(f64::from_bits(bits.load(Ordering::Relaxed)));
                let _ = writeln!(out, "{name}{} {value}", labels(None));
            }
            Self::Histogram(cells) => {
                let mut total = 0;
                for (count, bound) in cells.counts.iter().zip(cells.bounds.iter().chain([&f64::INFINITY])) {
                    total += count.load(Ordering::Relaxed);
                    let bound = labels(Some(format!("le=\"{}\"", number(*bound))));
                    let _ = writeln!(out, "{name}_bucket{bound} {total}");
                }
                let sum = number(f64::from_bits(cells.sum.load(Ordering::Relaxed)));
                let _ = writeln!(out, "{name}_sum{} {sum}", labels(None));
                let _ = writeln!(out, "{name}_count{} {total}", labels(None));
            }
        }
    }
}

fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { format!("{value}") }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let series = self.shared.series.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Registry").field("series", &series.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{counter, describe_gauge, gauge, histogram, with_local_recorder};

    #[test]
    fn what_is_recorded_is_rendered_in_order_and_escaped() {
        let registry = Registry::default();
        with_local_recorder(&registry, || {
            describe_gauge!("b", "Of two\nlines.");
            gauge!("b", "label" => "a \"quoted\\\nname").set(1.5);
            counter!("a_total", "y" => "2", "x" => "1").increment(3);
            counter!("a_total", "x" => "1", "y" => "2").increment(4);
        });
        let expected = "# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 7\n# HELP b Of two\\nlines.\n\
                        # TYPE b gauge\nb{label=\"a \\\"quoted\\\\\\nname\"} 1.5\n";
        assert_eq!(registry.render(), expected);
        assert_eq!(registry.value("a_total", &[("y", "2"), ("x", "1")]), Some(7.0));
        assert_eq!(registry.value("a_total", &[("x", "1")]), None);
    }

    #[test]
    fn a_histogram_counts_into_every_bucket_that_holds_the_value() {
        let registry = Registry::default();
        with_local_recorder(&registry, || {
            let histogram = histogram!("d_seconds");
            histogram.record(0.001);
            histogram.record_many(0.2, 3);
            histogram.record(1e6);
        });
        let text = registry.render();
        for line in [
            "d_seconds_bucket{le=\"0.0005\"} 0",
            "d_seconds_bucket{le=\"0.001\"} 1",
            "d_seconds_bucket{le=\"0.1\"} 1",
            "d_seconds_bucket{le=\"0.25\"} 4",
            "d_seconds_bucket{le=\"60\"} 4",
            "d_seconds_bucket{le=\"+Inf\"} 5",
            "d_seconds_count 5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        let sum = text.lines().find_map(|line| line.strip_prefix("d_seconds_sum ")).unwrap();
        assert!((sum.parse::<f64>().unwrap() - 1_000_000.601).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn there_is_an_end_to_the_number_of_series() {
        let registry = Registry::default();
        with_local_recorder(&registry, || {
            for n in 0..MOST_SERIES + 10 {
                counter!("a_total", "n" => n.to_string()).increment(1);
            }
        });
        assert_eq!(registry.render().lines().count(), MOST_SERIES + 1);
    }
}
