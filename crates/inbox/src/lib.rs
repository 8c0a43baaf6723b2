//! An inbox on PostgreSQL: whoever consumes events learns, inside the transaction in which it writes, whether an event is
//! new to it. What it writes then takes effect once, however often the event is delivered.
//!
//! The inbox is a function in a schema of its own, [`INSTALL_SQL`], which consumers in every language can call:
//! `dapper_inbox.accept(event_id, input, token, consumer)`. This crate is a thin layer over it. It depends on nothing else of
//! dapper's: a webhook receiver can use it with what came in the headers.
//!
//! What it does not do: it opens no connection and begins, commits and rolls back no transaction. It knows only effects
//! inside that transaction; a mail that is sent meanwhile is sent again when the transaction is rolled back. It assumes
//! PostgreSQL 13 or newer, and that ids are remembered (for the *retention*, seven days unless changed) longer than an event
//! can come again.
//!
//! ```no_run
//! use dapper_inbox::{Accepted, Inbox, InboxOptions, Incoming};
//!
//! # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let inbox = Inbox::new(InboxOptions { consumer: "billing".into(), ..InboxOptions::default() })?;
//! inbox.install(client).await?; // once, or at each start
//!
//! let event = Incoming::new("6f0c31c8-3c0f-4f0e-a6d8-0d5b6d1b5f5e/0", "orders_input").with_token(7);
//! let transaction = client.transaction().await?;
//! match inbox.accept(&transaction, &event).await? {
//!     Accepted::New => {
//!         transaction.execute("UPDATE totals SET orders = orders + 1", &[]).await?;
//!         transaction.commit().await?;
//!     }
//!     Accepted::Seen => transaction.rollback().await?,
//! }
//! # Ok(())
//! # }
//! ```

mod error;
mod inbox;
mod names;
mod sql;

pub use error::InboxError;
pub use inbox::{Accepted, Inbox, InboxOptions, Incoming};
pub use names::{ConsumerName, NameError, SchemaName};
pub use sql::{INSTALL_SQL, STALE_TOKEN};
