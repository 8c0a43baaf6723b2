//! Who changed what by a command, and when: kept in the input's own schema, and gone with it.

use dapper_core::InputConfig;
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::{Client, Row};

use crate::PostgresError;
use crate::dead_letters::open;
use crate::names::quote_identifier;
use crate::operator::operator;
use crate::session::bounded;

/// So many of the newest records are kept.
const KEPT: i64 = 10_000;
/// Characters of a record's details that are kept.
const MAX_DETAILS_CHARS: usize = 2_000;

/// A change of state that somebody made by a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuditRecord {
    /// Its number; later records have higher ones.
    pub number: i64,
    /// When, by the database's clock, RFC 3339.
    pub at: String,
    /// The role that the database let in.
    pub role: String,
    /// Who ran the program, as the program says: such as `ann@web-1`.
    pub run_by: String,
    /// The address that the program connected from; nothing when through a local socket.
    pub address: Option<String>,
    /// The program's name for itself, such as `dapper pause`.
    pub application: String,
    /// What was done, one of a fixed set of words.
    pub action: String,
    /// To what, and how.
    pub details: String,
}

/// The records since then, or all; the newest `limit` of them, the oldest first.
///
/// # Errors
/// Those of connecting; [`PostgresError::NotInstalled`].
pub async fn audit(
    config: &InputConfig,
    since: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<AuditRecord>, PostgresError> {
    let (session, options) = open(config, "dapper audit").await?;
    let sql = format!(
        "SELECT a.number, pg_catalog.to_char(a.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), a.role, a.run_by,
                a.address, a.application, a.action, a.details
           FROM {}.audit a WHERE $1::text IS NULL OR a.at >= $1::text::timestamptz
          ORDER BY a.number DESC LIMIT $2",
        quote_identifier(&options.names.schema)
    );
    let since = since.map(|since| since.to_string());
    let limit = i64::from(limit);
    let rows = bounded("reading the audit", session.client().query(&sql, &[&since, &limit])).await?;
    Ok(rows.iter().rev().map(AuditRecord::of).collect())
}

/// Records what this session has done, or does in the transaction that it has begun; `schema` is quoted.
pub(crate) async fn record(
    client: &Client,
    schema: &str,
    action: &str,
    details: &str,
) -> Result<(), PostgresError> {
    let sql = format!(
        "WITH pruned AS (
            DELETE FROM {schema}.audit WHERE number <= (SELECT pg_catalog.max(a.number) FROM {schema}.audit a) - {KEPT})
         INSERT INTO {schema}.audit (run_by, action, details) VALUES ($1, $2, $3)"
    );
    let details: String = details.chars().filter(|c| *c != '\0').take(MAX_DETAILS_CHARS).collect();
    bounded("recording what is done", client.execute(&sql, &[&operator(), &action, &details])).await.map(drop)
}

impl AuditRecord {
    fn of(row: &Row) -> Self {
        Self {
            number: row.get(0),
            at: row.get(1),
            role: row.get(2),
            run_by: row.get(3),
            address: row.get(4),
            application: row.get(5),
            action: row.get(6),
            details: row.get(7),
        }
    }
}
