//! A quick look at an input's database, again and again, on a session of its own: whether it answers at all, and how far
//! the cursor is behind.

use dapper_core::InputConfig;
use metrics::{Counter, Gauge, counter, gauge};
use tokio_postgres::Statement;

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::options::Options;
use crate::session::{Session, bounded};

const SQL: &str = include_str!("pulse.sql");
/// What `pg_stat_activity` shows for the session. Not the replicas' name: it holds and reads nothing.
const APPLICATION: &str = "dapper pulse";

/// Looks at an input's database whenever it is asked, whoever leads.
pub struct Pulse {
    options: Options,
    open: Option<Open>,
    meter: Meter,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Beat {
    /// The fencing token in the cursor row.
    pub token: u64,
    /// Grows with every write of the cursor row.
    pub version: u64,
    /// Changes that are not recorded as handled; at least so many where there are thousands.
    pub lag_changes: u64,
    /// Age of the oldest of them, by the database's clock.
    pub lag_seconds: f64,
    /// Keys that are parked, each at a process.
    pub parked_keys: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Statements that passed unrecorded, since the installation.
    pub missed: u64,
}

struct Open {
    session: Session,
    statement: Statement,
}

struct Meter {
    lag_changes: Gauge,
    lag_seconds: Gauge,
    parked_keys: Gauge,
    dead_letters: Gauge,
    missed: Counter,
}

impl Pulse {
    /// Looks at nothing yet.
    ///
    /// # Errors
    /// A configuration that can't be used.
    pub fn new(config: &InputConfig) -> Result<Self, PostgresError> {
        let options = Options::parse(config)?;
        let labels = [("input", options.names.id.clone())];
        let meter = Meter {
            lag_changes: gauge!("dapper_cursor_lag_changes", &labels),
            lag_seconds: gauge!("dapper_cursor_lag_seconds", &labels),
            parked_keys: gauge!("dapper_parked_keys", &labels),
            dead_letters: gauge!("dapper_dead_letters", &labels),
            missed: counter!("dapper_statements_missed_total", &labels),
        };
        Ok(Self { options, open: None, meter })
    }

    /// Looks. When dropped before its end it begins with a new session the next time.
    ///
    /// # Errors
    /// Those of connecting, and [`PostgresError::NotInstalled`]'s kind: what the look needs is not there.
    pub async fn beat(&mut self) -> Result<Beat, PostgresError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        let doing = "looking at the cursor";
        let row = bounded(doing, open.session.client().query_opt(&open.statement, &[])).await?;
        self.open = Some(open);
        let row = row.ok_or_else(|| PostgresError::NotInstalled {
            schema: self.options.names.schema.clone(),
            reason: "it has no cursor".to_owned(),
        })?;
        let count = |column| row.get::<_, i64>(column).unsigned_abs();
        let beat = Beat {
            token: count("token"),
            version: count("version"),
            lag_changes: count("lag_changes"),
            lag_seconds: row.get::<_, f64>("lag_seconds").max(0.0),
            parked_keys: count("parked_keys"),
            dead_letters: count("dead_letters"),
            missed: count("missed"),
        };
        self.meter.write(&beat);
        Ok(beat)
    }

    async fn connect(&self) -> Result<Open, PostgresError> {
        let session = Session::open(&self.options.connection, APPLICATION).await?;
        let sql = SQL.replace("{schema}", &quote_identifier(&self.options.names.schema));
        let statement = bounded("preparing", session.client().prepare(&sql)).await?;
        Ok(Open { session, statement })
    }
}

impl Meter {
    fn write(&self, beat: &Beat) {
        self.lag_changes.set(beat.lag_changes as f64);
        self.lag_seconds.set(beat.lag_seconds);
        self.parked_keys.set(beat.parked_keys as f64);
        self.dead_letters.set(beat.dead_letters as f64);
        self.missed.absolute(beat.missed);
    }
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").field("options", &self.options).finish_non_exhaustive()
    }
}
