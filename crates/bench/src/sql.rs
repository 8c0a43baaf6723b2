//! The statements of the comparisons. None of them touches what dapper installs, but for reading it.

/// Rows to update.
pub(crate) const ITEMS: &str = "
    CREATE TABLE orders (id bigserial PRIMARY KEY, note text NOT NULL DEFAULT '');
    CREATE TABLE items (id bigserial PRIMARY KEY, note text NOT NULL DEFAULT '');
    INSERT INTO items (note) SELECT 'x' FROM generate_series(1, 100000);
    ANALYZE";

/// A small bank, as in TPC-B.
pub(crate) const BANK: &str = "
    CREATE TABLE orders (id bigserial PRIMARY KEY, note text NOT NULL DEFAULT '');
    CREATE TABLE branches (id int PRIMARY KEY, balance int NOT NULL);
    CREATE TABLE tellers (id int PRIMARY KEY, balance int NOT NULL);
    CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL) WITH (fillfactor = 90);
    CREATE TABLE history (id bigserial PRIMARY KEY, teller int, branch int, account int, delta int, at timestamptz);
    INSERT INTO branches SELECT g, 0 FROM generate_series(1, 20) g;
    INSERT INTO tellers SELECT g, 0 FROM generate_series(1, 200) g;
    INSERT INTO accounts SELECT g, 0 FROM generate_series(1, 200000) g;
    ANALYZE";

/// The smallest table that events can come from. It is in every database: readers are found ready by it.
pub(crate) const ORDERS: &str =
    "CREATE TABLE orders (id bigserial PRIMARY KEY, note text NOT NULL DEFAULT '')";

/// The ancestor's way, written anew from its description: a row trigger on every table that notifies with table, id and
/// operation.
pub(crate) const ANCESTOR: &str = "
    CREATE FUNCTION process_record_seed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('seed', json_build_object('tbl', TG_TABLE_NAME, 'id', COALESCE(NEW.id, 0), 'op', TG_OP)::text);
        RETURN NEW;
    END $$;
    DO $$ DECLARE t text; BEGIN
        FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE format('CREATE TRIGGER seed AFTER INSERT OR UPDATE OR DELETE ON %I
                            FOR EACH ROW EXECUTE FUNCTION process_record_seed()', t);
        END LOOP;
    END $$";

/// What many write by themselves: a row in a table for each changed row, and a NOTIFY without text, of which one for each
/// transaction is left.
pub(crate) const JOURNAL: &str = "
    CREATE TABLE journal (seq bigserial PRIMARY KEY, tbl text NOT NULL, id bigint, op text NOT NULL,
                          at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO journal (tbl, id, op) VALUES (TG_TABLE_NAME, COALESCE(NEW.id, OLD.id), TG_OP);
        PERFORM pg_notify('journal', '');
        RETURN NULL;
    END $$;
    DO $$ DECLARE t text; BEGIN
        FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'journal' LOOP
            EXECUTE format('CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON %I
                            FOR EACH ROW EXECUTE FUNCTION record_change()', t);
        END LOOP;
    END $$";

/// Takes out the oldest rows of the journal; locks these.
pub(crate) const TAKE_FROM_JOURNAL: &str = "
    DELETE FROM journal WHERE seq = ANY (ARRAY(SELECT seq FROM journal ORDER BY seq LIMIT 1000))
    RETURNING seq, tbl, id, op";

/// A NOTIFY with the id alone: the least that can bring an id to a listener.
pub(crate) const BARE_NOTIFY: &str = "
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('bare', NEW.id::text); RETURN NULL; END $$;
    CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell()";

/// A second column to poll by, in the order of writing. As a cursor it loses what commits late; here nobody minds.
pub(crate) const POLLED: &str = "ALTER TABLE orders ADD COLUMN nr bigserial; CREATE INDEX ON orders (nr)";

/// What has come since the last look.
pub(crate) const POLL: &str = "SELECT nr, id FROM orders WHERE nr > $1 ORDER BY nr";

/// All change sets, with the columns that a reader needs, in whatever order is cheapest.
pub(crate) const BARE_SELECT: &str = "SELECT seq, id, captured_at, payload FROM dapper_bench.change_sets";

/// How many changes are recorded.
pub(crate) const RECORDED: &str = "SELECT coalesce(sum(changes), 0)::bigint FROM dapper_bench.change_sets";

/// Fills a backlog: statements of `rows` rows each, `chunk` of them in a transaction.
pub(crate) fn fill(statements: u64, rows: u64, chunk: u64) -> String {
    let insert = if rows == 1 {
        "INSERT INTO orders (note) VALUES ('x')".to_owned()
    } else {
        format!("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, {rows})")
    };
    format!(
        "DO $$ BEGIN FOR i IN 1..{statements} LOOP
             {insert};
             IF i % {chunk} = 0 THEN COMMIT; END IF;
         END LOOP; END $$"
    )
}

/// How many calls the server has counted, those of this very kind aside.
pub(crate) const CALLS: &str = "
    SELECT coalesce(sum(s.calls), 0)::float8 FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
     WHERE d.datname = $1";

/// The statements that were called most often, shortened.
pub(crate) const MOST_CALLED: &str = r"
    SELECT s.calls, left(regexp_replace(s.query, '\s+', ' ', 'g'), 60)
      FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
     WHERE d.datname = $1 ORDER BY s.calls DESC LIMIT 6";

/// The processes that work for a database, by their numbers.
pub(crate) const BACKENDS: &str = "SELECT pid FROM pg_stat_activity WHERE datname = $1";

/// A slot for the publication; waits for transactions that are open.
pub(crate) const MAKE_SLOT: &str = "SELECT pg_create_logical_replication_slot('bench', 'pgoutput')";

/// Whether somebody reads from it.
pub(crate) const IS_SLOT_ACTIVE: &str =
    "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'bench'";

/// Fails while somebody reads from it.
pub(crate) const DROP_SLOT: &str =
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'bench'";

/// When each row that pgbench wrote was committed, by the clock of the server.
pub(crate) const COMMIT_TIMES: &str = "
    SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM orders WHERE id >= 100000000";

/// Bytes that were written to the log.
pub(crate) const LOG: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";

/// The application's rows, with nothing but the key.
pub(crate) const BARE_ROWS: &str = "SELECT id FROM orders";

/// Whether whoever streams has got as far as has been written.
pub(crate) const IS_SENT: &str =
    "SELECT coalesce(bool_and(sent_lsn >= pg_current_wal_flush_lsn()), true) FROM pg_stat_replication";
