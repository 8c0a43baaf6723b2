//! [`LockStore`](dapper_lock::LockStore) on PostgreSQL: leases in a table, and takeover in milliseconds when a
//! holder's process dies. What it does not do: pool connections, or read wall clocks of clients.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use dapper_lock::{LeaseConfig, LockManager, Resource};
//! use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = "postgres://dapper@db.example/orders".parse()?;
//! let store = PostgresLockStore::new(connection, PostgresLockOptions::default());
//! let manager = LockManager::new(Arc::new(store), LeaseConfig::from_ttl(Duration::from_secs(10))?);
//! let lease = manager.acquire(&Resource::new("orders_input")?).await?;
//! # lease.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The row decides
//!
//! A resource has one row, for ever: the last token, who holds it, until when by the *server's* clock. A grant is one
//! statement that locks the row, looks at it as it then is, and adds one to the token; renewing and releasing name
//! resource, token and holder. So grants of a resource are one after the other, and no token is issued twice.
//!
//! # The session lock lets a standby be quick
//!
//! A holder does everything for a resource in one session of its own and keeps an advisory lock in it, the *session
//! lock*. A standby waits for that lock, in transactions of 1.75 s. It gets it when the holder releases, and also when the
//! holder's process dies: the server then ends the session.
//!
//! # Why there are never two holders
//!
//! A grant to B, while A's lease has neither been released nor run out, needs all of: B's session has the session
//! lock; the row says that A's session had it (`session`); the server has not restarted since; the row's server
//! process is not B's own. Call the moment of the row lock *t*.
//!
//! 1. The row says `session` only if the statement that wrote it ran in A's session while that had the lock: `session`
//!    is written by A's grant and A's renewals alone, from what A's session knows it has, and A gives the lock back
//!    only when it has stopped trusting its lease: after its release, or after a refused renewal.
//! 2. At *t* B's session has the lock, so A's session has not. With 1, A's session has ended before *t*.
//! 3. A session that has ended ends its lease at A: the client sees the closed connection, which
//!    [`ended`](dapper_lock::LockStore::ended) reports, and no renewal ever uses another session. If A is cut off and
//!    can't see it, the server ended the session because A was silent; it is told to do so not before the time to
//!    live, counted from A's last message, has passed, and A's trust, counted from when that was sent, ended earlier.
//! 4. A restarted server, or a promoted one, has no sessions of the last holder, whether or not that knows; the rows'
//!    `server_started_at` then differs, and the time to live decides.
//! 5. Somebody who has the lock meets a row without `session` (its holder was granted the resource by time, while an
//!    older half-open session still had the lock): refused, and the lock is given back at once. The holder takes it
//!    with one of its next renewals and only then writes `session`.
//! 6. A pooler that shares sessions could give the same server session, lock included, to A and B, or end it without
//!    A noticing. It is looked for at the start, by two connections that ask for their server process in turns, and
//!    with every later statement; behind one the session lock is neither taken nor waited for.
//!
//! Between the end of A's session on the server and the moment that A sees it, B could already hold: so a grant that
//! rests on the end of a session alone is acted upon 8 ms later, which is long for a packet and a thread that waits for
//! it, but no proof. Nor is there any when somebody ends A's session by hand while A is cut off, or when the server's
//! clock jumps. A promoted standby that had not received everything may issue a token again. Against all of these,
//! whatever is protected must compare tokens; a lease alone can't.
//!
//! # What it costs the server
//!
//! One connection per holder and per standby of each resource, one row update per renewal. A waiting standby sends
//! three statements for each time that it finds the lease renewed, and runs a transaction for each 1.75 s that it waits:
//! well below one a second. It holds back vacuum's horizon for these 1.75 s at the longest.
//!
//! The table is made on first use, in a schema of its own, under a transaction's advisory lock. Where it is there
//! already, the role needs `USAGE` on the schema and `SELECT, INSERT, UPDATE` on the table, and nothing else.

#[macro_use]
mod failpoint;

mod error;
mod install;
mod lease;
mod options;
mod session;
mod sql;
mod store;

pub use error::PostgresLockError;
pub use options::{PostgresLockOptions, SchemaName, SchemaNameError};
pub use store::PostgresLockStore;
