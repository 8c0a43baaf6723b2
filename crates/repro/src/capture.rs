//! Triggers that fail the application's statements, or say the wrong thing.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use dapper_testkit::{Database, Server, ServerOptions};
use tokio_postgres::Client;

use crate::fixture::{Dapper, ORDERS, Recorder, config, database, install};
use crate::outbox::OUTBOX;
use crate::{Harm, Pair, Row, Source};

/// A trigger that names a column which not every table has.
#[must_use]
pub fn insert_fails() -> Row {
    Row {
        name: "insert-fails",
        whose: const { &[Source::ANCESTOR] },
        bug: "the trigger says `NEW.id` as a number; on other tables the application's own INSERT fails",
        ours: "the key is what the catalog says it is, of any type, of several columns, or none",
        run: || Box::pin(insert_fails_run()),
    }
}

/// The id of a deleted row is taken from the row that is not there.
#[must_use]
pub fn delete_without_id() -> Row {
    Row {
        name: "delete-without-id",
        whose: const { &[Source::ANCESTOR] },
        bug: "a DELETE is told with the id 0",
        ours: "the keys of what was deleted come from the rows before the change",
        run: || Box::pin(delete_without_id_run()),
    }
}

/// The payload of a notification has a limit, and the trigger runs in the application's transaction.
#[must_use]
pub fn payload_too_long() -> Row {
    Row {
        name: "payload-too-long",
        whose: const {
            &[
                Source::thread("Appstrate #1340", "https://github.com/appstrate/appstrate/issues/1340"),
                Source::thread(
                    "channels_postgres #84",
                    "https://github.com/danidee10/channels_postgres/issues/84",
                ),
            ]
        },
        bug: "a row of more than 8,000 bytes is too long for NOTIFY, and the application's INSERT is undone",
        ours: "the notification is empty",
        run: || Box::pin(payload_too_long_run()),
    }
}

/// Prepared transactions can't notify.
#[must_use]
pub fn prepared_transaction() -> Row {
    Row {
        name: "prepared-transaction",
        whose: const { &[Source::thread("pq #20", "https://github.com/malthe/pq/issues/20")] },
        bug: "the trigger notifies, and PostgreSQL refuses to PREPARE a transaction that has",
        ours: "where transactions can be prepared, writers never notify and the reader polls",
        run: || Box::pin(prepared_transaction_run()),
    }
}

/// The trigger runs with the rights of whoever writes.
#[must_use]
pub fn writer_without_rights() -> Row {
    Row {
        name: "writer-without-rights",
        whose: const { &[Source::thread("Supabase #21825", "https://github.com/supabase/supabase/issues/21825")] },
        bug: "the trigger's function writes with the writer's rights, who has none on its tables",
        ours: "the function runs with the rights of its owner, every name in it qualified",
        run: || Box::pin(writer_without_rights_run()),
    }
}

/// `CREATE OR REPLACE` is not safe against itself.
#[must_use]
pub fn install_race() -> Row {
    Row {
        name: "install-race",
        whose: const {
            &[
                Source::ANCESTOR,
                Source::thread("Medusa #15176", "https://github.com/medusajs/medusa/pull/15176"),
            ]
        },
        bug: "replicas that start at once run CREATE OR REPLACE at once, and some of them die of it",
        ours: "one installs at a time, and only what is not there yet",
        run: || Box::pin(install_race_run()),
    }
}

/// A row trigger as one finds it: notifies with table, id and operation.
const ROW_TRIGGER: &str = "
    CREATE OR REPLACE FUNCTION notify_row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('seed', json_build_object('tbl', TG_TABLE_NAME, 'id', COALESCE(NEW.id, 0), 'op', TG_OP)::text);
        RETURN NULL;
    END $$;
    DO $$ DECLARE t text; BEGIN
        FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE format('CREATE OR REPLACE TRIGGER notify_row AFTER INSERT OR UPDATE OR DELETE ON %I
                            FOR EACH ROW EXECUTE FUNCTION notify_row()', t);
        END LOOP;
    END $$";

/// How many of the statements fail.
async fn failed(client: &Client, statements: &[&str]) -> Harm {
    let mut failed = 0;
    for statement in statements {
        failed += usize::from(client.batch_execute(statement).await.is_err());
    }
    Harm::new("statements of the application failed", failed, statements.len())
}

/// What dapper says of the changes, a line each, once there are so many.
async fn told(database: &Database, count: usize) -> Result<Vec<String>> {
    let recorder = Recorder::new();
    let dapper = Dapper::start(database, Arc::clone(&recorder) as _).await?;
    recorder.until(crate::fixture::WAIT, |recorder| recorder.handled().len() >= count).await;
    dapper.stop().await?;
    let events = recorder.handled();
    Ok(events.iter().map(|event| format!("{} {} {}", event.location, event.operation, event.id)).collect())
}

/// A statement that passes must have been captured, too.
async fn captured(database: &Database, count: usize) -> Result<()> {
    let told = told(database, count).await?;
    if told.len() != count {
        bail!("{} of {count} changes were captured: {told:?}", told.len());
    }
    Ok(())
}

async fn insert_fails_run() -> Result<Pair> {
    const TABLES: &str = "CREATE TABLE no_id (v int); CREATE TABLE uuid_id (id uuid PRIMARY KEY);
        CREATE TABLE text_id (id text PRIMARY KEY); CREATE TABLE two_ids (a int, b int, PRIMARY KEY (a, b));
        CREATE TABLE blob_id (id bytea PRIMARY KEY)";
    const INSERTS: [&str; 5] = [
        "INSERT INTO no_id VALUES (1)",
        "INSERT INTO uuid_id VALUES ('00000000-0000-0000-0000-000000000001')",
        "INSERT INTO text_id VALUES ('x')",
        "INSERT INTO two_ids VALUES (1, 2)",
        r"INSERT INTO blob_id VALUES ('\x00ff')",
    ];
    let (_there, client) = database(&format!("{TABLES}; {ROW_TRIGGER}")).await?;
    let naive = failed(&client, &INSERTS).await;
    let (here, client) = database(TABLES).await?;
    install(&here).await?;
    let ours = failed(&client, &INSERTS).await;
    captured(&here, INSERTS.len()).await?;
    Ok(Pair::new(naive, ours))
}

async fn delete_without_id_run() -> Result<Pair> {
    const ROWS: usize = 10;
    let rows = "INSERT INTO orders SELECT n FROM generate_series(1, 10) n";
    // The same function, writing down what it would have said.
    let says = ROW_TRIGGER.replace(
        "PERFORM pg_notify('seed', json_build_object('tbl', TG_TABLE_NAME, 'id', COALESCE(NEW.id, 0), 'op', TG_OP)::text)",
        "INSERT INTO said VALUES (COALESCE(NEW.id, 0))",
    );
    let (_there, client) =
        database(&format!("{ORDERS}; {rows}; {says}; CREATE TABLE said (id bigint)")).await?;
    client.batch_execute("DELETE FROM orders").await?;
    let right = "SELECT count(DISTINCT id) FROM said WHERE id BETWEEN 1 AND 10";
    let right: i64 = client.query_one(right, &[]).await?.get(0);
    let harm = |right: usize| Harm::new("deletions with a wrong id", ROWS - right, ROWS);
    let naive = harm(usize::try_from(right)?);

    let (here, client) = database(&format!("{ORDERS}; {rows}")).await?;
    install(&here).await?;
    client.batch_execute("DELETE FROM orders").await?;
    let told = told(&here, ROWS).await?;
    let right = (1..=ROWS).filter(|n| told.contains(&format!("orders delete {n}"))).count();
    Ok(Pair::new(naive, harm(right)))
}

async fn payload_too_long_run() -> Result<Pair> {
    const INSERTS: [&str; 3] = [
        "INSERT INTO orders VALUES (1, repeat('x', 7000))",
        "INSERT INTO orders VALUES (2, repeat('x', 9000))",
        "INSERT INTO orders VALUES (3, repeat('é', 5000))",
    ];
    let trigger = "
        CREATE FUNCTION notify_whole() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_notify('orders', row_to_json(NEW)::text); RETURN NULL; END $$;
        CREATE TRIGGER notify_whole AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION notify_whole()";
    let (_there, client) = database(&format!("{ORDERS}; {trigger}")).await?;
    let naive = failed(&client, &INSERTS).await;
    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let ours = failed(&client, &INSERTS).await;
    captured(&here, INSERTS.len()).await?;
    Ok(Pair::new(naive, ours))
}

async fn prepared_transaction_run() -> Result<Pair> {
    const STATEMENTS: [&str; 2] = [
        "BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'one'",
        "BEGIN; INSERT INTO orders VALUES (2); PREPARE TRANSACTION 'two'",
    ];
    const COMMIT: &str = "COMMIT PREPARED 'one'";
    let settings = vec![("max_prepared_transactions".to_owned(), "4".to_owned())];
    let start = move || Server::start(&ServerOptions { settings, ..ServerOptions::default() });
    let server = tokio::task::spawn_blocking(start).await??;
    let there = Database::create_on(&server).await?;
    let client = there.connect().await?;
    client.batch_execute(&format!("{ORDERS}; {ROW_TRIGGER}")).await?;
    let naive = failed(&client, &STATEMENTS).await;

    let here = Database::create_on(&server).await?;
    let client = here.connect().await?;
    client.batch_execute(ORDERS).await?;
    install(&here).await?;
    let ours = failed(&client, &STATEMENTS).await;
    // One is still prepared while the other is delivered.
    client.batch_execute(COMMIT).await.context(COMMIT)?;
    captured(&here, 1).await?;
    client.batch_execute("ROLLBACK PREPARED 'two'").await?;
    Ok(Pair::new(naive, ours))
}

async fn writer_without_rights_run() -> Result<Pair> {
    const INSERTS: [&str; 2] = ["INSERT INTO orders VALUES (1)", "INSERT INTO orders VALUES (2)"];
    let (there, client) = database(&format!("{ORDERS}; {OUTBOX}")).await?;
    let naive = failed(&writer(&there, &client).await?, &INSERTS).await;
    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let ours = failed(&writer(&here, &client).await?, &INSERTS).await;
    captured(&here, INSERTS.len()).await?;
    Ok(Pair::new(naive, ours))
}

/// A session of a role that may write orders, and nothing else.
async fn writer(database: &Database, owner: &Client) -> Result<Client> {
    // Roles belong to the server, which several databases of these scenarios share.
    let role = format!("{}_writer", database.name());
    owner.batch_execute(&format!("CREATE ROLE {role}; GRANT INSERT, UPDATE ON orders TO {role}")).await?;
    let client = database.connect().await?;
    client.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).await?;
    Ok(client)
}

const REPLICAS: usize = 8;
/// The race is won sometimes; in so many rounds never.
const ROUNDS: usize = 50;

async fn install_race_run() -> Result<Pair> {
    let harm = |count| Harm::new("replicas died at the start", count, REPLICAS);
    let (there, _client) = database(ORDERS).await?;
    let mut clients = Vec::new();
    for _ in 0..REPLICAS {
        clients.push(there.connect().await?);
    }
    let mut died = 0;
    for _ in 0..ROUNDS {
        let installs = clients.iter().map(|client| client.batch_execute(ROW_TRIGGER));
        died = futures::future::join_all(installs).await.iter().filter(|done| done.is_err()).count();
        if died > 0 {
            break;
        }
        clients[0].batch_execute("DROP FUNCTION notify_row CASCADE").await?;
    }

    let (here, _client) = database(ORDERS).await?;
    let installs = (0..REPLICAS).map(|_| async { dapper_postgres::install(&config(here.url())).await });
    let failed = futures::future::join_all(installs).await.iter().filter(|done| done.is_err()).count();
    Ok(Pair::new(harm(died), harm(failed)))
}
