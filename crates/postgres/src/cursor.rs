//! The cursor row: sealed at takeover, written before every hand-out, fenced by the token in it.

use dapper_lock::{FencingToken, StoreId};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::PostgresError;
use crate::names::quote_identifier;
use crate::progress::{Claimed, Position};
use crate::session::{Server, bounded};
use crate::snapshot::Snapshot;

/// The row is mostly written at its place: by its key, each write would walk past the dead versions that an open transaction
/// keeps. Every so many writes it goes by the key, since only that lets the server clear away those that nobody keeps.
const BY_KEY_EVERY: i64 = 16;

/// The statements on the cursor row, prepared on one session.
pub(crate) struct CursorStatements {
    seal: Statement,
    save: Statement,
    save_at: Statement,
    schema: String,
}

/// What a holder seals with: a store's token, and which store's it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) token: FencingToken,
    pub(crate) store: StoreId,
}

/// The cursor row in the hands of one holder.
pub(crate) struct Cursor {
    save: Statement,
    save_at: Statement,
    /// Where the row's current version is, if that is known.
    place: Option<String>,
    token: i64,
    version: i64,
    schema: String,
    /// Events that were handled or parked since the row was sealed, and how many of them the row knows of.
    handled: i64,
    recorded: i64,
}

/// What sealing found.
pub(crate) struct Sealed {
    pub(crate) cursor: Cursor,
    pub(crate) position: Position,
    /// The timeline the row was written on, when the server was promoted since.
    pub(crate) promoted_from: Option<i64>,
    /// How many holders in a row ended while the same changes may have been in the processes' hands.
    pub(crate) crashes: u32,
}

impl CursorStatements {
    pub(crate) async fn prepare(client: &Client, schema: &str) -> Result<Self, PostgresError> {
        let quoted = quote_identifier(schema);
        let seal = bounded("preparing", client.prepare(&seal_sql(&quoted))).await?;
        let save = bounded("preparing", client.prepare(&save_sql(&quoted, false))).await?;
        let save_at = bounded("preparing", client.prepare(&save_sql(&quoted, true))).await?;
        // Run once for no row, since no token is negative: the plans are made and what they need is at hand.
        let zero = StoreId::EPHEMERAL.to_string();
        let nobody: [&(dyn ToSql + Sync); 6] = [&0_i64, &0_i64, &false, &zero, &false, &0_i64];
        bounded("warming up", client.query_opt(&seal, &nobody)).await?;
        let (prev, none) = (Snapshot { xmin: 1, xmax: 1, xip: Vec::new() }, None::<Snapshot>);
        let nothing: [&(dyn ToSql + Sync); 10] =
            [&prev, &none, &0_i64, &none, &0_i64, &0_i32, &-1_i64, &0_i64, &false, &0_i64];
        bounded("warming up", client.query_opt(&save, &nothing)).await?;
        Ok(Self { seal, save, save_at, schema: schema.to_owned() })
    }
}

impl Cursor {
    /// Takes the row over with the grant's token: from here on no holder of a lower one can write it.
    ///
    /// The attempt is counted now, before anything is delivered, so that a process which dies of an event is counted
    /// too. Takes a row lock on the cursor row. Nobody waits for the disk: the claim that comes before any delivery does.
    ///
    /// # Errors
    /// [`PostgresError::ForeignCluster`], [`PostgresError::OtherLockStore`] and [`PostgresError::Fenced`] when the row is
    /// not to be taken over with this grant.
    pub(crate) async fn seal(
        client: &Client,
        statements: CursorStatements,
        server: &Server,
        grant: Grant,
    ) -> Result<Sealed, PostgresError> {
        let CursorStatements { seal, save, save_at, schema } = statements;
        let token = to_sql(grant.token.get())?;
        let store = grant.store.to_string();
        let ephemeral = grant.store == StoreId::EPHEMERAL;
        let run = async |seal: &Statement, promoted: bool| {
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&token, &server.timeline, &promoted, &store, &ephemeral, &server.system_identifier];
            bounded("sealing the cursor", client.query_opt(seal, &parameters)).await
        };
        let mut promoted_from = None;
        let row = match run(&seal, false).await? {
            Some(row) => row,
            None => {
                let timeline = refused(client, &schema, server, grant).await?;
                promoted_from = Some(timeline);
                let sql = seal_promoted_sql(&quote_identifier(&schema));
                let seal = bounded("preparing", client.prepare(&sql)).await?;
                let fenced = || PostgresError::Fenced { sealed: 0, ours: grant.token.get() };
                run(&seal, true).await?.ok_or_else(fenced)?
            }
        };
        let (token, version) = (row.get("token"), row.get("version"));
        let cursor = Self { save, save_at, place: None, token, version, schema, handled: 0, recorded: 0 };
        let crashes = row.get::<_, i32>("crashes").unsigned_abs();
        Ok(Sealed { position: position(&row)?, cursor, promoted_from, crashes })
    }

    /// Writes the row in one synchronous commit. After `Ok` nothing that a crash of the server could undo is visible to
    /// this holder's reads so far.
    ///
    /// # Errors
    /// As [`write`](Self::write)'s.
    pub(crate) async fn save(&mut self, client: &Client, position: &Position) -> Result<(), PostgresError> {
        self.write(client, position, true).await
    }

    /// Writes the row where nothing is handed out after it. A crash of the server may undo it, and what it records comes
    /// again, marked: so nobody waits for the disk.
    ///
    /// # Errors
    /// As [`write`](Self::write)'s.
    pub(crate) async fn leave(&mut self, client: &Client, position: &Position) -> Result<(), PostgresError> {
        self.write(client, position, false).await
    }

    /// # Errors
    /// [`PostgresError::Fenced`] when another holder has sealed the row. After any other error it is unknown whether the
    /// row was written: the session must be given up and the row read again.
    async fn write(
        &mut self,
        client: &Client,
        position: &Position,
        durable: bool,
    ) -> Result<(), PostgresError> {
        let claimed = position.claimed.as_ref().map(|claimed| &claimed.snapshot);
        let claimed_seq = position.claimed.as_ref().map_or(0, |claimed| claimed.seq);
        let attempt = i32::try_from(position.attempt).unwrap_or(i32::MAX);
        let fast = !durable;
        let handled = self.handled.saturating_sub(self.recorded);
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &position.prev,
            &position.target,
            &position.done,
            &claimed,
            &claimed_seq,
            &attempt,
            &self.token,
            &self.version,
            &fast,
            &handled,
        ];
        let mut written = None;
        let place = self.place.take();
        if let Some(place) = place.filter(|_| self.version % BY_KEY_EVERY != 0) {
            let parameters: Vec<_> = parameters.into_iter().chain([&place as &(dyn ToSql + Sync)]).collect();
            written = bounded("writing the cursor", client.query_opt(&self.save_at, &parameters)).await?;
        }
        if written.is_none() {
            // It has moved, or is another's.
            written = bounded("writing the cursor", client.query_opt(&self.save, &parameters)).await?;
        }
        let Some(row) = written else { return Err(self.fenced(client).await) };
        self.place = Some(row.get(0));
        self.version += 1;
        self.recorded = self.handled;
        Ok(())
    }

    /// How many events this holder has seen handled or parked; recorded with the next write of the row.
    pub(crate) fn count(&mut self, handled: u64) {
        self.handled = i64::try_from(handled).unwrap_or(i64::MAX);
    }

    /// Records [what was counted](Self::count) and nothing else, for those who look while a batch takes long. A crash may
    /// undo it. Locks the row.
    ///
    /// # Errors
    /// [`PostgresError::Fenced`] when another holder has sealed the row.
    pub(crate) async fn record_count(&mut self, client: &Client) -> Result<(), PostgresError> {
        let sql = format!(
            "UPDATE {}.cursors SET handled = handled + $1, moved_at = pg_catalog.clock_timestamp()
              WHERE partition = 0 AND token = $2
             RETURNING pg_catalog.set_config('synchronous_commit', 'off', true)",
            quote_identifier(&self.schema)
        );
        let handled = self.handled - self.recorded;
        if handled <= 0 {
            return Ok(());
        }
        let written =
            bounded("recording the count", client.query_opt(&sql, &[&handled, &self.token])).await?;
        self.recorded = self.handled;
        if written.is_some() { Ok(()) } else { Err(self.fenced(client).await) }
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

/// Why the row could not be sealed, as an error; or the timeline that it was written on, when another one is all that
/// was in the way.
async fn refused(client: &Client, schema: &str, server: &Server, grant: Grant) -> Result<i64, PostgresError> {
    let sql = format!(
        "SELECT system_identifier, timeline, token, token_base, lock_store::text
           FROM {}.cursors WHERE partition = 0",
        quote_identifier(schema)
    );
    let row = bounded("reading the cursor", client.query_one(&sql, &[])).await?;
    let (system_identifier, timeline): (i64, i64) = (row.get(0), row.get(1));
    if system_identifier != server.system_identifier {
        return Err(PostgresError::ForeignCluster {
            schema: schema.to_owned(),
            expected: system_identifier,
            found: server.system_identifier,
        });
    }
    let (sealed, base): (i64, i64) = (row.get(2), row.get(3));
    let sealed_by: Option<&str> = row.get(4);
    let ours = grant.store.to_string();
    if let Some(sealed_by) = sealed_by.filter(|sealed_by| *sealed_by != ours) {
        return Err(PostgresError::OtherLockStore {
            schema: schema.to_owned(),
            sealed_by: sealed_by.to_owned(),
            ours,
        });
    }
    let token = base.saturating_add(to_sql(grant.token.get())?);
    if token <= sealed && grant.store != StoreId::EPHEMERAL {
        return Err(PostgresError::Fenced { sealed: sealed.unsigned_abs(), ours: token.unsigned_abs() });
    }
    Ok(timeline)
}

fn to_sql(token: u64) -> Result<i64, PostgresError> {
    i64::try_from(token)
        .map_err(|_| PostgresError::Unexpected { what: "the fencing token", value: token.to_string() })
}

/// `WHERE token <` is the fence on sealing. The tokens of a store that dies with its process can't be compared with
/// those of the next process: whoever comes with one is taken to be alone. After a promotion everything visible now may
/// have been delivered by the old primary without this server knowing, so all of it counts as claimed.
fn seal_sql(schema: &str) -> String {
    if is_broken!(Seal) {
        return format!(
            "SELECT prev::text, target::text, done, claimed::text, claimed_seq, attempt, crashes, version, token
               FROM {schema}.cursors
              WHERE partition = 0 AND system_identifier = $6 AND (timeline = $2 OR $3)
                AND $1::int8 IS NOT NULL AND $4::text IS NOT NULL AND $5::bool IS NOT NULL"
        );
    }
    format!(
        "UPDATE {schema}.cursors SET
            token = CASE WHEN $5 THEN GREATEST(token + 1, token_base + $1) ELSE token_base + $1 END,
            lock_store = $4::text::uuid,
            timeline = $2,
            sealed_at = pg_catalog.clock_timestamp(),
            version = version + 1,
            crashes = CASE WHEN $3 OR claimed IS NULL THEN 0 ELSE crashes + 1 END,
            attempt = CASE WHEN $3 THEN attempt + 2 WHEN claimed IS NULL THEN 0 ELSE attempt + 1 END,
            claimed = CASE WHEN $3 THEN pg_catalog.pg_current_snapshot() ELSE claimed END,
            claimed_seq = CASE WHEN $3 THEN (SELECT last_value FROM {schema}.change_sets_seq) ELSE claimed_seq END
         WHERE partition = 0
           AND system_identifier = $6
           AND (timeline = $2 OR $3)
           AND (lock_store IS NULL OR lock_store = $4::text::uuid)
           AND ($5 OR token < token_base + $1)
         RETURNING prev::text, target::text, done, claimed::text, claimed_seq, attempt, crashes, version, token,
                   pg_catalog.set_config('synchronous_commit', 'off', true)"
    )
}

/// As [`seal_sql`]. What is parked and untried may have been tried by the old primary's holder, so that a try from now on
/// is not its first; in the same statement, since whoever comes next takes the promotion for known.
fn seal_promoted_sql(schema: &str) -> String {
    format!(
        "WITH sealed AS ({}),
              marked AS (UPDATE {schema}.parked SET attempt = 1 WHERE attempt < 1 AND EXISTS (SELECT FROM sealed))
         SELECT * FROM sealed",
        seal_sql(schema)
    )
}

/// By its key, or at a place, where no dead version is in the way. Takes the row lock.
fn save_sql(schema: &str, at_place: bool) -> String {
    let place = if at_place { "ctid = $11::text::tid AND" } else { "" };
    let fence = if is_broken!(Fence) {
        "$7::int8 >= 0 AND $8::int8 IS NOT NULL"
    } else {
        "token = $7 AND version = $8"
    };
    format!(
        "UPDATE {schema}.cursors SET
            prev = $1::pg_catalog.pg_snapshot,
            target = $2::pg_catalog.pg_snapshot,
            done = $3,
            claimed = $4::pg_catalog.pg_snapshot,
            claimed_seq = $5,
            attempt = $6,
            crashes = CASE WHEN $6 <= 1 THEN 0 ELSE crashes END,
            handled = handled + $10,
            moved_at = CASE WHEN $10 > 0 THEN pg_catalog.clock_timestamp() ELSE moved_at END,
            version = version + 1
         WHERE {place} partition = 0 AND {fence}
         RETURNING ctid::text, CASE WHEN $9 THEN pg_catalog.set_config('synchronous_commit', 'off', true) END"
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
