//! Makes the table and its identity once, and finds out whether sessions are ours alone.

use dapper_lock::StoreId;
use tokio_postgres::types::Type;

use crate::error::PostgresLockError;
use crate::options::SchemaName;
use crate::session::{Parameter, Session};
use crate::sql::{self, Statements};

/// Makes schema and table unless they are there, one replica at a time, and says which table it is. When they are
/// there, nothing is locked and no right beyond using them is needed.
pub(crate) async fn install(
    session: &Session,
    statements: &Statements,
    schema: &SchemaName,
) -> Result<StoreId, PostgresLockError> {
    if !exists(session, sql::TABLE_EXISTS, &statements.table).await? {
        match create(session, statements, schema).await {
            // Whoever makes the schema for something else takes no lock of ours; now it is there.
            Err(error) if error.is_lost_race() => {
                session.batch("undo the installation", "ROLLBACK").await?;
                create(session, statements, schema).await?;
            }
            other => other?,
        }
    }
    store_id(session, statements).await
}

async fn store_id(session: &Session, statements: &Statements) -> Result<StoreId, PostgresLockError> {
    let task = "ask for the identity of the leases";
    let mut rows = session.run(task, &statements.store_id, &[]).await?;
    if rows.is_empty() {
        let drawn = StoreId::random().to_string();
        let parameters: [Parameter<'_>; 1] = [(&drawn, Type::TEXT)];
        session.run("draw an identity for the leases", &statements.create_store_id, &parameters).await?;
        // Another replica's may have come first.
        rows = session.run(task, &statements.store_id, &[]).await?;
    }
    let text: &str = rows.first().and_then(|row| row.get(0)).unwrap_or_default();
    text.parse().map_err(|_| PostgresLockError::Garbage { column: "holder", text: text.to_owned() })
}

/// The statements that [`install`] would run now; none when the table is there.
pub(crate) async fn plan(
    session: &Session,
    statements: &Statements,
) -> Result<Vec<String>, PostgresLockError> {
    if exists(session, sql::TABLE_EXISTS, &statements.table).await? {
        return Ok(Vec::new());
    }
    let schema = statements.create_schema.replacen("SCHEMA", "SCHEMA IF NOT EXISTS", 1);
    Ok(vec![schema, statements.create_table.clone()])
}

async fn create(
    session: &Session,
    statements: &Statements,
    schema: &SchemaName,
) -> Result<(), PostgresLockError> {
    session.batch("begin the installation", "BEGIN").await?;
    let key = sql::advisory_key("install", schema, "");
    session.run("wait for other installers", sql::INSTALL_LOCK, &[(&key, Type::INT8)]).await?;
    if !exists(session, sql::SCHEMA_EXISTS, &statements.schema).await? {
        session.batch("create the schema of leases", &statements.create_schema).await?;
    }
    if !exists(session, sql::TABLE_EXISTS, &statements.table).await? {
        session.batch("create the table of leases", &statements.create_table).await?;
        tracing::info!(table = %statements.table, "table of leases created");
    }
    session.batch("commit the installation", "COMMIT").await
}

async fn exists(session: &Session, statement: &str, name: &str) -> Result<bool, PostgresLockError> {
    let row = session.one("look for the table of leases", statement, &[(&name, Type::TEXT)]).await?;
    Ok(row.get(0))
}

/// Whether a pooler hands the server's sessions out by transaction or statement, so that one connection's statements
/// run in several, or two connections' in one.
///
/// A pooler without other clients gives an idle session to whoever asks next. So two connections are made to ask in
/// turns, the first while the second's former session is kept busy by a transaction.
pub(crate) async fn is_pooled(one: &Session, two: &Session) -> Result<bool, PostgresLockError> {
    let first = two.backend().await?;
    if one.shared || two.shared || one.backend().await? == first {
        return Ok(true);
    }
    one.batch("begin a transaction", "BEGIN").await?;
    one.backend().await?;
    let second = two.backend().await?;
    one.batch("end a transaction", "COMMIT").await?;
    let (third, fourth) = (two.backend().await?, two.backend().await?);
    Ok([second, third, fourth].iter().any(|backend| *backend != first))
}
