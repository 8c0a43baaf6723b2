//! The five rules of the cursor. Each test sets up the very situation in which breaking the rule loses a change, shows
//! that it would, and shows that ours does not.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use dapper_testkit::{Database, Server, ServerOptions, StopMode, connect};

use super::support::{Fixture, Replica, config, locks, seal};
use crate::PostgresError;
use crate::options::Options;
use crate::progress::{Chunk, Position, Progress};
use crate::reader::{Limits, Reader};
use crate::session::Session;
use crate::snapshot::Snapshot;

const ORDERS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY)";

async fn snapshot_of(client: &tokio_postgres::Client) -> Snapshot {
    let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await.unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

/// Takes a batch as read and handled up to `snapshot`.
fn advance(fixture: &mut Fixture, snapshot: Snapshot, last_seq: Option<i64>) {
    fixture.progress.claim(Chunk { snapshot, last_seq, exhausted: true });
    if last_seq.is_some() {
        fixture.progress.complete();
    }
}

#[tokio::test]
async fn rule_1_the_snapshot_is_taken_in_the_statement_that_reads() {
    let mut fixture = Fixture::new(ORDERS).await;
    let writer = fixture.database.connect().await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    fixture.execute("INSERT INTO orders VALUES (2)").await;
    let batch = fixture.read().await;
    assert_eq!(batch.change_sets.len(), 1);
    writer.batch_execute("COMMIT").await.unwrap();

    // A snapshot taken in a later statement sees the commit in between, whose change was not read.
    let later = snapshot_of(fixture.session.client()).await;
    let missed: u64 = {
        let row = fixture
            .client
            .query_one("SELECT min(xid::text::int8) FROM dapper_orders_input.change_sets", &[])
            .await
            .unwrap();
        row.get::<_, i64>(0).unsigned_abs()
    };
    assert!(later.sees(missed), "the situation is not the one to test");

    // The statement's own does not, and the next read finds the change.
    assert!(!batch.snapshot.sees(missed));
    advance(&mut fixture, batch.snapshot, Some(batch.change_sets[0].seq));
    assert_eq!(fixture.lines().await, ["orders create 1"]);

    // And so under fire: whatever commits between two statements of the reader is found by the next read.
    let mut writers = Vec::new();
    for writer in 1..=4 {
        let client = fixture.database.connect().await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..500 {
                client
                    .batch_execute(&format!("INSERT INTO orders VALUES ({})", writer * 1_000 + n))
                    .await
                    .unwrap();
            }
        }));
    }
    let mut delivered = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        delivered += fixture.lines().await.len();
    }
    delivered += fixture.lines().await.len();
    assert_eq!(delivered, 2_000);
}

#[tokio::test]
async fn rule_2_the_reading_transaction_has_no_id_of_its_own() {
    let mut fixture = Fixture::new(ORDERS).await;
    let reader = fixture.session.client();
    // A handler that writes a watched table in the reading transaction, and a bystander with a higher id.
    reader.batch_execute("BEGIN; INSERT INTO public.orders VALUES (1)").await.unwrap();
    let bystander = fixture.database.connect().await.unwrap();
    bystander.batch_execute("CREATE TABLE elsewhere (); DROP TABLE elsewhere").await.unwrap();
    let own: i64 = reader.query_one("SELECT pg_current_xact_id()::text::int8", &[]).await.unwrap().get(0);
    let within = snapshot_of(reader).await;
    let next = fixture.progress.next_read();
    let limits = Limits { rows: 10, bytes: 1 << 20 };
    let error = Reader::prepare(reader, &fixture.options.names.schema, limits)
        .await
        .unwrap()
        .read(reader, &next, None, usize::MAX)
        .await
        .unwrap_err();
    reader.batch_execute("COMMIT").await.unwrap();

    // As a cursor that snapshot is ambiguous about its own writes: it does not list its own id as open.
    assert!(within.xmax > own.unsigned_abs());
    assert!(
        !within.xip.contains(&own.unsigned_abs()) && within.sees(own.unsigned_abs()),
        "the situation is not the one to test: {within}"
    );

    // So a read inside a transaction with an id is refused, and outside of it the change is delivered.
    assert!(matches!(error, PostgresError::Unexpected { .. }), "{error}");
    assert_eq!(fixture.lines().await, ["orders create 1"]);
}

/// Two servers, and a database with a table on the first.
async fn primary_and_standby() -> (Server, Server, Database, tokio_postgres::Client) {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Server::start(&ServerOptions::default()).unwrap();
        let standby = Server::standby_of(&primary).unwrap();
        (primary, standby)
    })
    .await
    .unwrap();
    let database = Database::create_on(&primary).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(ORDERS).await.unwrap();
    (primary, standby, database, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_standby_is_refused() {
    let (_primary, standby, database, client) = primary_and_standby().await;
    let config_there = config("orders-input", standby.url(database.name()));
    let config_here = config("orders-input", database.url());
    let fixture = Fixture::install(database, client, &config_here).await;
    let writer = fixture.database.connect().await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    let open: i64 = writer.query_one("SELECT pg_current_xact_id()::text::int8", &[]).await.unwrap().get(0);
    fixture.execute("INSERT INTO orders VALUES (2)").await;
    let lsn: String =
        fixture.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);

    // There an open transaction counts as seen: its change would be lost.
    let there = connect(&standby.url(fixture.database.name())).await.unwrap();
    super::support::wait_until(&there, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")).await;
    let snapshot = snapshot_of(&there).await;
    assert!(snapshot.sees(open.unsigned_abs()), "the situation is not the one to test: {snapshot}");

    // The reading statement refuses it, and so do connecting and starting.
    let limits = Limits { rows: 10, bytes: 1 << 20 };
    let mut reader = Reader::prepare(&there, &fixture.options.names.schema, limits).await.unwrap();
    let read = reader.read(&there, &fixture.progress.next_read(), None, usize::MAX).await;
    assert!(matches!(read.err(), Some(PostgresError::Standby { .. })));
    let refused = Session::open(&options_of(&config_there).connection, "test").await;
    assert!(matches!(refused.err(), Some(PostgresError::Standby { .. })));
    let store = Arc::new(dapper_lock::MemoryStore::new());
    let error = crate::PostgresInput::new(config_there, locks(&store)).await.unwrap_err();
    assert!(error.to_string().contains("is a standby"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_foreign_cluster_is_refused_and_a_rebase_delivers_everything() {
    let old = Fixture::new(ORDERS).await;
    // The old cluster's transaction ids run ahead of the new one's.
    for _ in 0..5_000 {
        old.execute("SELECT pg_current_xact_id()").await;
    }
    old.execute("INSERT INTO orders VALUES (1)").await;
    let schema = old.options.names.schema.clone();
    let sealed = seal(&old.session, &schema, 5).await.unwrap();
    let mut cursor = sealed.cursor;
    let position = Position { prev: snapshot_of(&old.client).await, ..sealed.position };
    cursor.save(old.session.client(), &position).await.unwrap();
    old.execute("INSERT INTO orders VALUES (2)").await;

    let (_server, database) = restore_elsewhere(&old).await;
    let client = database.connect().await.unwrap();
    client.batch_execute("INSERT INTO orders VALUES (3)").await.unwrap();

    // By its snapshot alone the restored cursor would see neither of the two that are unread.
    let found: i64 = client
        .query_one(
            "SELECT count(*) FROM dapper_orders_input.change_sets s, dapper_orders_input.cursors c
              WHERE NOT pg_visible_in_snapshot(s.xid, c.prev)
                AND pg_visible_in_snapshot(s.xid, pg_current_snapshot())",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(found, 0, "the situation is not the one to test");

    let config = config("orders-input", database.url());
    let options = options_of(&config);
    let session = Session::open(&options.connection, "test").await.unwrap();
    let error = seal(&session, &schema, 6).await.err().unwrap();
    assert!(matches!(error, PostgresError::ForeignCluster { .. }), "{error}");
    assert!(error.to_string().contains("dapper rebase"), "{error}");

    assert_eq!(crate::rebase(&config).await.unwrap(), 3);
    let sealed = seal(&session, &schema, 6).await.unwrap();
    let progress = Progress::resume(sealed.position);
    let (claimed, attempt) = progress.inherited().unwrap();
    let limits = Limits { rows: 10, bytes: 1 << 20 };
    let mut reader = Reader::prepare(session.client(), &schema, limits).await.unwrap();
    client.batch_execute("INSERT INTO orders VALUES (4)").await.unwrap();
    let batch =
        reader.read(session.client(), &progress.next_read(), Some(claimed), usize::MAX).await.unwrap();
    let marked: Vec<bool> = batch.change_sets.iter().map(|change_set| change_set.claimed_before).collect();
    assert!(attempt > 1);
    assert_eq!(marked, [true, true, true, false]);
}

fn options_of(config: &dapper_core::InputConfig) -> Options {
    Options::parse(config).unwrap()
}

/// The fixture's database, dumped and restored into a younger cluster.
async fn restore_elsewhere(old: &Fixture) -> (Server, Database) {
    let server =
        tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await.unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let (source, target) = (old.database.url(), database.url());
    let bin = server.bin().map(Path::to_owned);
    tokio::task::spawn_blocking(move || {
        let tool = |name: &str| bin.as_ref().map_or_else(|| name.into(), |bin| bin.join(name));
        let dump = Command::new(tool("pg_dump")).args(["--dbname", &source]).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let mut psql = Command::new(tool("psql"))
            .args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", &target])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        psql.stdin.take().unwrap().write_all(&dump.stdout).unwrap();
        assert!(psql.wait().unwrap().success());
    })
    .await
    .unwrap();
    (server, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_an_event_id_is_never_used_again() {
    let settings = [
        ("synchronous_commit", "off"),
        ("wal_writer_delay", "10s"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("autovacuum", "off"),
    ];
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let server = tokio::task::spawn_blocking(move || {
        Server::start(&ServerOptions { settings, ..Default::default() }).unwrap()
    })
    .await
    .unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(ORDERS).await.unwrap();
    let config = config("orders-input", database.url());
    let fixture = Fixture::install(database, client, &config).await;
    let newest =
        "SELECT xid::text, seq, id::text FROM dapper_orders_input.change_sets ORDER BY seq DESC LIMIT 1";

    // A change that is visible, and undone by a crash; then another one. It begins a segment of the log, lest the log
    // be written as far as the end of a page in its midst. The server writes it now and then in any case: then again.
    let pair = |row: &tokio_postgres::Row| (row.get::<_, String>(0), row.get::<_, i64>(1));
    let mut client = fixture.database.connect().await.unwrap();
    for number in 1..=5 {
        client.batch_execute("CHECKPOINT; SELECT pg_switch_wal()").await.unwrap();
        client.batch_execute(&format!("INSERT INTO orders VALUES (-{number})")).await.unwrap();
        let lost = client.query_one(newest, &[]).await.unwrap();
        let server = fixture.database.server().clone();
        tokio::task::spawn_blocking(move || {
            server.stop(StopMode::Immediate).unwrap();
            server.restart().unwrap();
        })
        .await
        .unwrap();
        client = fixture.database.connect().await.unwrap();
        client.batch_execute(&format!("INSERT INTO orders VALUES ({number})")).await.unwrap();
        let other = client.query_one(newest, &[]).await.unwrap();
        if pair(&lost) == pair(&other) {
            assert_ne!(lost.get::<_, String>(2), other.get::<_, String>(2));
            return;
        }
    }
    panic!("never the situation to test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_taken_up_and_everything_unread_is_marked() {
    let (primary, standby, database, client) = primary_and_standby().await;
    let here = config("orders-input", database.url());
    let fixture = Fixture::install(database, client, &here).await;
    let schema = &fixture.options.names.schema;
    let sealed = seal(&fixture.session, schema, 1).await.unwrap();
    assert_eq!((sealed.promoted_from, sealed.position.claimed), (None, None));
    fixture.execute("INSERT INTO orders VALUES (1)").await;
    let lsn: String =
        fixture.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let url = standby.url(fixture.database.name());
    let there = connect(&url).await.unwrap();
    super::support::wait_until(&there, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")).await;
    // The old primary delivers this change and one more that never reaches the standby, and is gone.
    let _standby = tokio::task::spawn_blocking(move || {
        primary.stop(StopMode::Immediate).unwrap();
        standby.promote().unwrap();
        standby
    })
    .await
    .unwrap();
    super::support::wait_until(&there, "SELECT NOT pg_is_in_recovery()").await;
    let session = Session::open(&options_of(&config("orders-input", url)).connection, "test").await.unwrap();
    let sealed = seal(&session, schema, 2).await.unwrap();
    assert_eq!(sealed.promoted_from, Some(1));
    there.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    let progress = Progress::resume(sealed.position);
    let (claimed, attempt) = progress.inherited().unwrap();
    let mut reader =
        Reader::prepare(session.client(), schema, Limits { rows: 10, bytes: 1 << 20 }).await.unwrap();
    let batch =
        reader.read(session.client(), &progress.next_read(), Some(claimed), usize::MAX).await.unwrap();
    let marked: Vec<bool> = batch.change_sets.iter().map(|change_set| change_set.claimed_before).collect();
    assert_eq!((marked, attempt), (vec![true, false], 2));
}

const PARK: &str = "INSERT INTO dapper_orders_input.parked
    (event_id, process, lane, seq, position, location, id, event, attempt, tries, crashes_left, suspicion, ready_at)
    SELECT n || '/0', 'p', n, n, 0, 'orders', n::text, '{}', n, n, 3, 0, now() FROM generate_series(0, 2) n";
const PARKED: &str =
    "SELECT string_agg(attempt::text, ',' ORDER BY event_id) FROM dapper_orders_input.parked";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_marked_too_after_a_promotion_and_a_rebase() {
    let fixture = Fixture::new(ORDERS).await;
    let schema = &fixture.options.names.schema;
    fixture.execute(PARK).await;
    let parked = async || fixture.client.query_one(PARKED, &[]).await.unwrap().get::<_, String>(0);
    seal(&fixture.session, schema, 1).await.unwrap();
    assert_eq!(parked().await, "0,1,2", "whoever takes over otherwise knows of all tries");
    // As an older primary has left it.
    fixture.execute("UPDATE dapper_orders_input.cursors SET timeline = timeline - 1").await;
    let sealed = seal(&fixture.session, schema, 2).await.unwrap();
    assert!(sealed.promoted_from.is_some());
    assert_eq!(parked().await, "1,1,2", "the next try of each is not its first");
    fixture.execute("DELETE FROM dapper_orders_input.parked").await;
    fixture.execute(PARK).await;
    crate::rebase(&config("orders-input", fixture.database.url())).await.unwrap();
    assert_eq!(parked().await, "1,1,2");
}

/// Waits until what is there of the change sets is done, as the cursor says.
async fn wait_until_done(client: &tokio_postgres::Client) {
    let unread =
        "SELECT NOT EXISTS (SELECT FROM dapper_orders_input.change_sets s, dapper_orders_input.cursors c
        WHERE NOT pg_visible_in_snapshot(s.xid, c.prev))";
    super::support::wait_until(client, unread).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_recovery_to_an_earlier_point_what_is_there_and_unread_is_delivered_marked() {
    let (primary, backup, database, client) = primary_and_standby().await;
    let backup = tokio::task::spawn_blocking(move || {
        backup.stop(StopMode::Fast).unwrap();
        backup
    })
    .await
    .unwrap();
    let store = Arc::new(dapper_lock::MemoryStore::new());
    let here = config("orders-input", database.url());
    crate::install(&here).await.unwrap();
    let mut before = Replica::start(here.clone(), locks(&store)).await;
    let insert = async |client: &tokio_postgres::Client, id: i64| {
        client.execute("INSERT INTO orders VALUES ($1)", &[&id]).await.unwrap();
    };
    insert(&client, 1).await;
    let first = before.handle().await;
    wait_until_done(&client).await;
    before.stop().await;

    // At the point one is unread. After it that is delivered, and so is one more, of which nothing will be left.
    insert(&client, 2).await;
    client.batch_execute("SELECT pg_create_restore_point('earlier')").await.unwrap();
    insert(&client, 3).await;
    let mut meanwhile = Replica::start(here, locks(&store)).await;
    let after = meanwhile.handle_all(2).await;
    wait_until_done(&client).await;
    meanwhile.stop().await;
    let url = backup.url(database.name());
    let backup = tokio::task::spawn_blocking(move || {
        backup.recover_to("earlier").unwrap();
        backup
    })
    .await
    .unwrap();
    // The backup is older than the test's database.
    let maintenance = connect(&backup.url("postgres")).await.unwrap();
    super::support::wait_until(&maintenance, "SELECT NOT pg_is_in_recovery()").await;
    let there = connect(&url).await.unwrap();
    tokio::task::spawn_blocking(move || primary.stop(StopMode::Immediate).unwrap()).await.unwrap();
    let ids: Vec<i64> = there
        .query("SELECT id FROM orders ORDER BY id", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids, [1, 2], "the situation is not the one to test");

    // These take numbers of transactions, and of changes, that the old timeline has used.
    insert(&there, 4).await;
    let mut recovered = Replica::start(config("orders-input", url), locks(&store)).await;
    let mut found = recovered.handle_all(2).await;
    let warned = tokio::time::timeout(super::support::WAIT, recovered.errors.recv()).await.unwrap().unwrap();
    let warning = std::error::Error::source(&warned).unwrap().to_string();
    assert!(warning.contains("(timeline 1 to 2)"), "{warning}");
    insert(&there, 5).await;
    found.extend(recovered.handle().await);
    recovered.stop().await;
    let said: Vec<_> = found.iter().map(|event| (event.id.as_str(), event.attempt > Some(1))).collect();
    assert_eq!(said, [("2", true), ("4", true), ("5", false)]);
    let of = |events: &[dapper_core::Event], id: &str| {
        events.iter().find(|event| event.id == id).and_then(|event| event.event_id.clone()).unwrap()
    };
    assert_eq!(of(&found, "2"), of(&after, "2"), "a repeat goes by its first id");
    assert!(![of(&first, "1"), of(&after, "3")].contains(&of(&found, "4")));
}

#[tokio::test]
async fn a_holder_that_was_replaced_cannot_write_the_cursor_and_says_by_whom() {
    let fixture = Fixture::new(ORDERS).await;
    let (client, schema) = (fixture.session.client(), &fixture.options.names.schema);
    let mut first = seal(&fixture.session, schema, 3).await.unwrap();
    first.cursor.save(client, &first.position).await.unwrap();
    let mut second = seal(&fixture.session, schema, 5).await.unwrap();
    let fenced = first.cursor.save(client, &first.position).await;
    assert!(matches!(fenced, Err(PostgresError::Fenced { sealed: 5, ours: 3 })), "{fenced:?}");
    second.cursor.save(client, &second.position).await.unwrap();
    for late in [3, 4, 5] {
        let refused = seal(&fixture.session, schema, late).await.err();
        assert!(matches!(refused, Some(PostgresError::Fenced { sealed: 5, .. })), "{refused:?}");
    }
}
