//! A case and what becomes of it.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::time::timeout;

use crate::client::Client;
use crate::harness::{Harness, HarnessError, Needs, Reason};
use crate::worker::Worker;

/// The longest time that a case may take.
pub const CASE_LIMIT: Duration = Duration::from_secs(120);

/// The time to live of most terms that are meant to run out.
const SHORT: Duration = Duration::from_secs(1);
/// How much later than promised a term may end in the store.
const LATEST: Duration = Duration::from_secs(5);

/// One thing that a store owes.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub(crate) name: &'static str,
    pub(crate) obligation: &'static str,
    pub(crate) needs: Needs,
    pub(crate) body: fn(Stage) -> LocalBoxFuture<'static, Verdict>,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The store keeps the obligation.
    Passed,
    /// The harness can't do what the case needs: nothing is known.
    NotCovered {
        /// The method that the harness lacks.
        missing: &'static str,
    },
    /// The store does not keep the obligation, or the harness failed.
    Failed {
        /// What was seen, and which obligation it offends.
        what: String,
    },
}

impl Case {
    /// The case called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        crate::cases().iter().find(|case| case.name == name)
    }

    /// Its name, which is that of its test.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it holds the store to: an obligation of [`LockStore`](dapper_lock::LockStore), or one of its methods.
    #[must_use]
    pub fn obligation(&self) -> &'static str {
        self.obligation
    }

    /// What it does to the store.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Runs it on a fresh store that `create` makes. `worker` says how other processes join in.
    ///
    /// Bounded by [`CASE_LIMIT`], unless the store blocks the thread.
    pub async fn run<H, F, Fut>(&self, worker: Worker, create: F) -> Outcome
    where
        H: Harness,
        F: Fn(Needs) -> Fut + 'static,
        Fut: Future<Output = Result<H, HarnessError>> + 'static,
    {
        let factory: Factory = Rc::new(move |needs| {
            let made = create(needs);
            Box::pin(async move { Ok(Box::new(made.await?) as Box<dyn Harness>) })
        });
        let body = async {
            let harness = factory(self.needs).await?;
            (self.body)(Stage { harness, needs: self.needs, factory: Rc::clone(&factory), worker }).await
        };
        match timeout(CASE_LIMIT, body).await {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Stop::NotCovered { missing })) => Outcome::NotCovered { missing },
            Ok(Err(Stop::Failed(what))) => self.failed(what),
            Err(_) => self.failed(format!("the case did not end within {CASE_LIMIT:?}")),
        }
    }

    pub(crate) fn failed(&self, what: impl fmt::Display) -> Outcome {
        let what = format!(
            "{}: {what}\n  what it offends in the contract of dapper_lock::LockStore: {}",
            self.name, self.obligation
        );
        Outcome::Failed { what }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::NotCovered { missing } => write!(f, "not covered: the harness has no `{missing}`"),
            Self::Failed { what } => f.write_str(what),
        }
    }
}

pub(crate) type Verdict<T = ()> = Result<T, Stop>;

type Factory = Rc<dyn Fn(Needs) -> LocalBoxFuture<'static, Result<Box<dyn Harness>, HarnessError>>>;

/// Why a case ends before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    NotCovered { missing: &'static str },
    Failed(String),
}

/// What a case has in its hands.
pub(crate) struct Stage {
    pub(crate) harness: Box<dyn Harness>,
    needs: Needs,
    factory: Factory,
    pub(crate) worker: Worker,
}

impl Stage {
    /// A new handle.
    pub(crate) async fn open(&self) -> Verdict<Client> {
        Ok(Client { store: self.harness.open().await? })
    }

    pub(crate) async fn open_two(&self) -> Verdict<(Client, Client)> {
        Ok((self.open().await?, self.open().await?))
    }

    /// Another store.
    pub(crate) async fn another(&self) -> Verdict<Box<dyn Harness>> {
        Ok((self.factory)(self.needs).await?)
    }

    /// A time to live for terms that are meant to run out.
    pub(crate) fn short(&self) -> Duration {
        self.rounded(SHORT)
    }

    /// When a term of `ttl` has ended in every store that keeps its promises.
    pub(crate) fn latest(&self, ttl: Duration) -> Duration {
        self.rounded(ttl) + LATEST
    }

    fn rounded(&self, ttl: Duration) -> Duration {
        let step = self.harness.ttl_granularity().max(Duration::from_millis(1)).as_millis();
        let rounded = ttl.as_millis().div_ceil(step) * step;
        Duration::from_millis(u64::try_from(rounded).unwrap_or(u64::MAX))
    }
}

impl From<HarnessError> for Stop {
    fn from(HarnessError(reason): HarnessError) -> Self {
        match reason {
            Reason::Unsupported(missing) => Self::NotCovered { missing },
            Reason::Failed(error) => Self::Failed(format!("the harness failed: {}", chain(&*error))),
        }
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Ends the case unless it is true.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::case::Stop::Failed(format!($($text)+)));
        }
    };
}
pub(crate) use ensure;
