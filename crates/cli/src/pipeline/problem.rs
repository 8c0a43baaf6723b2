//! What is wrong with a pipeline file, and where.

use std::fmt;

/// The likeness from which on a name is taken for a slip of another.
const LEAST_LIKENESS: f64 = 0.7;

/// Something in a pipeline file that cannot be used. Its text holds no value that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file as it was named by the user.
    pub(crate) file: String,
    /// From 1; `None` when it is about the file as a whole.
    pub(crate) line: Option<usize>,
    /// What is wrong and what to do about it.
    pub(crate) reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.reason),
            None => write!(f, "{}: {}", self.file, self.reason),
        }
    }
}

impl std::error::Error for Problem {}

/// `; did you mean "…"?` with the name that looks most like `name`, or nothing.
pub(crate) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| format!("; did you mean {candidate:?}?"))
}
