//! Notifications that are lost, forged, or taken for the change itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dapper_lock::{LockStore, MemoryStore};
use dapper_testkit::Database;
use futures::{StreamExt, channel::mpsc, stream};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::fixture::{Dapper, NEVER, ORDERS, Recorder, database, ids, install, locks, lost};
use crate::{Harm, Pair, Row, Source};

/// What the notification carries is the change, and who does not listen loses it.
#[must_use]
pub fn nobody_listens() -> Row {
    Row {
        name: "nobody-listens",
        whose: const { &[Source::ANCESTOR] },
        bug: "a change is a notification, and nobody listens while replicas restart",
        ours: "a change is a row; a notification only says \"look\"",
        run: || Box::pin(nobody_listens_run()),
    }
}

/// The listener connects again by itself, and what was said meanwhile is gone.
#[must_use]
pub fn reconnect_gap() -> Row {
    Row {
        name: "reconnect-gap",
        whose: const {
            &[
                Source::thread("SQLx #447", "https://github.com/transact-rs/sqlx/issues/447"),
                Source::thread("Postgrex #637", "https://github.com/elixir-ecto/postgrex/issues/637"),
                Source::thread("EventStore #309", "https://github.com/commanded/eventstore/issues/309"),
            ]
        },
        bug: "notifications sent while the listener connects again are lost, silently",
        ours: "whoever connects again reads from the cursor",
        run: || Box::pin(reconnect_gap_run()),
    }
}

/// The session comes back, the LISTEN does not.
#[must_use]
pub fn listen_forgotten() -> Row {
    Row {
        name: "listen-forgotten",
        whose: const {
            &[
                Source::thread("Graphile Worker #541", "https://github.com/graphile/worker/issues/541"),
                Source::thread("GoodJob #303", "https://github.com/bensheldon/good_job/issues/303"),
                Source::thread("BullMQ #4729", "https://github.com/taskforcesh/bullmq/issues/4729"),
            ]
        },
        bug: "after a lost connection queries go on in a new one, and nobody listens in it",
        ours: "listening is part of opening the session, and a session is never mended",
        run: || Box::pin(listen_forgotten_run()),
    }
}

/// Any user may notify, and the listener believes what it hears.
#[must_use]
pub fn garbage_kills() -> Row {
    Row {
        name: "garbage-kills",
        whose: const { &[Source::ANCESTOR] },
        bug: "a notification that is no JSON ends every replica, as all of them hear it",
        ours: "a notification carries no data; garbage is counted and changes nothing",
        run: || Box::pin(garbage_kills_run()),
    }
}

/// Every replica hears every notification.
#[must_use]
pub fn handled_twice() -> Row {
    Row {
        name: "handled-twice",
        whose: const { &[Source::ANCESTOR] },
        bug: "the lock is `SELECT … FOR UPDATE` on a row that is not there, so all replicas handle all",
        ours: "one replica holds the lease, and the cursor row knows its token",
        run: || Box::pin(handled_twice_run()),
    }
}

/// A trigger that says the change itself, and a lock table without a row.
const NOTIFIES: &str = "
    CREATE TABLE seed_lock (resource int PRIMARY KEY);
    CREATE FUNCTION notify_seed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('seed', json_build_object('tbl', TG_TABLE_NAME, 'id', NEW.id, 'op', TG_OP)::text);
        RETURN NULL;
    END $$;
    CREATE TRIGGER notify_seed AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION notify_seed()";

/// A naive listener: one session, whose notifications are the changes.
struct Listener {
    client: Client,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn connect(database: &Database) -> Result<Self> {
        let (client, mut connection) = tokio_postgres::connect(&database.url(), NoTls).await?;
        let (sender, heard) = mpsc::unbounded();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message {
                    // Nobody listens any more when the scenario is over.
                    let _ = sender.unbounded_send(notification.payload().to_owned());
                }
            }
        });
        Ok(Self { client, heard })
    }

    async fn start(database: &Database) -> Result<Self> {
        let listener = Self::connect(database).await?;
        let lock = "BEGIN; SELECT FROM seed_lock WHERE resource = 1 FOR UPDATE; COMMIT; LISTEN seed";
        listener.client.batch_execute(lock).await?;
        Ok(listener)
    }

    /// The ids it hears until it is silent for a while, and whether it still lives.
    async fn ids(&mut self) -> (Vec<String>, bool) {
        let mut ids = Vec::new();
        while let Ok(Some(text)) = timeout(NEVER, self.heard.next()).await {
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(change) => ids.push(change["id"].to_string()),
                Err(_) => return (ids, false),
            }
        }
        (ids, true)
    }
}

const CHANGES: u32 = 10;

async fn insert(client: &Client, numbers: std::ops::Range<u32>) -> Result<()> {
    for number in numbers {
        client.execute("INSERT INTO orders VALUES ($1)", &[&i64::from(number)]).await?;
    }
    Ok(())
}

fn lost_of(wanted: &[String], got: &[String]) -> Harm {
    Harm::new("changes lost", lost(wanted, got), wanted.len())
}

async fn nobody_listens_run() -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let (there, client) = database(&format!("{ORDERS}; {NOTIFIES}")).await?;
    drop(Listener::start(&there).await?);
    insert(&client, 0..CHANGES).await?;
    let (heard, _) = Listener::start(&there).await?.ids().await;

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let recorder = Recorder::new();
    Dapper::start(&here, Arc::clone(&recorder) as _).await?.stop().await?;
    insert(&client, 0..CHANGES).await?;
    let dapper = Dapper::start(&here, Arc::clone(&recorder) as _).await?;
    recorder.missing(wanted.clone()).await;
    dapper.stop().await?;
    Ok(Pair::new(lost_of(&wanted, &heard), lost_of(&wanted, &recorder.ids())))
}

/// Ends the sessions of everybody but the application, as a restart or a network does.
const END_SESSIONS: &str = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";

async fn reconnect_gap_run() -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let (there, client) = database(&format!("{ORDERS}; {NOTIFIES}")).await?;
    let first = Listener::start(&there).await?;
    client.query(END_SESSIONS, &[]).await?;
    insert(&client, 0..CHANGES).await?;
    drop(first);
    let (heard, _) = Listener::start(&there).await?.ids().await;

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let recorder = Recorder::new();
    let dapper = awake(&here, &client, &recorder).await?;
    client.query(END_SESSIONS, &[]).await?;
    insert(&client, 0..CHANGES).await?;
    recorder.missing(wanted.clone()).await;
    dapper.stop().await?;
    Ok(Pair::new(lost_of(&wanted, &heard), lost_of(&wanted, &recorder.ids())))
}

/// A replica that has handled something: it holds the lease, and has read all there is.
async fn awake(database: &Database, client: &Client, recorder: &Arc<Recorder>) -> Result<Dapper> {
    const FIRST: u32 = 1_000_000;
    let dapper = Dapper::start(database, Arc::clone(recorder) as _).await?;
    insert(client, FIRST..FIRST + 1).await?;
    recorder.missing(ids([FIRST])).await;
    Ok(dapper)
}

async fn listen_forgotten_run() -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let (there, client) = database(&format!("{ORDERS}; {NOTIFIES}")).await?;
    drop(Listener::start(&there).await?);
    client.query(END_SESSIONS, &[]).await?;
    // The pool gives a new session, in which all queries work.
    let mut second = Listener::connect(&there).await?;
    second.client.batch_execute("SELECT 1").await?;
    insert(&client, 0..CHANGES).await?;
    let (heard, _) = second.ids().await;

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let recorder = Recorder::new();
    let dapper = awake(&here, &client, &recorder).await?;
    client.query(END_SESSIONS, &[]).await?;
    // The first change brings it back for sure; it has gone to sleep again when the others come.
    insert(&client, CHANGES..CHANGES + 1).await?;
    recorder.missing(ids([CHANGES])).await;
    for number in 0..CHANGES {
        tokio::time::sleep(Duration::from_millis(50)).await;
        insert(&client, number..number + 1).await?;
    }
    recorder.missing(wanted.clone()).await;
    dapper.stop().await?;
    Ok(Pair::new(lost_of(&wanted, &heard), lost_of(&wanted, &recorder.ids())))
}

async fn garbage_kills_run() -> Result<Pair> {
    let wanted = ids(0..CHANGES);
    let (there, client) = database(&format!("{ORDERS}; {NOTIFIES}")).await?;
    let (mut one, mut two) = (Listener::start(&there).await?, Listener::start(&there).await?);
    client.batch_execute("NOTIFY seed, 'garbage'").await?;
    insert(&client, 0..CHANGES).await?;
    let ((mut heard, _), (also, _)) = (one.ids().await, two.ids().await);
    heard.extend(also);

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let recorder = Recorder::new();
    let dapper = awake(&here, &client, &recorder).await?;
    client.batch_execute("NOTIFY repro, 'garbage'").await?;
    insert(&client, 0..CHANGES).await?;
    recorder.missing(wanted.clone()).await;
    dapper.stop().await?;
    Ok(Pair::new(lost_of(&wanted, &heard), lost_of(&wanted, &recorder.ids())))
}

async fn handled_twice_run() -> Result<Pair> {
    let (there, client) = database(&format!("{ORDERS}; {NOTIFIES}")).await?;
    let (mut one, mut two) = (Listener::start(&there).await?, Listener::start(&there).await?);
    insert(&client, 0..CHANGES).await?;
    let twice = one.ids().await.0.len() + two.ids().await.0.len() - CHANGES as usize;

    let (here, client) = database(ORDERS).await?;
    install(&here).await?;
    let (recorder, store) = (Recorder::new(), Arc::new(MemoryStore::new()));
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let locks = locks(Arc::clone(&store) as Arc<dyn LockStore>)?;
        replicas.push(Dapper::start_with(&here, locks, &[Arc::clone(&recorder) as _]).await?);
    }
    insert(&client, 0..CHANGES).await?;
    recorder.missing(ids(0..CHANGES)).await;
    for replica in replicas {
        replica.stop().await?;
    }
    let again = recorder.ids().len() - CHANGES as usize;
    let harm = |count| Harm::new("changes handled twice", count, CHANGES as usize);
    Ok(Pair::new(harm(twice), harm(again)))
}
