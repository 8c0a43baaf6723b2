//! A naive outbox: a trigger that writes a row for each changed row, and a reader that remembers a position.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use dapper_testkit::Database;
use tokio_postgres::Client;

use crate::fixture::{Dapper, Recorder, WAIT, install};

/// The table and its trigger.
pub(crate) const OUTBOX: &str = "
    CREATE TABLE outbox (
        seq bigserial PRIMARY KEY,
        xid text NOT NULL DEFAULT pg_current_xact_id()::text,
        at timestamptz NOT NULL DEFAULT now(),
        id text NOT NULL,
        op text NOT NULL
    );
    CREATE FUNCTION write_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO outbox (id, op) VALUES (COALESCE(NEW.id, OLD.id)::text, lower(TG_OP));
        RETURN NULL;
    END $$;
    CREATE TRIGGER write_outbox AFTER INSERT OR UPDATE OR DELETE ON orders
        FOR EACH ROW EXECUTE FUNCTION write_outbox()";

/// Something that handles the changes of a database.
#[async_trait]
pub(crate) trait Consumer: Send {
    /// The ids handled up to now, once this had every chance to handle `wanted` of them.
    async fn handled(&mut self, wanted: usize) -> Result<Vec<String>>;
}

/// Reads what is after a position, and takes a position from what it read.
pub(crate) struct Reader {
    client: Client,
    /// Gives a position and an id per row, in the order of the positions; its parameter is the position before.
    statement: &'static str,
    /// Gives the next position where the rows do not.
    then: Option<&'static str>,
    position: String,
    handled: Vec<String>,
}

impl Reader {
    pub(crate) async fn new(
        database: &Database,
        statement: &'static str,
        then: Option<&'static str>,
        position: &str,
    ) -> Result<Self> {
        let client = database.connect().await?;
        Ok(Self { client, statement, then, position: position.to_owned(), handled: Vec::new() })
    }

    /// Up to where it has read.
    pub(crate) fn position(&self) -> &str {
        &self.position
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn handled(&mut self, _wanted: usize) -> Result<Vec<String>> {
        for row in self.client.query(self.statement, &[&self.position]).await? {
            self.position = row.get(0);
            self.handled.push(row.get(1));
        }
        if let Some(then) = self.then {
            self.position = self.client.query_one(then, &[]).await?.get(0);
        }
        Ok(self.handled.clone())
    }
}

/// Dapper, which handles by itself.
pub(crate) struct Ours {
    dapper: Dapper,
    recorder: Arc<Recorder>,
    /// How long it is waited for; not so long any more when that was in vain once.
    patience: Duration,
}

impl Ours {
    pub(crate) async fn start(database: &Database) -> Result<Self> {
        install(database).await?;
        let recorder = Recorder::new();
        let dapper = Dapper::start(database, Arc::clone(&recorder) as _).await?;
        Ok(Self { dapper, recorder, patience: WAIT })
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.dapper.stop().await
    }
}

#[async_trait]
impl Consumer for Ours {
    async fn handled(&mut self, wanted: usize) -> Result<Vec<String>> {
        if !self.recorder.until(self.patience, |recorder| recorder.handled().len() >= wanted).await {
            self.patience = Duration::from_millis(100);
        }
        Ok(self.recorder.ids())
    }
}
