//! What a row is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// Why a scenario could not be played. Not a verdict on what it was to show.
pub(crate) type Failure = anyhow::Error;

/// A scenario that is being played.
pub type Run = Pin<Box<dyn Future<Output = Result<Pair, Failure>> + Send>>;

/// One bug.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name: short, lower case, with hyphens.
    pub name: &'static str,
    /// Who had it, and where that is written.
    pub whose: &'static [Source],
    /// What was wrong, in one line.
    pub bug: &'static str,
    /// What dapper does instead, in one line.
    pub ours: &'static str,
    /// Plays the scenario with both.
    pub run: fn() -> Run,
}

/// Where a bug was reported or mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Project and number.
    pub name: &'static str,
    /// The address; `None` for the program that this one descends from.
    pub url: Option<&'static str>,
}

/// What was seen of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What became of the naive version.
    pub naive: Harm,
    /// What became of dapper.
    pub ours: Harm,
}

/// How much harm was seen, of how much there could have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harm {
    count: usize,
    of: usize,
    kind: &'static str,
}

impl Row {
    /// Whether what was seen is as it should be: harm to the naive version, none to dapper.
    #[must_use]
    pub fn is_shown(pair: &Pair) -> bool {
        pair.naive.count > 0 && pair.ours.count == 0
    }
}

impl Source {
    /// A thread in public.
    #[must_use]
    pub const fn thread(name: &'static str, url: &'static str) -> Self {
        Self { name, url: Some(url) }
    }

    /// The program that this one descends from.
    pub const ANCESTOR: Self = Self { name: "the ancestor", url: None };
}

impl Pair {
    /// What was seen of the two.
    #[must_use]
    pub fn new(naive: Harm, ours: Harm) -> Self {
        Self { naive, ours }
    }
}

impl Harm {
    /// Harm of a kind, such as `"lost"`, to so many of so many.
    #[must_use]
    pub fn new(kind: &'static str, count: usize, of: usize) -> Self {
        Self { count, of, kind }
    }

    /// To how many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.count, self.of, self.kind)
    }
}
