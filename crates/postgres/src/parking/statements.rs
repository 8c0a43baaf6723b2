//! The statements of parking, and the transaction that the cursor's token fences.

use futures::future::join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::sql;
use super::work::Rows;
use crate::PostgresError;
use crate::cursor::Cursor;
use crate::names::quote_identifier;
use crate::session::bounded;

/// Statements that are sent without waiting for each other: of so few, futures are polled in order.
const MOST_AT_ONCE: usize = 20;
pub(super) type Parameter<'p> = &'p (dyn ToSql + Sync);

/// The statements of parking, prepared on one session.
pub(crate) struct ParkingStatements {
    pub(super) fence: Statement,
    pub(super) lanes: Statement,
    pub(super) look: Statement,
    pub(super) suspect: Statement,
    pub(super) stored: Statement,
    pub(super) park: Statement,
    pub(super) put_back: Statement,
    pub(super) unclaim: Statement,
    pub(super) remove: Statement,
    pub(super) bury: Statement,
    pub(super) bury_killers: Statement,
    pub(super) unhead: Statement,
    pub(super) head: Statement,
    pub(super) empty: Statement,
    pub(super) claim: Statement,
    pub(super) claim_suspects: Statement,
    pub(super) schema: String,
}

impl ParkingStatements {
    pub(crate) async fn prepare(client: &Client, schema: &str) -> Result<Self, PostgresError> {
        let quoted = quote_identifier(schema);
        let fence = if is_broken!(Fence) { sql::NO_FENCE } else { sql::FENCE };
        let texts = [
            fence,
            sql::LANES,
            sql::LOOK,
            sql::SUSPECT,
            sql::STORED,
            sql::PARK,
            sql::PUT_BACK,
            sql::UNCLAIM,
            sql::REMOVE,
            sql::BURY,
            sql::BURY_KILLERS,
            sql::UNHEAD,
            sql::HEAD,
            sql::EMPTY,
            sql::CLAIM,
            sql::CLAIM_SUSPECTS,
        ];
        // All are sent at once.
        let texts = texts.map(|text| text.replace("{schema}", &quoted));
        let prepared = join_all(texts.iter().map(|text| bounded("preparing", client.prepare(text)))).await;
        let prepared = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        let Ok(
            [
                fence,
                lanes,
                look,
                suspect,
                stored,
                park,
                put_back,
                unclaim,
                remove,
                bury,
                bury_killers,
                unhead,
                head,
                empty,
                claim,
                claim_suspects,
            ],
        ) = <[Statement; 16]>::try_from(prepared)
        else {
            unreachable!("as many are prepared as there are texts")
        };
        Ok(Self {
            fence,
            lanes,
            look,
            suspect,
            stored,
            park,
            put_back,
            unclaim,
            remove,
            bury,
            bury_killers,
            unhead,
            head,
            empty,
            claim,
            claim_suspects,
            schema: quoted,
        })
    }

    /// Runs statements in one transaction that is undone when the cursor is another's. They are sent at once.
    pub(super) async fn transact(
        &self,
        client: &Client,
        cursor: &Cursor,
        statements: Vec<(&Statement, Vec<Parameter<'_>>)>,
    ) -> Result<Vec<Vec<Row>>, PostgresError> {
        let doing = "writing parked events";
        let token = cursor.token();
        let fence: (&Statement, Vec<Parameter<'_>>) = (&self.fence, vec![&token]);
        let all: Vec<_> = std::iter::once(fence).chain(statements).collect();
        let mut results = Vec::new();
        let mut failed = None;
        // The first goes with the beginning, the last with the end.
        let (begun, first) = tokio::join!(
            bounded(doing, client.batch_execute("BEGIN")),
            self.run(client, &all[..all.len().min(MOST_AT_ONCE)], doing)
        );
        begun?;
        let rest = all.chunks(MOST_AT_ONCE).skip(1);
        let mut outcomes = first;
        for chunk in rest {
            outcomes.extend(self.run(client, chunk, doing).await);
        }
        for outcome in outcomes {
            match outcome {
                Ok(rows) => results.push(rows),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(error) = failed else {
            bounded(doing, client.batch_execute("COMMIT")).await?;
            results.remove(0);
            return Ok(results);
        };
        bounded(doing, client.batch_execute("ROLLBACK")).await?;
        match &error {
            PostgresError::Statement { source, .. } if source.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                Err(cursor.fenced(client).await)
            }
            _ => Err(error),
        }
    }

    async fn run(
        &self,
        client: &Client,
        statements: &[(&Statement, Vec<Parameter<'_>>)],
        doing: &'static str,
    ) -> Vec<Result<Vec<Row>, PostgresError>> {
        let all = statements.iter().map(|(statement, parameters)| {
            bounded(doing, async move { client.query(*statement, parameters).await })
        });
        join_all(all).await
    }

    pub(super) async fn look(&self, client: &Client) -> Result<Vec<Row>, PostgresError> {
        bounded("looking at parked events", client.query(&self.look, &[])).await
    }
}

pub(super) fn park_parameters<'p>(rows: &'p Rows, unless: &'p Vec<String>) -> Vec<Parameter<'p>> {
    let mut parameters = bury_parameters(rows);
    parameters.extend([&rows.suspicions as Parameter<'p>, &rows.after_ms, &rows.crashes_left, unless]);
    parameters
}

pub(super) fn bury_parameters(rows: &Rows) -> Vec<Parameter<'_>> {
    vec![
        &rows.event_ids,
        &rows.processes,
        &rows.lanes,
        &rows.seqs,
        &rows.positions,
        &rows.locations,
        &rows.ids,
        &rows.events,
        &rows.attempts,
        &rows.tries,
        &rows.errors,
    ]
}
