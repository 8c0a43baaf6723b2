//! Every statement, with the locks it takes. `{leases}` stands for the qualified table.

use sha2::{Digest, Sha256};

use crate::options::SchemaName;

/// One row per resource, never deleted: it carries the last token. Takes no lock that anybody else waits for.
const CREATE_TABLE: &str = "\
CREATE TABLE {leases} (
    resource text PRIMARY KEY,
    token bigint NOT NULL CHECK (token > 0),
    holder text,
    expires_at timestamptz NOT NULL,
    session boolean NOT NULL,
    backend integer NOT NULL,
    server_started_at timestamptz NOT NULL
) WITH (fillfactor = 50)";

/// Gives the table its identity unless it has one: a row that no resource can have, since none has an empty name.
const CREATE_STORE_ID: &str = "\
INSERT INTO {leases} (resource, token, holder, expires_at, session, backend, server_started_at)
VALUES ('', 1, $1, '-infinity', false, 0, '-infinity') ON CONFLICT (resource) DO NOTHING";

/// The table's identity. Locks nothing.
const STORE_ID: &str = "SELECT holder FROM {leases} WHERE resource = ''";

/// Grants the resource when it is free, when its lease has run out, or when its holder is known to be dead: the caller
/// holds the session lock that the holder held (`$5`), on the very server that the holder held it on, and in a session
/// other than the holder's. Locks the row; everything is judged and timed after the lock is had. Says whether the
/// holder's death was the reason, by the row as it was when the statement began.
const GRANT: &str = "\
INSERT INTO {leases} AS lease (resource, token, holder, expires_at, session, backend, server_started_at)
VALUES ($1, 1, $2, clock_timestamp() + $3 * interval '1 millisecond', $4, pg_backend_pid(), pg_postmaster_start_time())
ON CONFLICT (resource) DO UPDATE SET
    token = lease.token + 1,
    holder = excluded.holder,
    expires_at = clock_timestamp() + $3 * interval '1 millisecond',
    session = excluded.session,
    backend = excluded.backend,
    server_started_at = excluded.server_started_at
WHERE lease.holder IS NULL
    OR lease.expires_at <= clock_timestamp()
    OR ($5 AND lease.session
        AND lease.server_started_at = pg_postmaster_start_time() AND lease.backend <> pg_backend_pid())
RETURNING token, pg_backend_pid(), COALESCE((
    SELECT was.holder IS NOT NULL AND was.expires_at > clock_timestamp() FROM {leases} was WHERE was.resource = $1
), false)";

/// Who holds the resource. Locks nothing.
const HELD: &str = "\
SELECT token, holder, extract(epoch FROM expires_at - clock_timestamp())::float8, session, pg_backend_pid()
FROM {leases} WHERE resource = $1";

/// Lets the very term that is named run on, if it has not run out. Locks the row.
const RENEW: &str = "\
UPDATE {leases} SET
    expires_at = clock_timestamp() + $4 * interval '1 millisecond',
    session = $5,
    backend = pg_backend_pid(),
    server_started_at = pg_postmaster_start_time()
WHERE resource = $1 AND token = $2 AND holder = $3 AND expires_at > clock_timestamp()
RETURNING pg_backend_pid()";

/// What [`RENEW`] must not be: whoever holds the resource has it renewed by whoever asks. For tests alone.
const RENEW_ANY: &str = "\
UPDATE {leases} SET
    expires_at = clock_timestamp() + $4 * interval '1 millisecond',
    session = $5,
    backend = pg_backend_pid(),
    server_started_at = pg_postmaster_start_time()
WHERE resource = $1 AND $2::int8 IS NOT NULL AND $3::text IS NOT NULL
RETURNING pg_backend_pid()";

/// Frees the resource from the very term that is named. Locks the row. A crash may undo it, and then its time to live
/// frees the resource: so nobody waits for the disk.
const RELEASE: &str = "\
UPDATE {leases} SET holder = NULL, session = false, expires_at = clock_timestamp()
WHERE resource = $1 AND token = $2 AND holder = $3
RETURNING set_config('synchronous_commit', 'off', true)";

/// Takes the session lock if nobody has it. Waits for nothing.
pub(crate) const TRY_SESSION_LOCK: &str = "SELECT pg_try_advisory_lock($1), pg_backend_pid()";

/// Waits for the session lock, in transactions of `{slices}` milliseconds each: while blocked, each holds back vacuum's
/// horizon. The end of patience is caught, lest each slice leave an error in the server's log; [`WAS_LOCKED`] asks how
/// it went. The lock outlives the block, since it belongs to the session.
const WAIT_FOR_SESSION_LOCK: &str = "\
DO $wait$
DECLARE
    slice integer;
    locked boolean := false;
BEGIN
    PERFORM set_config('dapper_lock.locked', 'false', false);
    FOREACH slice IN ARRAY ARRAY[{slices}]::integer[] LOOP
        PERFORM set_config('lock_timeout', slice::text, true);
        BEGIN
            PERFORM pg_advisory_lock({key});
            locked := true;
        EXCEPTION WHEN lock_not_available THEN NULL;
        END;
        IF locked THEN
            PERFORM set_config('dapper_lock.locked', 'true', false);
            EXIT;
        END IF;
        COMMIT;
    END LOOP;
END $wait$";

/// Whether the last wait got the session lock.
pub(crate) const WAS_LOCKED: &str = "SELECT current_setting('dapper_lock.locked')::boolean, pg_backend_pid()";

/// Gives the session lock back, which wakes the first who waits for it.
pub(crate) const SESSION_UNLOCK: &str = "SELECT pg_advisory_unlock($1)";

/// Sets those settings that the server knows, for the session.
pub(crate) const CONFIGURE: &str = "\
SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS wanted (name, value)
WHERE current_setting(name, true) IS NOT NULL";

/// What the server is, and whether commits survive a crash.
pub(crate) const IDENTIFY: &str =
    "SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('synchronous_commit')";

/// Which session runs the statement.
pub(crate) const BACKEND: &str = "SELECT pg_backend_pid()";

/// Whether the table is there. Takes no lock.
pub(crate) const TABLE_EXISTS: &str = "SELECT to_regclass($1) IS NOT NULL";

/// Whether the schema is there. Takes no lock.
pub(crate) const SCHEMA_EXISTS: &str = "SELECT to_regnamespace($1) IS NOT NULL";

/// Lets one installer at a time go on, until the end of its transaction.
pub(crate) const INSTALL_LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

/// The statements on one schema's table.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) create_schema: String,
    pub(crate) create_table: String,
    pub(crate) create_store_id: String,
    pub(crate) store_id: String,
    pub(crate) grant: String,
    pub(crate) held: String,
    pub(crate) renew: String,
    pub(crate) release: String,
}

impl Statements {
    pub(crate) fn new(schema: &SchemaName) -> Self {
        let schema = schema.quoted();
        let table = format!("{schema}.leases");
        let on_table = |statement: &str| statement.replace("{leases}", &table);
        Self {
            create_schema: format!("CREATE SCHEMA {schema}"),
            create_table: on_table(CREATE_TABLE),
            create_store_id: on_table(CREATE_STORE_ID),
            store_id: on_table(STORE_ID),
            grant: on_table(GRANT),
            held: on_table(HELD),
            renew: on_table(if is_broken!(ExactTermRenewal) { RENEW_ANY } else { RENEW }),
            release: on_table(RELEASE),
            schema,
            table,
        }
    }
}

/// The statement that waits for the session lock, for so many milliseconds in each transaction.
pub(crate) fn wait_for_session_lock(key: i64, slices_ms: &[u128]) -> String {
    let slices: Vec<String> = slices_ms.iter().map(ToString::to_string).collect();
    WAIT_FOR_SESSION_LOCK.replace("{slices}", &slices.join(",")).replace("{key}", &key.to_string())
}

/// The advisory lock's key: the first eight bytes of SHA-256 over a prefix of ours, the schema and `name`, separated
/// by NUL, which neither contains. It takes the one-number key space (`objsubid = 1` in `pg_locks`). The server adds
/// the database. Whoever else hits the same number costs the quick takeover, never the exclusion.
pub(crate) fn advisory_key(purpose: &str, schema: &SchemaName, name: &str) -> i64 {
    let text = format!("dapper-lock/{purpose}\0{schema}\0{name}");
    let digest = Sha256::digest(text.as_bytes());
    digest[..8].iter().fold(0, |key, byte| (key << 8) | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stable_and_differ() {
        let schema = SchemaName::new("dapper_lock").unwrap();
        let key = advisory_key("session", &schema, "orders");
        // A change of this number would let two releases of this crate hold the same resource's session lock at once.
        assert_eq!(key, KEY_OF_ORDERS);
        assert_ne!(key, advisory_key("session", &schema, "order"));
        assert_ne!(key, advisory_key("install", &schema, "orders"));
        assert_ne!(key, advisory_key("session", &SchemaName::new("other").unwrap(), "orders"));
    }

    const KEY_OF_ORDERS: i64 = 871_205_915_520_712_596;

    #[test]
    fn the_schema_is_quoted() {
        let statements = Statements::new(&SchemaName::new("a\"b").unwrap());
        for statement in [&statements.grant, &statements.held, &statements.renew, &statements.release] {
            assert!(statement.contains("\"a\"\"b\".leases"), "{statement}");
            assert!(!statement.contains('{'), "{statement}");
        }
    }
}
