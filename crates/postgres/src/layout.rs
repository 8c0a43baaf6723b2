//! The objects an input installs in the schema of its own.

use std::cmp::Ordering;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::PostgresError;
use crate::audit::record;
use crate::capture;
use crate::names::{Names, quote_identifier, quote_literal, stable_hash};
use crate::options::{Install, Options};
use crate::session::{Server, Session, bounded};

/// Grows with every change of the objects in the schema or of what they mean; kept in the schema's comment.
const LAYOUT: i64 = 4;
/// The oldest layout whose versions may run on this one. They change nothing of it, and neither may they install.
const USABLE_FROM: i64 = 2;
/// The oldest layout that this version runs on, where it may not bring it up to date.
const OLDEST_USABLE: i64 = 3;

/// `CREATE TRIGGER` that waits for one open writer blocks every later writer, so it gives up after this long.
const LOCK_TIMEOUT_MS: u32 = 300;

/// How often bringing a layout up to date is tried.
const TRIES: u32 = 20;

/// The objects in the order in which they depend on each other.
const LAYOUT_SQL: &str = concat!(
    include_str!("layout.sql"),
    "\n",
    include_str!("operations.sql"),
    "\n",
    include_str!("keys.sql"),
    "\n",
    include_str!("statement.sql"),
    "\n",
    include_str!("images.sql")
);

/// What the schema's comment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The layout.
    pub(crate) layout: i64,
    /// The oldest layout whose versions may run on it.
    usable_from: i64,
}

/// Whether a replica may change what is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It installs, repairs and keeps tables under capture.
    Full,
    /// It changes nothing but the cursor and the slots; with the reason.
    ReadOnly(String),
}

/// How a layout and this version go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is this version's.
    Current,
    /// It is newer, and versions like this one may run on it.
    NewerUsable,
    /// It is newer, and this version does not understand it.
    NewerUnusable,
    /// It is older, and this version runs on it where it may not change it.
    OlderUsable,
    /// It is older, and must be brought up to date; or there is none.
    OlderUnusable,
}

impl Found {
    pub(crate) fn fit(self) -> Fit {
        match self.layout.cmp(&LAYOUT) {
            Ordering::Equal => Fit::Current,
            Ordering::Greater if self.usable_from <= LAYOUT => Fit::NewerUsable,
            Ordering::Greater => Fit::NewerUnusable,
            Ordering::Less if self.layout >= OLDEST_USABLE => Fit::OlderUsable,
            Ordering::Less => Fit::OlderUnusable,
        }
    }
}

/// Makes sure that the schema and all in it but the tables' functions are there, as far as this replica may. Does no
/// more than look when they are.
///
/// # Errors
/// [`PostgresError::MissingRights`] when they are not and this role may not create them,
/// [`PostgresError::NotInstalled`] when the configuration says that it must not, [`PostgresError::NewerLayout`] when a
/// newer version made them and this one does not understand it.
pub(crate) async fn ensure(session: &Session, options: &Options) -> Result<Access, PostgresError> {
    let names = &options.names;
    let found = find(session.client(), &names.schema).await?;
    let fit = found.map_or(Fit::OlderUnusable, Found::fit);
    let layout = found.map_or(0, |found| found.layout);
    let reason = match fit {
        Fit::NewerUnusable => return Err(newer(names, layout)),
        Fit::NewerUsable => format!("layout {layout} of schema {:?} is a newer version's", names.schema),
        Fit::Current | Fit::OlderUsable | Fit::OlderUnusable => {
            let reason = if options.install == Install::Never {
                Some("the configuration says install = \"never\"".to_owned())
            } else {
                lacks(session, &names.schema)
                    .await?
                    .map(|lacks| format!("role {:?} {lacks}", session.server.role))
            };
            match (fit, reason) {
                (Fit::OlderUnusable, Some(reason)) => {
                    return Err(PostgresError::NotInstalled { schema: names.schema.clone(), reason });
                }
                (_, Some(reason)) => reason,
                (Fit::Current, None) => return Ok(Access::Full),
                (_, None) => {
                    if install(session, names).await? {
                        tracing::info!(
                            input = names.id,
                            schema = names.schema,
                            layout = LAYOUT,
                            "schema installed"
                        );
                    }
                    return Ok(Access::Full);
                }
            }
        }
    };
    Ok(Access::ReadOnly(reason))
}

/// Makes or brings up to date the schema and all in it but the tables' functions. Returns whether there was anything to
/// do.
///
/// # Errors
/// [`PostgresError::MissingRights`], and [`PostgresError::NewerLayout`] for any layout that is newer.
pub(crate) async fn install(session: &Session, names: &Names) -> Result<bool, PostgresError> {
    let mut tried = 0;
    loop {
        let result = install_once(session, names).await;
        tried += 1;
        match result {
            Err(PostgresError::Statement { source, .. }) if tried < TRIES && is_passing(source.code()) => {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(50..250))).await;
            }
            other => return other,
        }
    }
}

/// Whoever keeps something else in the schema, such as the leases, may make it at the same moment without waiting for our
/// turn; then it is there at the second try. An older version's replica may be using what is to be changed.
fn is_passing(code: Option<&SqlState>) -> bool {
    matches!(
        code,
        Some(&SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_SCHEMA | &SqlState::LOCK_NOT_AVAILABLE)
    )
}

async fn install_once(session: &Session, names: &Names) -> Result<bool, PostgresError> {
    let client = session.client();
    if is_current(client, names).await? {
        return Ok(false);
    }
    refuse_without_rights(session, names).await?;
    // One replica at a time: the others wait here, and then find everything in place.
    bounded("locking the installation", client.batch_execute(&begin_sql(names))).await?;
    let created = match is_current(client, names).await {
        Ok(true) => Ok(false),
        Ok(false) => match bounded("installing", client.batch_execute(&sql(names, &session.server))).await {
            Ok(()) => {
                record(client, &quote_identifier(&names.schema), "install", &format!("layout {LAYOUT}"))
                    .await
                    .map(|()| true)
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    bounded("installing", client.batch_execute(if created.is_ok() { "COMMIT" } else { "ROLLBACK" })).await?;
    created
}

pub(crate) async fn refuse_without_rights(session: &Session, names: &Names) -> Result<(), PostgresError> {
    match lacks(session, &names.schema).await? {
        None => Ok(()),
        Some(lacks) => Err(PostgresError::MissingRights { role: session.server.role.clone(), lacks }),
    }
}

/// What the role lacks for installing in the schema, or for creating it; nothing when it may.
pub(crate) async fn lacks(session: &Session, schema: &str) -> Result<Option<String>, PostgresError> {
    let row = bounded(
        "looking at the role's rights",
        session.client().query_one(
            "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
                    (SELECT pg_catalog.pg_has_role(n.nspowner, 'USAGE')
                       FROM pg_catalog.pg_namespace n WHERE n.nspname = $1),
                    (SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text
                       FROM pg_catalog.pg_namespace n WHERE n.nspname = $1)",
            &[&schema],
        ),
    )
    .await?;
    Ok(match row.get::<_, Option<bool>>(1) {
        Some(true) => None,
        Some(false) => {
            let owner: Option<String> = row.get(2);
            Some(format!("does not own schema {schema:?}, {:?} does", owner.unwrap_or_default()))
        }
        None if row.get(0) => None,
        None => {
            let database = &session.server.database;
            Some(format!("may not create schema {schema:?} (CREATE on database {database:?})"))
        }
    })
}

/// Begins a transaction that installs: it waits until no other does, and then no longer than that for any lock.
pub(crate) fn begin_sql(names: &Names) -> String {
    // Of transaction level, so it can't be left behind.
    let lock = stable_hash(&format!("dapper install {}", names.schema));
    format!(
        "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({lock}); SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"
    )
}

fn newer(names: &Names, found: i64) -> PostgresError {
    PostgresError::NewerLayout { schema: names.schema.clone(), found, known: LAYOUT }
}

pub(crate) async fn is_current(client: &Client, names: &Names) -> Result<bool, PostgresError> {
    let found = find(client, &names.schema).await?;
    match found.map(|found| (found.fit(), found.layout)) {
        Some((Fit::NewerUsable | Fit::NewerUnusable, layout)) => Err(newer(names, layout)),
        Some((fit, _)) => Ok(fit == Fit::Current),
        None => Ok(false),
    }
}

/// The layout of the schema, if it is there and has one.
pub(crate) async fn find(client: &Client, schema: &str) -> Result<Option<Found>, PostgresError> {
    let row = bounded(
        "looking at the layout",
        client.query_opt(
            "SELECT pg_catalog.obj_description(n.oid, 'pg_namespace')
               FROM pg_catalog.pg_namespace n WHERE n.nspname = $1",
            &[&schema],
        ),
    )
    .await?;
    let comment: Option<String> = row.and_then(|row| row.get(0));
    Ok(comment.as_deref().and_then(layout_of))
}

/// Reads `…, usable from layout 2, layout 3`. A comment without the former is of a layout that only its own versions use.
fn layout_of(comment: &str) -> Option<Found> {
    let (before, layout) = comment.rsplit_once("layout ")?;
    let layout = layout.parse().ok()?;
    let usable_from = before
        .rsplit_once("usable from layout ")
        .and_then(|(_, rest)| rest.trim_end_matches([',', ' ']).parse().ok());
    Some(Found { layout, usable_from: usable_from.unwrap_or(layout) })
}

/// Everything in the schema but the tables' functions, on whatever older layout is there.
pub(crate) fn sql(names: &Names, server: &Server) -> String {
    let schema = quote_identifier(&names.schema);
    let objects = LAYOUT_SQL
        .replace("{schema_literal}", &schema.replace('\'', "''"))
        .replace("{schema}", &schema)
        .replace("{note}", &capture::note(names))
        .replace("{timeline}", &server.timeline.to_string());
    let comment = quote_literal(&comment(&names.id));
    format!(
        "{objects}
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC;
         COMMENT ON SCHEMA {schema} IS {comment};"
    )
}

fn comment(id: &str) -> String {
    format!("dapper input {id}, usable from layout {USABLE_FROM}, layout {LAYOUT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_read_from_the_comment() {
        let found = |layout, usable_from| Some(Found { layout, usable_from });
        assert_eq!(layout_of("dapper input orders_input, layout 1"), found(1, 1));
        assert_eq!(layout_of("dapper input layout 7, usable from layout 3, layout 12"), found(12, 3));
        assert_eq!(layout_of(&comment("usable from layout 9, layout 9")), found(LAYOUT, USABLE_FROM));
        assert_eq!(layout_of("somebody else's"), None);
    }

    #[test]
    fn a_newer_layout_is_used_only_if_it_says_so() {
        let fit = |layout, usable_from| Found { layout, usable_from }.fit();
        assert_eq!(fit(LAYOUT, USABLE_FROM), Fit::Current);
        assert_eq!(fit(LAYOUT + 1, LAYOUT), Fit::NewerUsable);
        assert_eq!(fit(LAYOUT + 2, LAYOUT + 1), Fit::NewerUnusable);
        assert_eq!(fit(OLDEST_USABLE - 1, 0), Fit::OlderUnusable);
    }
}
