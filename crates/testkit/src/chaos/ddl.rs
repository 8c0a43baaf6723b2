//! The application changes its tables while it runs: makes them, adds columns, renames a key, loses a trigger.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::ledger::{Ledger, MAX_CHANGES, Table};
use super::writers::{Pace, Target, Writer};
use crate::connect;

/// No other writer has this number.
const WRITER: u32 = 90;
const ROWS: u32 = 20;
/// How long a trigger that was dropped by hand may be gone.
const REPAIR_LIMIT: Duration = Duration::from_secs(60);

/// Who does this.
pub(super) struct Ddl {
    writer: Writer,
    /// Tables that still may change, each with its block.
    tables: Vec<(Table, usize)>,
    made: u16,
    timeline: u32,
}

impl std::fmt::Debug for Ddl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ddl").field("made", &self.made).finish_non_exhaustive()
    }
}

impl Ddl {
    pub(super) fn new(seed: u64, pace: Arc<Pace>) -> Self {
        let writer = Writer::new(WRITER, Rng::with_seed(seed), pace);
        Self { writer, tables: Vec::new(), made: 0, timeline: 0 }
    }

    pub(super) fn into_ledger(self) -> Ledger {
        self.writer.into_ledger()
    }

    /// Makes one change, and writes rows of the table at once; false when nothing came of it.
    pub(super) async fn change(&mut self, target: &Target, choice: u32) -> bool {
        let Ok(client) = connect(&target.url).await else { return false };
        if self.timeline != target.timeline {
            self.tables.clear();
            self.timeline = target.timeline;
        }
        let full = |blocks: &Ledger, index: usize| blocks.blocks[index].changes.len() + 4 > MAX_CHANGES;
        self.tables.retain(|(_, block)| !full(self.writer.ledger(), *block));
        if self.tables.len() < 2 || choice.is_multiple_of(4) {
            return self.make_table(&client).await;
        }
        let (table, block) = self.tables.swap_remove(choice as usize / 4 % self.tables.len());
        let name = table.name();
        let done = match choice % 4 {
            1 => {
                let sql = format!("ALTER TABLE {name} ADD COLUMN extra_{} text DEFAULT 'x'", choice % 1000);
                // The same twice is the application's own mistake.
                client.batch_execute(&sql).await.is_ok() && self.write(&client, table, block, "id").await
            }
            2 => {
                let there = format!("ALTER TABLE {name} RENAME COLUMN id TO renamed");
                let back = format!("ALTER TABLE {name} RENAME COLUMN renamed TO id");
                self.writer.define(&client, &there).await
                    && self.write(&client, table, block, "renamed").await
                    && self.writer.define(&client, &back).await
                    && self.write(&client, table, block, "id").await
            }
            _ => self.rob(&client, &name).await && self.write(&client, table, block, "id").await,
        };
        // What failed midway is not touched again.
        if done {
            self.tables.push((table, block));
        }
        done
    }

    async fn make_table(&mut self, client: &Client) -> bool {
        let table = Table::ddl(self.made);
        self.made += 1;
        let name = table.name();
        let sql = format!("CREATE TABLE {name} (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)");
        if !self.writer.define(client, &sql).await {
            return false;
        }
        let Some(block) = self.writer.run_block(client, self.timeline, None, (table, ROWS), "id").await
        else {
            return false;
        };
        let done = self.write(client, table, block, "id").await;
        if done {
            self.tables.push((table, block));
        }
        done
    }

    async fn write(&mut self, client: &Client, table: Table, block: usize, key: &str) -> bool {
        for _ in 0..2 {
            let ran = self.writer.run_block(client, self.timeline, Some(block), (table, ROWS), key).await;
            if ran.is_none() {
                return false;
            }
        }
        true
    }

    /// Drops a trigger of ours and waits until it is back: until then nothing of the table need be captured.
    async fn rob(&mut self, client: &Client, table: &str) -> bool {
        let count = format!(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND tgname LIKE 'dapper_chaos_%'
                AND tgenabled <> 'D'"
        );
        let drop = format!("DROP TRIGGER IF EXISTS dapper_chaos_insert ON {table}");
        let drop = format!("{drop}; DROP TRIGGER IF EXISTS dapper_chaos_update ON {table}");
        if client.batch_execute(&drop).await.is_err() {
            return false;
        }
        let deadline = Instant::now() + REPAIR_LIMIT;
        while Instant::now() < deadline {
            let triggers = client.query_one(&count, &[]).await.map(|row| row.get::<_, i64>(0));
            match triggers {
                Ok(3..) => return true,
                Ok(_) => sleep(Duration::from_millis(100)).await,
                Err(_) => return false,
            }
        }
        false
    }
}
