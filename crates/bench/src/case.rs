//! What was measured, and what is made of it.

use serde::{Deserialize, Serialize};

/// The work a second for which all processors' time is just enough, by what server, writers and readers took of it for one
/// piece: the rate of a saturated machine that nobody shares.
pub(crate) const BEARABLE: &str = "what the processors bear";

/// That rate, of so many pieces that took so many seconds of the processors' time.
pub(crate) fn bearable(pieces: f64, seconds: f64) -> f64 {
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    // The clock of processes ticks a hundred times a second.
    processors * pieces / seconds.max(0.001)
}

/// One comparison: the same thing done in several ways, in turns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) scenario: String,
    pub(crate) name: String,
    pub(crate) title: String,
    /// What the ways differ by when their names are numbers.
    pub(crate) axis: Option<String>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) targets: Vec<Target>,
    /// What is not equal, and other words that the figures need.
    pub(crate) notes: Vec<String>,
}

/// One quantity, for each of the ways.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// The way that the others are compared with.
    pub(crate) baseline: Option<String>,
    pub(crate) series: Vec<Series>,
}

/// One way, by rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) rounds: Vec<f64>,
}

/// What a figure should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) figure: f64,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// The middle one of several figures, and how far they are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Case {
    pub(crate) fn new(scenario: &str, name: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            scenario: scenario.to_owned(),
            name: name.into(),
            title: title.into(),
            axis: None,
            metrics: Vec::new(),
            targets: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Its name among all cases, which `--case` chooses by.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.scenario, self.name)
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Declares a quantity; `baseline` is the way that the others are compared with.
    pub(crate) fn metric(&mut self, name: &str, unit: &str, baseline: Option<&str>) {
        let baseline = baseline.map(str::to_owned);
        self.metrics.push(Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            baseline,
            series: Vec::new(),
        });
    }

    /// Adds the figure of one round.
    pub(crate) fn push(&mut self, metric: &str, way: &str, figure: f64) {
        let Some(metric) = self.metrics.iter_mut().find(|other| other.name == metric) else { return };
        match metric.series.iter_mut().find(|series| series.name == way) {
            Some(series) => series.rounds.push(figure),
            None => metric.series.push(Series { name: way.to_owned(), rounds: vec![figure] }),
        }
    }

    pub(crate) fn median(&self, metric: &str, way: &str) -> Option<f64> {
        Some(self.series(metric, way)?.spread()?.median)
    }

    /// The median of the ratios of each round to another way's in the same round.
    pub(crate) fn ratio(&self, metric: &str, way: &str, base: &str) -> Option<f64> {
        Some(Spread::of_ratios(self.series(metric, way)?, self.series(metric, base)?)?.median)
    }

    fn series(&self, metric: &str, way: &str) -> Option<&Series> {
        let metric = self.metrics.iter().find(|other| other.name == metric)?;
        metric.series.iter().find(|series| series.name == way)
    }

    /// Adds a target, if there is a figure for it.
    pub(crate) fn target(&mut self, what: impl Into<String>, figure: Option<f64>, bound: Bound) {
        self.targets.extend(figure.map(|figure| Target { what: what.into(), figure, bound }));
    }
}

impl Metric {
    /// What this way is compared with, in the same rounds.
    pub(crate) fn ratio(&self, series: &Series) -> Option<Spread> {
        let base = self.series.iter().find(|other| Some(&other.name) == self.baseline.as_ref())?;
        Spread::of_ratios(series, base)
    }
}

impl Series {
    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().copied())
    }
}

impl Target {
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.figure >= bound,
            Bound::AtMost(bound) => self.figure <= bound,
        }
    }
}

impl Spread {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (&least, &most) = (figures.first()?, figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Some(Self { median, least, most })
    }

    fn of_ratios(series: &Series, base: &Series) -> Option<Self> {
        Self::of(series.rounds.iter().zip(&base.rounds).map(|(figure, base)| figure / base))
    }
}

/// The figure below which `share` of them are; they must be sorted.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(last)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let mut case = Case::new("s", "n", "t");
        case.metric("rate", "/s", Some("none"));
        for (none, ours) in [(100.0, 80.0), (10.0, 9.0), (50.0, 20.0)] {
            case.push("rate", "none", none);
            case.push("rate", "ours", ours);
        }
        let ratio = case.metrics[0].ratio(&case.metrics[0].series[1]).unwrap();
        assert_eq!(ratio, Spread { median: 0.8, least: 0.4, most: 0.9 });
        case.target("enough", case.ratio("rate", "ours", "none"), Bound::AtLeast(0.8));
        case.target("absent", case.ratio("rate", "theirs", "none"), Bound::AtLeast(0.8));
        assert_eq!(case.targets.len(), 1);
        assert!(case.targets[0].is_met());
    }

    #[test]
    fn percentiles_are_figures_that_were_there() {
        let figures: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 0.999].map(|share| percentile(&figures, share)), [500.0, 990.0, 999.0]);
        assert_eq!(percentile(&[3.0], 0.999), 3.0);
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
    }
}
