//! The inbox as a consumer calls it.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Transaction};

use crate::error::InboxError;
use crate::names::{ConsumerName, NameError, SchemaName};
use crate::sql;

/// What an inbox can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxOptions {
    /// Who consumes. Each event is new once to each consumer, and tokens are compared within one: two that must not share
    /// (two pipelines that write into one database) need two names.
    pub consumer: String,
    /// The schema in which the inbox is; `None` is `dapper_inbox`.
    pub schema: Option<SchemaName>,
    /// How long an accepted event's id is remembered at least. [`Inbox::install`] makes the installed retention longer where
    /// it is shorter than this, never the other way round: it is shared by all consumers. `None` leaves it, seven days to
    /// begin with. It must be longer than an event can come again.
    pub retention: Option<Duration>,
}

/// An inbox in a database, for one consumer. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Inbox {
    consumer: ConsumerName,
    schema: SchemaName,
    retention: Option<Duration>,
    accept: String,
}

/// What identifies an event, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    event_id: &'a str,
    input: &'a str,
    token: Option<u64>,
}

/// What the inbox says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// It was not accepted before. Do what is to be done in this transaction, and commit it.
    New,
    /// A committed transaction has accepted it. Do nothing.
    Seen,
}

impl<'a> Incoming<'a> {
    /// The event `event_id` (`event_id` of the event, the `idempotency-key` of a webhook), which `input` (`trigger` of the
    /// event) has delivered.
    #[must_use]
    pub fn new(event_id: &'a str, input: &'a str) -> Self {
        Self { event_id, input, token: None }
    }

    /// With the fencing token of whoever delivers it (`token` of the event, `dapper-token` of a webhook). Without one nothing
    /// is refused as stale.
    #[must_use]
    pub fn with_token(self, token: impl Into<Option<u64>>) -> Self {
        Self { token: token.into(), ..self }
    }
}

impl Inbox {
    /// An inbox; reaches out to nothing.
    ///
    /// # Errors
    /// When the consumer's name is too long or has a NUL in it.
    pub fn new(options: InboxOptions) -> Result<Self, NameError> {
        let InboxOptions { consumer, schema, retention } = options;
        let (consumer, schema) = (ConsumerName::new(consumer)?, schema.unwrap_or_default());
        let accept = sql::accept(&schema);
        Ok(Self { consumer, schema, retention, accept })
    }

    /// The schema in which it is.
    #[must_use]
    pub fn schema(&self) -> &SchemaName {
        &self.schema
    }

    /// Who consumes.
    #[must_use]
    pub fn consumer(&self) -> &ConsumerName {
        &self.consumer
    }

    /// Says whether the event is new, inside the transaction in which it is then handled.
    ///
    /// A second transaction with the same event waits here until the first has ended. The first event with a higher token
    /// waits for all transactions that have accepted one with a lower token, so let none of them stay open:
    /// `idle_in_transaction_session_timeout` is for that. Several events may be accepted in one transaction; two that accept
    /// the same ones in different orders may deadlock, which is an [`InboxError::Conflict`].
    ///
    /// Not cancel-safe in the sense that the transaction should be rolled back when the future was dropped: whether the event
    /// counts as accepted in it is then unknown.
    ///
    /// # Errors
    /// [`InboxError::StaleToken`] when a higher token has been seen of the input; [`InboxError::Conflict`], in `REPEATABLE
    /// READ` and `SERIALIZABLE` mostly, when the transaction must begin again; others when there is no inbox or no connection.
    pub async fn accept(
        &self,
        transaction: &Transaction<'_>,
        event: &Incoming<'_>,
    ) -> Result<Accepted, InboxError> {
        self.accept_in(transaction, event).await
    }

    /// The same on a client whose transaction the caller began by a statement. Outside of a transaction it is useless: the id
    /// would be remembered at once, whatever becomes of the effect.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub async fn accept_in<C: GenericClient>(
        &self,
        client: &C,
        event: &Incoming<'_>,
    ) -> Result<Accepted, InboxError> {
        let token =
            event.token.map(|token| i64::try_from(token).map_err(|_| InboxError::TokenOutOfRange { token }));
        let token = token.transpose()?;
        let consumer = self.consumer.as_str();
        let answer = client
            .query_typed(
                &self.accept,
                &[
                    (&event.event_id, Type::TEXT),
                    (&event.input, Type::TEXT),
                    (&token, Type::INT8),
                    (&consumer, Type::TEXT),
                ],
            )
            .await
            .map_err(|source| {
                let stale = event.token.map(|token| (event.input, token));
                InboxError::of("accepting an event", &self.schema, stale, source)
            })?;
        let is_new = answer.first().is_some_and(|row| row.get(0));
        Ok(if is_new { Accepted::New } else { Accepted::Seen })
    }

    /// Whether an inbox that this program knows is there. Changes and locks nothing.
    ///
    /// # Errors
    /// When the inbox there is of another layout, or the database does not answer.
    pub async fn is_installed<C: GenericClient>(&self, client: &C) -> Result<bool, InboxError> {
        let task = "looking for the inbox";
        let rows = client
            .query_typed(sql::INSTALLED, &[(&self.schema.as_str(), Type::TEXT)])
            .await
            .map_err(|source| InboxError::of(task, &self.schema, None, source))?;
        let Some(row) = rows.first() else { return Ok(false) };
        let layout: String = row.get(0);
        match layout.strip_prefix("layout ").and_then(|number| number.parse::<u32>().ok()) {
            Some(number) if number >= sql::LAYOUT => Ok(true),
            Some(_) => Ok(false),
            None => Err(InboxError::UnknownLayout { schema: self.schema.clone(), layout }),
        }
    }

    /// Makes what is not there yet, one caller at a time; safe when many start at once. Where everything is there it changes
    /// nothing and needs no right; else the role must own the schema, or be allowed to create one.
    ///
    /// # Errors
    /// When the role may not, or the database does not answer. Nothing is half installed then.
    pub async fn install(&self, client: &mut Client) -> Result<(), InboxError> {
        if !self.is_installed(client).await? {
            self.create(client).await?;
        }
        let Some(retention) = self.retention else { return Ok(()) };
        let seconds = retention.as_secs_f64();
        client
            .execute_typed(&sql::lengthen(&self.schema), &[(&seconds, Type::FLOAT8)])
            .await
            .map_err(|source| InboxError::Statement { task: "lengthening the retention", source })?;
        Ok(())
    }

    /// The statements that [`install`](Self::install) would run now, as one script to be run in one transaction; none where the
    /// inbox is there. Changes and locks nothing.
    ///
    /// # Errors
    /// As [`is_installed`](Self::is_installed).
    pub async fn plan_install<C: GenericClient>(&self, client: &C) -> Result<Option<String>, InboxError> {
        Ok((!self.is_installed(client).await?).then(|| sql::install(&self.schema)))
    }

    async fn create(&self, client: &mut Client) -> Result<(), InboxError> {
        let failed = |source| InboxError::Statement { task: "installing the inbox", source };
        // Whatever the session's default is: in one snapshot for all, another installer's work would not be seen.
        let transaction = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::ReadCommitted)
            .read_only(false)
            .start()
            .await
            .map_err(failed)?;
        transaction.batch_execute(sql::INSTALL_LOCK).await.map_err(failed)?;
        if !self.is_installed(&transaction).await? {
            transaction.batch_execute(&sql::install(&self.schema)).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// Forgets at most `most` events that are older than the retention; returns how many. It is not needed: accepting does it
    /// now and then in `READ COMMITTED`. Where all consumers use other isolation levels, call it once in a while.
    ///
    /// # Errors
    /// When the role may not (only the owner may, unless granted), or the database does not answer.
    pub async fn prune<C: GenericClient>(&self, client: &C, most: u32) -> Result<u64, InboxError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let rows = client
            .query_typed(&sql::prune(&self.schema), &[(&most, Type::INT4)])
            .await
            .map_err(|source| InboxError::of("pruning the inbox", &self.schema, None, source))?;
        let pruned: i64 = rows.first().map_or(0, |row| row.get(0));
        Ok(pruned.unsigned_abs())
    }

    /// Lets this consumer accept the tokens of `input` from the lowest on again, as is needed after the input was
    /// uninstalled and installed, or its database restored. Only when no replica of before still runs: it would no longer be
    /// refused. Returns whether a token had been seen.
    ///
    /// # Errors
    /// When the role may not (only the owner may, unless granted), or the database does not answer.
    pub async fn reset_token<C: GenericClient>(&self, client: &C, input: &str) -> Result<bool, InboxError> {
        let rows = client
            .query_typed(
                &sql::reset_token(&self.schema),
                &[(&input, Type::TEXT), (&self.consumer.as_str(), Type::TEXT)],
            )
            .await
            .map_err(|source| InboxError::of("resetting the token", &self.schema, None, source))?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}
