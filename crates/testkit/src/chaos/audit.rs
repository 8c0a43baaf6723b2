//! What the database itself sees: who writes the rows that the fencing token guards, and which transactions are there.

use tokio_postgres::Client;

use super::Failure;
use super::ledger::Table;
use super::verdict::Truth;

/// A row of ours changes its token only when a higher one is granted or seals it; from then on it is the session that
/// brought the token which writes it, until the next one. Releasing a lease is free, since nobody acts on it any more.
/// Runs in the writer's own transaction, under the row's lock.
const INSTALL: &str = r#"
CREATE TABLE audit.owners (what text PRIMARY KEY, session int NOT NULL, token bigint NOT NULL);
CREATE TABLE audit.stale (id bigserial PRIMARY KEY, finding text NOT NULL);
CREATE FUNCTION audit.record(what text, old_token bigint, new_token bigint, released boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    owner int := (SELECT o.session FROM audit.owners o WHERE o.what = record.what);
BEGIN
    IF new_token > old_token OR owner IS NULL THEN
        INSERT INTO audit.owners VALUES (what, pg_catalog.pg_backend_pid(), new_token)
            ON CONFLICT ON CONSTRAINT owners_pkey DO UPDATE SET session = excluded.session, token = excluded.token;
    ELSIF new_token < old_token THEN
        INSERT INTO audit.stale (finding) VALUES
            (pg_catalog.format('%s: token %s after %s', what, new_token, old_token));
    ELSIF owner <> pg_catalog.pg_backend_pid() AND NOT released THEN
        INSERT INTO audit.stale (finding) VALUES (pg_catalog.format('%s: written under token %s by session %s, which is session %s''s',
            what, new_token, pg_catalog.pg_backend_pid(), owner));
    END IF;
END $$;
CREATE FUNCTION audit.cursor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM audit.record('cursor in ' || TG_TABLE_SCHEMA, OLD.token, NEW.token, false);
    RETURN NULL;
END $$;
CREATE FUNCTION audit.lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM audit.record('lease in ' || TG_TABLE_SCHEMA, OLD.token, NEW.token, NEW.holder IS NULL);
    RETURN NULL;
END $$;
CREATE TABLE audit.parked (events bigint NOT NULL);
CREATE FUNCTION audit.parked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit.parked SELECT pg_catalog.count(*) FROM parked HAVING pg_catalog.count(*) > 0;
    RETURN NULL;
END $$;
-- Whoever writes there holds the cursor row's lock, so its owner is the last who brought a token.
CREATE FUNCTION audit.parking() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    owner int := (SELECT o.session FROM audit.owners o WHERE o.what = 'cursor in ' || TG_TABLE_SCHEMA);
BEGIN
    IF owner <> pg_catalog.pg_backend_pid() THEN
        INSERT INTO audit.stale (finding) VALUES (pg_catalog.format('%s of %s in %s by session %s, and it is session %s''s',
            TG_OP, TG_TABLE_NAME, TG_TABLE_SCHEMA, pg_catalog.pg_backend_pid(), owner));
    END IF;
    RETURN NULL;
END $$;
DO $$
DECLARE
    schema text;
    name text;
BEGIN
    FOREACH schema IN ARRAY ARRAY['dapper_chaos', 'dapper_effects'] LOOP
        FOREACH name IN ARRAY ARRAY['parked', 'dead_letters'] LOOP
            EXECUTE pg_catalog.format('CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %I.%I
                FOR EACH ROW EXECUTE FUNCTION audit.parking()', schema, name);
        END LOOP;
        EXECUTE pg_catalog.format('CREATE TRIGGER audit_count AFTER INSERT ON %I.parked REFERENCING NEW TABLE AS parked
            FOR EACH STATEMENT EXECUTE FUNCTION audit.parked()', schema);
    END LOOP;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON dapper_chaos.cursors FOR EACH ROW EXECUTE FUNCTION audit.cursor();
CREATE TRIGGER audit AFTER UPDATE ON dapper_chaos.leases FOR EACH ROW WHEN (NEW.resource <> '')
    EXECUTE FUNCTION audit.lease();
CREATE TRIGGER audit AFTER UPDATE ON dapper_effects.cursors FOR EACH ROW EXECUTE FUNCTION audit.cursor();
CREATE TRIGGER audit AFTER UPDATE ON dapper_effects.leases FOR EACH ROW WHEN (NEW.resource <> '')
    EXECUTE FUNCTION audit.lease();
"#;

/// Starts recording. The input's schema must be there.
pub(super) async fn install(client: &Client) -> Result<(), Failure> {
    Ok(client.batch_execute(INSTALL).await?)
}

/// How many stale writes were accepted so far.
pub(super) async fn stale(client: &Client) -> Result<u64, Failure> {
    let count: i64 = client.query_one("SELECT count(*) FROM audit.stale", &[]).await?.get(0);
    Ok(count.unsigned_abs())
}

/// What is still parked, and what was given up as a dead letter.
const KEPT: &str =
    "SELECT (SELECT count(*) FROM dapper_chaos.parked) + (SELECT count(*) FROM dapper_effects.parked),
    (SELECT count(*) FROM dapper_chaos.dead_letters) + (SELECT count(*) FROM dapper_effects.dead_letters),
    (SELECT coalesce(sum(events), 0)::bigint FROM audit.parked)";

/// What became of events that failed, so far.
pub(super) async fn kept(client: &Client, truth: &mut Truth) -> Result<(), Failure> {
    let row = client.query_one(KEPT, &[]).await?;
    let count = |column| row.get::<_, i64>(column).unsigned_abs();
    (truth.parked_left, truth.dead_letters, truth.parked) = (count(0), count(1), count(2));
    Ok(())
}

/// What took effect through the inbox so far.
pub(super) async fn effects(client: &Client, truth: &mut Truth) -> Result<(), Failure> {
    truth.effects.clear();
    let sql = "SELECT location, id, count(*), count(*) - count(DISTINCT event_id) FROM effects.effects GROUP BY 1, 2";
    truth.doubles = 0;
    for row in client.query(sql, &[]).await? {
        let (location, id): (&str, &str) = (row.get(0), row.get(1));
        let table = Table::from_name(location).ok_or("an effect of an unknown table")?;
        let number = table.number(id).ok_or("an effect with an unknown key")?;
        truth.effects.insert((table, number), row.get::<_, i64>(2).unsigned_abs());
        truth.doubles += row.get::<_, i64>(3).unsigned_abs();
    }
    Ok(())
}

/// Reads everything.
pub(super) async fn read(client: &Client, timeline: u32) -> Result<Truth, Failure> {
    let mut truth = Truth { timeline, ..Truth::default() };
    for row in client.query("SELECT id FROM audit.transactions", &[]).await? {
        truth.transactions.insert(row.get(0));
    }
    for row in client.query("SELECT id FROM followups", &[]).await? {
        truth.followups.push(row.get::<_, i64>(0).unsigned_abs());
    }
    for row in client.query("SELECT finding FROM audit.stale ORDER BY id", &[]).await? {
        truth.stale.push(format!("stale write accepted: {}", row.get::<_, &str>(0)));
    }
    effects(client, &mut truth).await?;
    kept(client, &mut truth).await?;
    Ok(truth)
}
