//! The cursor row: sealed at takeover, written before every hand-out, fenced by the token in it.

use tokio_postgres::{Client, Row, Statement};

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::progress::{Claimed, Position};
use crate::session::{Server, bounded};
use crate::snapshot::Snapshot;

/// The statements on the cursor row, prepared on one session, for one holder.
pub(crate) struct Cursor {
    save: Statement,
    token: i64,
    version: i64,
    schema: String,
}

/// What sealing found.
pub(crate) struct Sealed {
    pub(crate) cursor: Cursor,
    pub(crate) position: Position,
    /// The timeline the row was written on, when the server was promoted since.
    pub(crate) promoted_from: Option<i64>,
}

impl Cursor {
    /// Takes the row over with `token`: from here on no holder of a lower one can write it.
    ///
    /// The attempt is counted now, before anything is delivered, so that a process which dies of an event is counted
    /// too. Takes a row lock on the cursor row.
    pub(crate) async fn seal(
        client: &Client,
        schema: &str,
        server: &Server,
        token: u64,
    ) -> Result<Sealed, PostgresError> {
        let quoted = quote_identifier(schema);
        let ours = i64::try_from(token)
            .map_err(|_| PostgresError::Unexpected { what: "the fencing token", value: token.to_string() })?;
        let found = bounded(
            "reading the cursor",
            client.query_one(
                &format!(
                    "SELECT system_identifier, timeline, token FROM {quoted}.cursors WHERE partition = 0"
                ),
                &[],
            ),
        )
        .await?;
        let (system_identifier, timeline, sealed): (i64, i64, i64) =
            (found.get(0), found.get(1), found.get(2));
        if system_identifier != server.system_identifier {
            return Err(PostgresError::ForeignCluster {
                schema: schema.to_owned(),
                expected: system_identifier,
                found: server.system_identifier,
            });
        }
        let fenced = || PostgresError::Fenced { sealed: sealed.unsigned_abs(), ours: token };
        let promoted = timeline != server.timeline;
        let row = bounded(
            "sealing the cursor",
            client.query_opt(&seal_sql(&quoted), &[&ours, &server.timeline, &promoted]),
        )
        .await?
        .ok_or_else(fenced)?;
        let save = bounded("preparing", client.prepare(&save_sql(&quoted))).await?;
        Ok(Sealed {
            position: position(&row)?,
            cursor: Self { save, token: ours, version: row.get("version"), schema: schema.to_owned() },
            promoted_from: promoted.then_some(timeline),
        })
    }

    /// Writes the row in one synchronous commit. After `Ok` nothing that a crash of the server could undo is visible to
    /// this holder's reads so far.
    ///
    /// # Errors
    /// [`PostgresError::Fenced`] when another holder has sealed the row. After any other error it is unknown whether the
    /// row was written: the session must be given up and the row read again.
    pub(crate) async fn save(&mut self, client: &Client, position: &Position) -> Result<(), PostgresError> {
        let prev = position.prev.to_string();
        let target = position.target.as_ref().map(ToString::to_string);
        let claimed = position.claimed.as_ref().map(|claimed| claimed.snapshot.to_string());
        let claimed_seq = position.claimed.as_ref().map_or(0, |claimed| claimed.seq);
        let attempt = i32::try_from(position.attempt).unwrap_or(i32::MAX);
        let written = bounded(
            "writing the cursor",
            client.execute(
                &self.save,
                &[
                    &prev,
                    &target,
                    &position.done,
                    &claimed,
                    &claimed_seq,
                    &attempt,
                    &self.token,
                    &self.version,
                ],
            ),
        )
        .await?;
        if written == 1 {
            self.version += 1;
            return Ok(());
        }
        Err(self.fenced(client).await)
    }

    /// The token that everything of this holder carries.
    pub(crate) fn token(&self) -> i64 {
        self.token
    }

    /// The error that says who has taken over.
    pub(crate) async fn fenced(&self, client: &Client) -> PostgresError {
        let sql = format!("SELECT token FROM {}.cursors WHERE partition = 0", quote_identifier(&self.schema));
        match bounded("reading the cursor", client.query_opt(&sql, &[])).await {
            Ok(row) => PostgresError::Fenced {
                sealed: row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()),
                ours: self.token.unsigned_abs(),
            },
            Err(error) => error,
        }
    }
}

/// `WHERE token <` is the fence on sealing. After a promotion everything visible now may have been delivered by the old
/// primary without this server knowing, so all of it counts as claimed.
fn seal_sql(schema: &str) -> String {
    format!(
        "UPDATE {schema}.cursors SET
            token = $1,
            timeline = $2,
            version = version + 1,
            attempt = CASE WHEN $3 THEN attempt + 2 WHEN claimed IS NULL THEN 0 ELSE attempt + 1 END,
            claimed = CASE WHEN $3 THEN pg_catalog.pg_current_snapshot() ELSE claimed END,
            claimed_seq = CASE WHEN $3 THEN (SELECT last_value FROM {schema}.change_sets_seq) ELSE claimed_seq END
         WHERE partition = 0 AND token < $1
         RETURNING prev::text, target::text, done, claimed::text, claimed_seq, attempt, version"
    )
}

fn save_sql(schema: &str) -> String {
    format!(
        "UPDATE {schema}.cursors SET
            prev = $1::text::pg_catalog.pg_snapshot,
            target = $2::text::pg_catalog.pg_snapshot,
            done = $3,
            claimed = $4::text::pg_catalog.pg_snapshot,
            claimed_seq = $5,
            attempt = $6,
            version = version + 1
         WHERE partition = 0 AND token = $7 AND version = $8"
    )
}

fn position(row: &Row) -> Result<Position, PostgresError> {
    let snapshot = |text: String| {
        text.parse::<Snapshot>().map_err(|error| PostgresError::Unexpected {
            what: "a snapshot in the cursor row",
            value: error.text,
        })
    };
    let claimed: Option<String> = row.get("claimed");
    let claimed = claimed.map(snapshot).transpose()?;
    let attempt: i32 = row.get("attempt");
    Ok(Position {
        prev: snapshot(row.get("prev"))?,
        target: row.get::<_, Option<String>>("target").map(snapshot).transpose()?,
        done: row.get("done"),
        claimed: claimed.map(|snapshot| Claimed { snapshot, seq: row.get("claimed_seq") }),
        attempt: attempt.unsigned_abs(),
    })
}
