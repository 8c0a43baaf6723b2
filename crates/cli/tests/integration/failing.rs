//! Replicas as processes whose events fail, or whose programs die of an event; and the commands for what becomes of these.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dapper_testkit::failing_key::{self, FailingKeyOptions};
use dapper_testkit::{Cluster, ClusterOptions, Database, Receiver, Reply};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{SMALL, database};

const LIMIT: Duration = Duration::from_secs(120);
const PARKED: &str = "SELECT count(*) FROM dapper_orders_input.parked";
const DEAD: &str = "SELECT count(*) FROM dapper_orders_input.dead_letters";

/// The example `poison`, which is built with the tests unless these are built alone.
fn poison() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_dapper")).parent().unwrap();
    let program = folder.join("examples/poison");
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "dapper-orchestrator-cli", "--example", "poison"])
            .status();
        assert!(built.unwrap().success());
    }
    program
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.map_or(-1, |row| row.get(0))
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_true().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two replicas of a program that are started again when they end, and what their processes printed.
struct Supervised {
    cluster: Cluster,
    printed: Arc<Mutex<Vec<Value>>>,
    crashes: usize,
}

impl Supervised {
    async fn start(program: PathBuf, pipeline: String, database: &Database, client: &Client) -> Self {
        let environment = vec![("DATABASE_URL".into(), database.url())];
        let mut cluster =
            Cluster::new(ClusterOptions { program, pipeline, environment, ..Default::default() }).unwrap();
        let output = cluster.collect_output().unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&printed);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        cluster.start_replica().unwrap();
        cluster.start_replica().unwrap();
        cluster.wait_for_leader(0, LIMIT).await.unwrap();
        let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'dapper%'";
        until("covered", async || count(client, triggers).await >= 3).await;
        Self { cluster, printed, crashes: 0 }
    }

    /// Starts one for each that has ended.
    fn revive(&mut self) {
        let ended = self.cluster.replicas().iter().filter(|replica| !replica.is_running()).count();
        while self.crashes < ended {
            self.crashes += 1;
            self.cluster.start_replica().unwrap();
        }
    }

    fn printed(&self) -> Vec<Value> {
        self.printed.lock().unwrap().clone()
    }
}

fn poisoned(abort_from: u32) -> String {
    let context = format!(
        "type = \"poison\"\n[processes.execution_context]\nid = \"77\"\nabort_from = \"{abort_from}\"\n\
         [processes.retry]\nmin_backoff = \"5ms\"\nmax_crashes = 2\n"
    );
    SMALL.replace("type = \"log\"", &context)
}

async fn the_culprit_alone_is_buried(abort_from: u32, most_crashes: usize) {
    let (database, client) = database().await;
    let mut replicas = Supervised::start(poison(), poisoned(abort_from), &database, &client).await;
    client
        .batch_execute(
            "ALTER TABLE orders ADD COLUMN v int; INSERT INTO orders SELECT generate_series(1, 150)",
        )
        .await
        .unwrap();
    for id in 151..=160 {
        client.batch_execute(&format!("INSERT INTO orders VALUES ({id})")).await.unwrap();
    }
    client
        .batch_execute("UPDATE orders SET v = 1 WHERE id = 77; UPDATE orders SET v = 2 WHERE id = 77")
        .await
        .unwrap();
    until("all is delivered but one", async || {
        replicas.revive();
        let ids: std::collections::HashSet<String> =
            replicas.printed().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
        count(&client, DEAD).await == 1 && count(&client, PARKED).await == 0 && ids.len() >= 159 + 2
    })
    .await;
    let dead =
        client.query_one("SELECT id, process FROM dapper_orders_input.dead_letters", &[]).await.unwrap();
    assert_eq!((dead.get(0), dead.get(1)), ("77", "print"));
    assert!(replicas.crashes >= 2 && replicas.crashes <= most_crashes, "{} crashes", replicas.crashes);

    // From now on nobody dies, and everything goes the short way.
    client.batch_execute("INSERT INTO orders VALUES (161)").await.unwrap();
    until("the next", async || replicas.printed().iter().any(|event| event["id"] == "161")).await;
    let running = replicas.cluster.replicas().iter().filter(|replica| replica.is_running()).count();
    assert_eq!(running, 2);
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut of_77 = Vec::new();
    for event in replicas.printed() {
        let event_id = event["event_id"].as_str().unwrap().to_owned();
        let times = seen.entry(event_id.clone()).or_default();
        *times += 1;
        assert!(*times == 1 || event["attempt"].as_u64() > Some(1), "an unmarked repeat: {event}");
        if event["id"] == "77" && *times == 1 {
            of_77.push(event["captured_at"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen.len(), 159 + 2 + 1);
    assert!(of_77.len() == 2 && of_77.is_sorted(), "{of_77:?}");

    // The commands.
    let pipeline = replicas.cluster.pipeline().to_owned();
    let dapper = |arguments: &[&str]| {
        let (name, rest) = arguments.split_at(if arguments[0] == "replay" { 1 } else { 2 });
        let output = Command::new(poison())
            .args(name)
            .arg(&pipeline)
            .args(rest)
            .env("DATABASE_URL", database.url())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = dapper(&["dead-letters", "list", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["inputs"][0]["total"], 1);
    assert_eq!(listed["inputs"][0]["dead_letters"][0]["event"]["id"], "77");
    let (code, out, _) = dapper(&["dead-letters", "show", "orders-input", "--key", "77"]);
    assert!(
        code == Some(0) && out.contains("table    orders") && out.contains("\"operation\":\"create\""),
        "{out}"
    );
    let (code, _, err) = dapper(&["dead-letters", "discard"]);
    assert!(code == Some(1) && err.contains("which dead letters?"), "{err}");
    let (code, _, err) = dapper(&["dead-letters", "retry", "orders-inputs", "--all"]);
    assert!(code == Some(1) && err.contains("did you mean \"orders-input\"?"), "{err}");
    let (code, out, _) = dapper(&["dead-letters", "discard", "--process", "print"]);
    assert_eq!((code, out.as_str()), (Some(0), "orders-input: 1 dead letter is discarded\n"));
    let (code, _, err) = dapper(&["replay", "orders-input", "--since", "1h", "--process", "prin"]);
    assert!(code == Some(1) && err.contains("did you mean \"print\"?"), "{err}");
    let (code, out, err) = dapper(&["replay", "orders-input", "--since", "1h", "--key", "5"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("1 event(s) since") && out.contains("delivered again to print"), "{out}");
    until("the replay", async || replicas.printed().iter().any(|event| event["replay"] == true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_aborts_the_program_is_found_and_buried_and_all_others_are_delivered() {
    the_culprit_alone_is_buried(1, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_aborts_the_program_when_it_is_resumed_is_counted_before() {
    the_culprit_alone_is_buried(5, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_refuses_one_key_does_not_hold_up_the_others_whoever_is_killed_meanwhile() {
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    receiver
        .reply_with(|request| if request.text("id") == Some("0") { Reply::status(500) } else { Reply::OK });
    let context = format!(
        "type = \"webhook\"\n[processes.execution_context]\nurl = \"{}\"\n\
         [processes.retry]\nmin_backoff = \"20ms\"\nmax_backoff = \"200ms\"\nmax_attempts = 1000\n",
        receiver.url()
    );
    let pipeline = SMALL.replace("type = \"log\"", &context);
    let program = env!("CARGO_BIN_EXE_dapper").into();
    let mut replicas = Supervised::start(program, pipeline, &database, &client).await;
    client.batch_execute("ALTER TABLE orders ADD COLUMN v int; INSERT INTO orders VALUES (0)").await.unwrap();
    let mut leader = replicas.cluster.leader().unwrap();
    for round in 0..4 {
        client
            .batch_execute(&format!(
                "INSERT INTO orders SELECT generate_series({round} * 1500 + 1, {round} * 1500 + 1500)"
            ))
            .await
            .unwrap();
        for v in 0..5 {
            client.batch_execute(&format!("UPDATE orders SET v = {v} WHERE id = 0")).await.unwrap();
        }
        let all = (round + 1) * 1500;
        let others = || {
            receiver
                .deliveries()
                .iter()
                .map(|delivery| delivery.event_id.clone())
                .collect::<std::collections::HashSet<_>>()
                .len()
        };
        until("the others", async || others() >= all).await;
        replicas.cluster.replicas()[leader.replica].kill_9().unwrap();
        until("the death", async || !replicas.cluster.replicas()[leader.replica].is_running()).await;
        replicas.revive();
        leader = replicas.cluster.wait_for_leader(leader.token, LIMIT).await.unwrap();
    }
    until("it is parked", async || count(&client, PARKED).await == 21).await;
    receiver.reply(Reply::OK);
    until("nothing is parked", async || count(&client, PARKED).await == 0).await;
    let of_0: Vec<_> =
        receiver.requests().into_iter().filter(|request| request.text("id") == Some("0")).collect();
    let mut handled: Vec<String> =
        of_0.iter().map(|request| request.text("event_id").unwrap().to_owned()).collect();
    handled.dedup();
    assert_eq!(handled.len(), 21, "in order, and only the first more than once");
    let at: Vec<_> = of_0.iter().map(|request| request.text("captured_at").unwrap().to_owned()).collect();
    assert!(at.is_sorted(), "{at:?}");
}

/// Whoever sealed the cursor last owns what is parked: every other write of it is written down.
const WATCH: &str = "CREATE SCHEMA watch;
CREATE TABLE watch.owner AS SELECT 0 AS session;
CREATE TABLE watch.writes (session int, is_owner boolean);
CREATE FUNCTION watch.sealed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE watch.owner SET session = pg_backend_pid(); RETURN NULL; END $$;
CREATE FUNCTION watch.written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO watch.writes SELECT pg_backend_pid(), o.session = pg_backend_pid() FROM watch.owner o; RETURN NULL; END $$;
CREATE TRIGGER watch AFTER UPDATE OF token ON dapper_orders_input.cursors FOR EACH ROW
    WHEN (OLD.token <> NEW.token) EXECUTE FUNCTION watch.sealed();
CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON dapper_orders_input.parked FOR EACH ROW
    EXECUTE FUNCTION watch.written()";

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_frozen_with_parked_events_in_hand_writes_nothing_of_them_when_it_thaws() {
    const KEYS: usize = 20;
    const CHANGES: usize = 4;
    let (database, client) = database().await;
    let receiver = Receiver::start().await.unwrap();
    // So slow that some event is always in somebody's hands.
    receiver.reply(Reply::status(500).after(Duration::from_millis(200)));
    let context = format!(
        "type = \"webhook\"\n[processes.execution_context]\nurl = \"{}\"\n[processes.retry]\n\
         min_backoff = \"10ms\"\nmax_backoff = \"50ms\"\nmax_attempts = 10000\nmax_crashes = 1000\n",
        receiver.url()
    );
    let pipeline = format!("[lock]\nttl = \"2s\"\n{}", SMALL.replace("type = \"log\"", &context));
    let program = env!("CARGO_BIN_EXE_dapper").into();
    let replicas = Supervised::start(program, pipeline, &database, &client).await;
    client
        .batch_execute(&format!(
            "ALTER TABLE orders ADD COLUMN v int; INSERT INTO orders SELECT generate_series(1, {KEYS})"
        ))
        .await
        .unwrap();
    for v in 1..CHANGES {
        client.batch_execute(&format!("UPDATE orders SET v = {v}")).await.unwrap();
    }
    let all = i64::try_from(KEYS * CHANGES).unwrap();
    until("all is parked", async || count(&client, PARKED).await == all).await;
    client.batch_execute(WATCH).await.unwrap();
    // Whether it writes before it notices that its lease is over is a matter of luck each time.
    for _ in 0..5 {
        let frozen = replicas.cluster.leader().unwrap();
        let zombie = &replicas.cluster.replicas()[frozen.replica];
        let stood_by = || zombie.log().lines().iter().filter(|line| line.message() == "standing by").count();
        let before = stood_by();
        let claimed = format!("{PARKED} WHERE claimed = {}", frozen.token);
        until("something is in hand", async || count(&client, &claimed).await > 0).await;
        zombie.freeze().unwrap();
        replicas.cluster.wait_for_leader(frozen.token, LIMIT).await.unwrap();
        let by_owner = "SELECT count(*) FROM watch.writes w JOIN watch.owner o USING (session)";
        until("the next one tries them", async || count(&client, by_owner).await > 10).await;
        zombie.thaw().unwrap();
        until("it stands by", async || stood_by() > before).await;
    }
    receiver.reply(Reply::OK);
    until("nothing is parked", async || count(&client, PARKED).await == 0).await;
    assert_eq!(count(&client, "SELECT count(*) FROM watch.writes WHERE NOT is_owner").await, 0);
    assert_eq!(count(&client, DEAD).await, 0);
    let mut of_keys: HashMap<String, Vec<String>> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    // On a busy machine a lease may end at any time, and what was just handled comes once more.
    for delivery in receiver.deliveries().into_iter().filter(|one| seen.insert(one.event_id.clone())) {
        of_keys.entry(delivery.key).or_default().push(delivery.captured_at.unwrap());
    }
    assert_eq!(of_keys.len(), KEYS);
    for (key, at) in of_keys {
        assert!(at.len() == CHANGES && at.is_sorted(), "{key}: {at:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_refused_for_long_hardly_slows_the_others_down_and_comes_in_order_afterwards() {
    let options = FailingKeyOptions {
        program: env!("CARGO_BIN_EXE_dapper").into(),
        limit: Duration::from_secs(12),
        slice: Duration::from_secs(2),
        rate: 100,
    };
    let report = failing_key::run(&options, |_| ()).await.unwrap();
    assert_eq!(report.wrong, Vec::<String>::new());
    let [without, with] = report.percentiles(990);
    // Whether it is twice as much is for a quiet machine and a longer run to say: `cargo xtask failing-key`.
    let bound = (without * 4).max(Duration::from_millis(250));
    assert!(with < bound, "p99 of {with:?} with a refused key, {without:?} without");
}
