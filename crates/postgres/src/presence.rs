//! Which replicas there are: each writes a row when it has connected, and the server knows which of them still are.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dapper_lock::HolderId;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::operator::operator;
use crate::session::bounded;

/// Characters of an error that are kept.
const MAX_ERROR_CHARS: usize = 500;

/// What a replica says of itself.
#[derive(Debug)]
pub(crate) struct Presence {
    replica: HolderId,
    run_by: String,
    last_error: Mutex<Option<(String, Instant)>>,
}

impl Presence {
    /// Of the replica that is being made.
    pub(crate) fn new(replica: HolderId) -> Self {
        Self { replica, run_by: operator(), last_error: Mutex::new(None) }
    }

    /// Remembers why reading ended, to say so with the next [`announce`](Self::announce).
    pub(crate) fn failed(&self, error: &PostgresError) {
        let text = crate::doctor::chain(error);
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_CHARS).collect();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some((text, Instant::now()));
    }

    /// Writes the row of this session, and removes those of sessions that are gone. Nobody waits for the disk. Locks
    /// rows of ours alone.
    pub(crate) async fn announce(
        &self,
        client: &Client,
        schema: &str,
        application: &str,
    ) -> Result<(), PostgresError> {
        let schema = quote_identifier(schema);
        let sql = format!(
            "WITH gone AS (
                DELETE FROM {schema}.replicas r WHERE NOT EXISTS ({CONNECTED} AND pg_catalog.starts_with(a.application_name, $6))
                   AND r.pid <> pg_catalog.pg_backend_pid())
             INSERT INTO {schema}.replicas (pid, replica, run_by, process_id, version, address, last_error, last_error_at)
             SELECT pg_catalog.pg_backend_pid(), $1::text::uuid, $2, $3, $4,
                    pg_catalog.host(pg_catalog.inet_client_addr()), $5,
                    pg_catalog.clock_timestamp() - $7::float8 * interval '1 second'
                 ON CONFLICT (pid) DO UPDATE SET replica = excluded.replica, run_by = excluded.run_by,
                    process_id = excluded.process_id, version = excluded.version, address = excluded.address,
                    since = excluded.since, last_error = excluded.last_error, last_error_at = excluded.last_error_at
             RETURNING pg_catalog.set_config('synchronous_commit', 'off', true)"
        );
        let replica = self.replica.to_string();
        let process_id = i64::from(std::process::id());
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (error, ago) =
            last.map_or((None, None), |(text, at)| (Some(text), Some(at.elapsed().as_secs_f64())));
        let version = env!("CARGO_PKG_VERSION");
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&replica, &self.run_by, &process_id, &version, &error, &application, &ago];
        bounded("announcing the replica", client.query_opt(&sql, &parameters)).await.map(drop)
    }
}

/// Whether the session of the row `r` is open. Every role may see as much of every session.
pub(crate) const CONNECTED: &str = "SELECT FROM pg_catalog.pg_stat_activity a
    WHERE a.pid = r.pid AND a.datname = pg_catalog.current_database()";
