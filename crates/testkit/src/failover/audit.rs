//! Every write of the cursor row, seen from the database: who made it, and under which token.

use tokio_postgres::Client;

use super::Failure;
use crate::history::RowWrite;

/// In the writer's own transaction, under the row's lock, so the numbers are in the order of the writes. A write that
/// the fence refused changes no row, and is recorded without a token.
const INSTALL: &str = r#"
CREATE SCHEMA audit;
CREATE TABLE audit.writes (id bigserial PRIMARY KEY, session int NOT NULL, token bigint);
CREATE FUNCTION audit.record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit.writes (session, token) VALUES (pg_backend_pid(), (SELECT n.token FROM new_rows n));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON dapper_ticks.cursors
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit.record();
"#;

/// What the audit saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Those that took effect.
    pub(super) writes: Vec<RowWrite>,
    /// How many by a session that once held the row changed nothing.
    pub(super) refused: usize,
}

/// Starts recording. The input's schema must be there.
pub(super) async fn install(client: &Client) -> Result<(), Failure> {
    Ok(client.batch_execute(INSTALL).await?)
}

/// What was recorded so far. A session that never had the row is only making its statements ready.
pub(super) async fn read(client: &Client) -> Result<Audit, Failure> {
    let mut audit = Audit::default();
    for row in client.query("SELECT session, token FROM audit.writes ORDER BY id", &[]).await? {
        match row.get::<_, Option<i64>>(1) {
            Some(token) => {
                audit.writes.push(RowWrite { session: row.get(0), token: u64::try_from(token)? });
            }
            None => {
                let had_it = audit.writes.iter().any(|write| write.session == row.get::<_, i32>(0));
                audit.refused += usize::from(had_it);
            }
        }
    }
    Ok(audit)
}
