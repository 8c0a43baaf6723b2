//! What is done to the row and the session lock of one resource, in which order.

use std::time::Duration;

use dapper_lock::{FencingToken, HeldBy, HolderId, Renewal, Resource, Term, TryAcquire};
use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::error::PostgresLockError;
use crate::session::{Parameter, SLICE, Session};
use crate::sql::{self, Statements};

type Result<T, E = PostgresLockError> = std::result::Result<T, E>;

/// How often one try follows a resource that is free whenever it looks and taken whenever it grabs.
const MAX_ROUNDS: u32 = 10;
/// How long a fresh holder waits for the session lock that somebody in passing has.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a holder that lives may take to notice that its session has ended: when the end of the session is all that a
/// grant rests on, it is acted upon this much later.
const NOTICE: Duration = Duration::from_millis(8);
/// How much longer than the server's own limit an answer may take.
const GRACE: Duration = Duration::from_secs(1);

/// How a resource stands.
pub(crate) enum Standing {
    Free,
    Held { held_by: HeldBy, holder_has_lock: bool },
}

/// Tries to get the resource on this session.
///
/// After an error the session must be dropped: what it holds is not known.
pub(crate) async fn grant(
    session: &mut Session,
    statements: &Statements,
    key: i64,
    resource: &Resource,
    holder: &HolderId,
    ttl: Duration,
) -> Result<TryAcquire> {
    for _ in 0..MAX_ROUNDS {
        // Who waited for the session lock and got it need not look: something has happened.
        if session.locked && session.term.is_none() {
            if let Some(token) = insert(session, statements, resource, holder, ttl).await? {
                return Ok(TryAcquire::Granted(token));
            }
            // The holder is alive and without the lock, which it takes with its next renewal.
            unlock(session, key).await?;
        }
        if let Standing::Held { held_by, holder_has_lock } = standing(session, statements, resource).await? {
            if session.term.is_some_and(|token| token != held_by.token) {
                session.term = None;
                unlock(session, key).await?;
            }
            session.holder_has_lock = holder_has_lock;
            return Ok(TryAcquire::Held(held_by));
        }
        session.term = None;
        try_lock(session, key).await?;
        if let Some(token) = insert(session, statements, resource, holder, ttl).await? {
            let term = Term { resource: resource.clone(), holder: *holder, token };
            settle(session, statements, key, &term, ttl).await?;
            return Ok(TryAcquire::Granted(token));
        }
    }
    Err(PostgresLockError::Contended { rounds: MAX_ROUNDS })
}

/// Renews the very term on the session that it was granted on.
pub(crate) async fn renew(
    session: &mut Session,
    statements: &Statements,
    key: i64,
    term: &Term,
    ttl: Duration,
) -> Result<Renewal> {
    try_lock(session, key).await?;
    if update(session, statements, term, ttl).await? {
        return Ok(Renewal::Renewed);
    }
    session.term = None;
    unlock(session, key).await?;
    Ok(Renewal::NotHolder)
}

/// Frees the resource from the very term, on any session.
pub(crate) async fn release(session: &Session, statements: &Statements, term: &Term) -> Result<()> {
    let (resource, holder) = (term.resource.as_str(), term.holder.to_string());
    let token = token_to_sql(term.token)?;
    let parameters: [Parameter<'_>; 3] =
        [(&resource, Type::TEXT), (&token, Type::INT8), (&holder, Type::TEXT)];
    match session.run("release the lease", &statements.release, &parameters).await {
        // Without a table there is no lease.
        Err(error) if error.is_not_installed() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// How the resource stands; old news on arrival.
pub(crate) async fn standing(
    session: &Session,
    statements: &Statements,
    resource: &Resource,
) -> Result<Standing> {
    let resource = resource.as_str();
    let rows = session.run("look at the lease", &statements.held, &[(&resource, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(Standing::Free) };
    session.check_backend(row.get(4))?;
    let (Some(holder), remaining) = (row.get::<_, Option<&str>>(1), row.get::<_, f64>(2)) else {
        return Ok(Standing::Free);
    };
    if remaining <= 0.0 {
        return Ok(Standing::Free);
    }
    let garbage = |_| PostgresLockError::Garbage { column: "holder", text: holder.to_owned() };
    let held_by = HeldBy {
        holder: holder.parse().map_err(garbage)?,
        token: token_from_sql(row)?,
        remaining: Duration::try_from_secs_f64(remaining).unwrap_or(Duration::MAX),
    };
    Ok(Standing::Held { held_by, holder_has_lock: row.get(3) })
}

/// Waits for the session lock for at most `limit`, in one call and many slices; true when it was had.
pub(crate) async fn wait_for_lock(session: &mut Session, key: i64, limit: Duration) -> Result<bool> {
    if session.locked {
        return Ok(true);
    }
    let wait = sql::wait_for_session_lock(key, &slices(limit));
    let task = "wait for the session lock";
    // Both are sent at once; the server runs them one after the other.
    let (waited, row) = tokio::join!(
        session.batch_within(limit + GRACE, task, &wait),
        session.one_within(limit + GRACE, task, sql::WAS_LOCKED),
    );
    waited?;
    let row = row?;
    session.check_backend(row.get(1))?;
    session.locked = row.get(0);
    Ok(session.locked)
}

/// A wait of `limit` in slices, none of which holds back vacuum for long.
fn slices(limit: Duration) -> Vec<u128> {
    let (mut rest, mut slices) = (limit, Vec::new());
    while rest >= Duration::from_millis(1) {
        let slice = rest.min(SLICE);
        slices.push(slice.as_millis());
        rest -= slice;
    }
    slices
}

/// Frees the resource from the session's own term, and gives the session lock back in the same breath: the server runs
/// one after the other, and whoever holds the term has stopped trusting it before.
pub(crate) async fn release_and_unlock(
    session: &mut Session,
    statements: &Statements,
    key: i64,
    term: &Term,
) -> Result<()> {
    if !session.locked {
        return release(session, statements, term).await;
    }
    let parameters: [Parameter<'_>; 1] = [(&key, Type::INT8)];
    let (released, unlocked) = tokio::join!(
        release(session, statements, term),
        session.run("unlock the session lock", sql::SESSION_UNLOCK, &parameters),
    );
    released?;
    unlocked?;
    session.locked = false;
    Ok(())
}

/// Gives the session lock back, if it is had.
pub(crate) async fn unlock(session: &mut Session, key: i64) -> Result<()> {
    if session.locked {
        session.run("unlock the session lock", sql::SESSION_UNLOCK, &[(&key, Type::INT8)]).await?;
        session.locked = false;
    }
    Ok(())
}

/// Takes the session lock if nobody has it.
async fn try_lock(session: &mut Session, key: i64) -> Result<()> {
    if session.locked || session.shared {
        return Ok(());
    }
    let row = session.one("try the session lock", sql::TRY_SESSION_LOCK, &[(&key, Type::INT8)]).await?;
    session.check_backend(row.get(1))?;
    session.locked = row.get(0);
    Ok(())
}

/// Gives a fresh holder the session lock, when a standby that just looked had it at the moment of the grant: its next
/// renewal would, but until then its death would go unnoticed.
async fn settle(
    session: &mut Session,
    statements: &Statements,
    key: i64,
    term: &Term,
    ttl: Duration,
) -> Result<()> {
    if !session.locked && !session.shared && wait_for_lock(session, key, SETTLE.min(ttl / 4)).await? {
        update(session, statements, term, ttl).await?;
    }
    Ok(())
}

/// Takes the resource if it can be had, on a session that has no term of its own.
async fn insert(
    session: &mut Session,
    statements: &Statements,
    resource: &Resource,
    holder: &HolderId,
    ttl: Duration,
) -> Result<Option<FencingToken>> {
    let (resource, holder, ttl_ms) = (resource.as_str(), holder.to_string(), millis(ttl));
    // The lock says that an earlier holder is dead only because no term of this very session has it.
    let holder_is_dead = session.locked && session.term.is_none();
    let parameters: [Parameter<'_>; 5] = [
        (&resource, Type::TEXT),
        (&holder, Type::TEXT),
        (&ttl_ms, Type::FLOAT8),
        (&session.locked, Type::BOOL),
        (&holder_is_dead, Type::BOOL),
    ];
    let rows = session.run("acquire the lease", &statements.grant, &parameters).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    session.check_backend(row.get(1))?;
    session.term = Some(token_from_sql(row)?);
    if row.get(2) {
        sleep(NOTICE).await;
        // A server that is shutting down ends all sessions, one after the other: this one, too, by now.
        session.check_backend(session.backend().await?)?;
    }
    Ok(session.term)
}

/// Lets the very term run on; false when it is over.
async fn update(session: &Session, statements: &Statements, term: &Term, ttl: Duration) -> Result<bool> {
    let (resource, holder, ttl_ms) = (term.resource.as_str(), term.holder.to_string(), millis(ttl));
    let token = token_to_sql(term.token)?;
    let parameters: [Parameter<'_>; 5] = [
        (&resource, Type::TEXT),
        (&token, Type::INT8),
        (&holder, Type::TEXT),
        (&ttl_ms, Type::FLOAT8),
        (&session.locked, Type::BOOL),
    ];
    let rows = session.run("renew the lease", &statements.renew, &parameters).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    session.check_backend(row.get(0))?;
    Ok(true)
}

/// For an interval in SQL, which takes no integer wide enough.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The first column as a token.
fn token_from_sql(row: &Row) -> Result<FencingToken> {
    let number: i64 = row.get(0);
    let token = u64::try_from(number).ok().and_then(FencingToken::new);
    token.ok_or_else(|| PostgresLockError::Garbage { column: "token", text: number.to_string() })
}

fn token_to_sql(token: FencingToken) -> Result<i64> {
    let garbage = |_| PostgresLockError::Garbage { column: "token", text: token.to_string() };
    i64::try_from(token.get()).map_err(garbage)
}
