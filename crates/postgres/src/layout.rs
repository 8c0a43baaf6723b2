//! The objects an input installs in the schema of its own.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::PostgresError;
use crate::names::{Names, quote_identifier, quote_literal, stable_hash};
use crate::session::{Server, Session, bounded};

/// Grows with every change of the objects in the schema; kept in the schema's comment.
const LAYOUT: i64 = 1;

/// The objects in the order in which they depend on each other.
const LAYOUT_SQL: &str =
    concat!(include_str!("layout.sql"), "\n", include_str!("keys.sql"), "\n", include_str!("statement.sql"));

/// Makes sure that the schema and all in it but the tables' functions are there. Does no more than look when they are.
///
/// # Errors
/// [`PostgresError::MissingRights`] when they are not and this role may not create them,
/// [`PostgresError::NewerLayout`] when a newer version made them.
pub(crate) async fn ensure(session: &Session, names: &Names) -> Result<(), PostgresError> {
    match ensure_once(session, names).await {
        // Whoever keeps something else in the schema, such as the leases, may make it at the same moment without waiting
        // for our turn; then it is there at the second try.
        Err(PostgresError::Statement { source, .. })
            if matches!(source.code(), Some(&SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_SCHEMA)) =>
        {
            ensure_once(session, names).await
        }
        other => other,
    }
}

async fn ensure_once(session: &Session, names: &Names) -> Result<(), PostgresError> {
    let client = session.client();
    if is_current(client, names).await? {
        return Ok(());
    }
    let row = bounded(
        "looking at the role's rights",
        client.query_one(
            "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
                    OR EXISTS (SELECT FROM pg_catalog.pg_namespace n
                                WHERE n.nspname = $1
                                  AND pg_catalog.pg_has_role(n.nspowner, 'USAGE'))",
            &[&names.schema],
        ),
    )
    .await?;
    if !row.get::<_, bool>(0) {
        return Err(PostgresError::MissingRights {
            role: session.server.role.clone(),
            lacks: format!(
                "may not create schema {:?} (CREATE on database {:?})",
                names.schema, session.server.database
            ),
        });
    }
    // One replica at a time: the others wait here, and then find everything in place.
    let lock = lock_key(&names.schema);
    bounded(
        "locking the installation",
        client.batch_execute(&format!("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({lock})")),
    )
    .await?;
    let created = match is_current(client, names).await {
        Ok(true) => Ok(()),
        Ok(false) => bounded("installing", client.batch_execute(&sql(names, &session.server))).await,
        Err(error) => Err(error),
    };
    bounded("installing", client.batch_execute(if created.is_ok() { "COMMIT" } else { "ROLLBACK" })).await?;
    created
}

async fn is_current(client: &Client, names: &Names) -> Result<bool, PostgresError> {
    let row = bounded(
        "looking at the layout",
        client.query_opt(
            "SELECT pg_catalog.obj_description(n.oid, 'pg_namespace')
               FROM pg_catalog.pg_namespace n WHERE n.nspname = $1",
            &[&names.schema],
        ),
    )
    .await?;
    let comment: Option<String> = row.and_then(|row| row.get(0));
    let Some(found) = comment.as_deref().and_then(layout_of) else { return Ok(false) };
    if found > LAYOUT {
        return Err(PostgresError::NewerLayout { schema: names.schema.clone(), found, known: LAYOUT });
    }
    Ok(found == LAYOUT)
}

fn layout_of(comment: &str) -> Option<i64> {
    comment.rsplit_once("layout ").and_then(|(_, number)| number.parse().ok())
}

fn sql(names: &Names, server: &Server) -> String {
    let schema = quote_identifier(&names.schema);
    let objects = LAYOUT_SQL
        .replace("{schema_literal}", &schema.replace('\'', "''"))
        .replace("{schema}", &schema)
        .replace("{timeline}", &server.timeline.to_string());
    let comment = quote_literal(&format!("dapper input {}, layout {LAYOUT}", names.id));
    format!(
        "{objects}
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC;
         COMMENT ON SCHEMA {schema} IS {comment};"
    )
}

/// The advisory lock that keeps installations of one input apart; of transaction level, so it can't be left behind.
pub(crate) fn lock_key(schema: &str) -> i64 {
    stable_hash(&format!("dapper install {schema}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_read_from_the_comment() {
        assert_eq!(layout_of("dapper input orders_input, layout 1"), Some(1));
        assert_eq!(layout_of("dapper input layout 7, layout 12"), Some(12));
        assert_eq!(layout_of("somebody else's"), None);
    }
}
