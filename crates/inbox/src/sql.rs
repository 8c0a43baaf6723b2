//! The statements.

use crate::names::SchemaName;

/// Everything that the inbox installs, for `psql -1 -f` and the like, in schema `dapper_inbox`. It can be run again.
pub const INSTALL_SQL: &str = include_str!("inbox.sql");

/// The SQLSTATE of the error that a stale token is.
pub const STALE_TOKEN: &str = "DAP01";

/// The layout that [`INSTALL_SQL`] makes; it grows with each change to it that matters.
pub(crate) const LAYOUT: u32 = 1;

/// One installer at a time. The key is drawn at random, once and for all; it is held until the transaction ends.
pub(crate) const INSTALL_LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(4829013377612094105)";

/// The comment on the function, which says the layout; null when it is not there, or not to be seen. Locks nothing.
pub(crate) const INSTALLED: &str = "
    SELECT d.description
      FROM pg_catalog.pg_namespace n
      JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = 'accept'
      JOIN pg_catalog.pg_description d
        ON d.objoid = p.oid AND d.classoid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objsubid = 0
     WHERE n.nspname = $1
     LIMIT 1";

/// Everything that the inbox installs, in `schema`.
pub(crate) fn install(schema: &SchemaName) -> String {
    let mut tag = "body".to_owned();
    while schema.as_str().contains(&format!("${tag}$")) {
        tag.push('x');
    }
    INSTALL_SQL.replace("$body$", &format!("${tag}$")).replace("dapper_inbox", &schema.quoted())
}

/// What the locks are is said where the function is made.
pub(crate) fn accept(schema: &SchemaName) -> String {
    format!("SELECT {}.accept($1, $2, $3, $4)", schema.quoted())
}

/// Locks the rows that it deletes.
pub(crate) fn prune(schema: &SchemaName) -> String {
    format!("SELECT {}.prune($1)", schema.quoted())
}

/// Waits for the transactions that are accepting events with the old token.
pub(crate) fn reset_token(schema: &SchemaName) -> String {
    format!("SELECT {}.reset_token($1, $2)", schema.quoted())
}

/// Makes the retention longer, never shorter. Locks the one row, which only pruning reads.
pub(crate) fn lengthen(schema: &SchemaName) -> String {
    format!(
        "UPDATE {0}.settings SET retention = pg_catalog.make_interval(secs => $1)
          WHERE retention < pg_catalog.make_interval(secs => $1)",
        schema.quoted()
    )
}
