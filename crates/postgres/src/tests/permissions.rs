//! `docs/permissions.md` read as a program: its roles do what it says, and no longer do without any one of the rights.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::{CancellationToken, Entry, EventSink, Fate, InputConfig, Parcel, Settle};
use dapper_lock::{LeaseConfig, LockManager};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore, SchemaName};
use dapper_testkit::{Database, Server, ServerOptions, connect};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::support::{WAIT, config};
use crate::coverage::{self, Mode, Pauses};
use crate::layout::{self, Access};
use crate::options::Options;
use crate::rotation::Rotation;
use crate::session::Session;
use crate::{PostgresInput, State, StatusReader};

const PAGE: &str = include_str!("../../../../docs/permissions.md");

/// The statements of the page's block with that name.
fn block(name: &str) -> Vec<String> {
    let (_, rest) = PAGE.split_once(&format!("```sql {name}\n")).expect("the page has the block");
    let (block, _) = rest.split_once("```").expect("the block ends");
    block.split(';').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// One privilege on one object, of a GRANT that may name several of both.
#[derive(Clone, Debug)]
struct Right {
    privilege: String,
    object: String,
    role: String,
}

impl Right {
    fn of(grant: &str) -> Vec<Self> {
        let Some(grant) = grant.strip_prefix("GRANT ") else { return Vec::new() };
        let (privileges, rest) = grant.split_once(" ON ").expect("a grant on something");
        let (objects, role) = rest.split_once(" TO ").expect("a grant to somebody");
        let mut rights = Vec::new();
        for object in objects.split(',').map(str::trim) {
            for privilege in privileges.split(',').map(str::trim) {
                let (privilege, object, role) = (privilege.into(), object.into(), role.into());
                rights.push(Self { privilege, object, role });
            }
        }
        rights
    }

    fn revoke(&self) -> String {
        format!("REVOKE {} ON {} FROM {}", self.privilege, self.object, self.role)
    }

    fn grant(&self) -> String {
        format!("GRANT {} ON {} TO {}", self.privilege, self.object, self.role)
    }
}

struct Shop {
    database: Database,
    superuser: Client,
    app: Client,
    /// The id of the next order.
    next: i32,
}

impl Shop {
    /// A server of its own, because roles belong to the whole server.
    async fn new() -> Self {
        let server =
            tokio::task::spawn_blocking(|| Server::start(&ServerOptions::default()).unwrap()).await.unwrap();
        let database = Database::create_on(&server).await.unwrap();
        let superuser = database.connect().await.unwrap();
        superuser
            .batch_execute(
                "REVOKE ALL ON SCHEMA public FROM PUBLIC;
                 CREATE ROLE shop_owner; GRANT USAGE, CREATE ON SCHEMA public TO shop_owner;
                 CREATE ROLE shop_app LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA public TO shop_app;
                 SET ROLE shop_owner;
                 CREATE TABLE orders (id int PRIMARY KEY, note text);
                 CREATE TABLE hidden (id int PRIMARY KEY, owner text DEFAULT current_user);
                 ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY own ON hidden USING (owner = current_user);
                 GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON orders, hidden TO shop_app;
                 RESET ROLE",
            )
            .await
            .unwrap();
        let app = connect(&database.url_as("shop_app", "secret")).await.unwrap();
        Self { database, superuser, app, next: 0 }
    }

    /// Runs a statement of the page, which calls the database `shop`.
    async fn run(&self, client: &Client, statement: &str) {
        let statement = statement.replace("DATABASE shop", &format!("DATABASE {}", self.database.name()));
        client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    fn config(&self, role: &str) -> InputConfig {
        config("orders-input", self.database.url_as(role, "secret"))
    }

    fn leases(&self, role: &str) -> PostgresLockStore {
        let schema = SchemaName::new("dapper_orders_input").unwrap();
        let options = PostgresLockOptions { schema, ..PostgresLockOptions::default() };
        PostgresLockStore::new(self.database.url_as(role, "secret").parse().unwrap(), options)
    }

    async fn install(&self) -> Result<(), String> {
        let config = self.config("dapper_install");
        let report = crate::install(&config).await.map_err(|error| format!("{error:?}"))?;
        if !report.failed.is_empty() {
            return Err(format!("{:?}", report.failed));
        }
        self.leases("dapper_install").install().await.map_err(|error| format!("{error:?}"))
    }

    /// Everything that a replica does, with the rights of `dapper_run`.
    async fn replica(&mut self) -> Result<(), String> {
        let text = |error: crate::PostgresError| format!("{error:?}");
        let config = self.config("dapper_run");
        let options = Options::parse(&config).unwrap();
        let session = Session::open(&options.connection, "test").await.map_err(text)?;
        let access = layout::ensure(&session, &options).await.map_err(text)?;
        assert!(matches!(access, Access::ReadOnly(_)), "{access:?}");
        let mode = Mode::Report("it may not");
        let mut pauses = Pauses::default();
        let round = coverage::reconcile(session.client(), &options, mode, &mut pauses);
        let round = round.await.map_err(text)?;
        assert!(round.failed.is_empty() && round.covered == 2, "{round:?}");
        // As after the promotion of a standby.
        let promoted = "UPDATE dapper_orders_input.cursors SET timeline = 99";
        self.superuser.batch_execute(promoted).await.unwrap();
        self.deliver(config).await?;

        // What a replica seldom does.
        let client = session.client();
        let token: i64 = client
            .query_one("SELECT token FROM dapper_orders_input.cursors", &[])
            .await
            .map_err(|error| format!("{error:?}"))?
            .get(0);
        let sql = "SELECT pg_catalog.pg_current_snapshot()::text";
        let done = client.query_one(sql, &[]).await.unwrap().get::<_, &str>(0).parse().unwrap();
        let mut rotation = Rotation::new(&options.names.schema, Duration::ZERO, i64::MAX);
        for current in 0..4 {
            let mut current = current;
            self.superuser
                .batch_execute(&format!(
                    "SELECT setval('dapper_orders_input.wake_up', {} + 1);
                     INSERT INTO dapper_orders_input.change_sets_{current} (xid, changes, payload)
                     VALUES ('10', 1, '{{\"tbl\":\"orders\",\"op\":\"INSERT\",\"id\":0}}')",
                    current * 2
                ))
                .await
                .unwrap();
            rotation.at_every_chance();
            rotation.tick(client, &mut current, &done, token).await.map_err(text)?;
        }
        self.superuser
            .batch_execute("SELECT setval('dapper_orders_input.wake_up', 1)")
            .await
            .map_err(|error| format!("{error:?}"))?;
        Ok(())
    }

    /// Runs a replica with a real lease until it has delivered a change of the application's, and stops it.
    async fn deliver(&mut self, config: InputConfig) -> Result<(), String> {
        let ttl = LeaseConfig::from_ttl(Duration::from_secs(5)).unwrap();
        let locks = Arc::new(LockManager::new(Arc::new(self.leases("dapper_run")), ttl));
        let input = PostgresInput::new(config, locks).await.map_err(|error| format!("{error:?}"))?;
        let (sender, mut deliveries) = mpsc::channel(1);
        let (errors, mut reported) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { input.handle(EventSink::new(sender, errors), stop).await }
        });
        self.next += 1;
        let id = self.next.to_string();
        self.app.batch_execute(&format!("INSERT INTO orders VALUES ({id})")).await.unwrap();
        // It is parked at first, and then a dead letter.
        let (buried, mut is_buried) = mpsc::channel(1);
        while is_buried.try_recv().is_err() {
            let next = tokio::time::timeout(WAIT, async {
                tokio::select! {
                    delivery = deliveries.recv() => delivery,
                    Some(()) = is_buried.recv() => None,
                }
            });
            let Some(delivery) = next.await.map_err(|_| "nothing came")? else { break };
            let (is_parked, buried) = (*delivery.entry() != Entry::Start, buried.clone());
            for (event, acknowledgement) in delivery.into_events() {
                if event.id != id {
                    acknowledgement.handled();
                    continue;
                }
                let (tries, error) = (1, "503".to_owned());
                let fate = match is_parked {
                    false => Fate::Retry { tries, after: Duration::ZERO, error },
                    true => Fate::Dead { tries, error },
                };
                let (process, index, max_crashes) = ("p".to_owned(), acknowledgement.index(), 1);
                let parking = Arc::clone(acknowledgement.parking().expect("the input has a place for it"));
                let buried = buried.clone();
                let settle = Settle::new(move || {
                    acknowledgement.handled();
                    let _ = is_parked.then(|| buried.try_send(()));
                });
                parking.store(Parcel { process, event, index, max_crashes, fate, settle });
            }
        }
        stop.cancel();
        let outcome = tokio::time::timeout(WAIT, task).await.unwrap().unwrap();
        outcome.map_err(|error| format!("{error:?}"))?;
        let mut reported = std::iter::from_fn(|| reported.try_recv().ok()).map(|error| format!("{error:?}"));
        reported.find(|error| !error.contains("Promoted")).map_or(Ok(()), Err)
    }

    /// Looks once, with the leases beside the cursor.
    async fn look(&self) -> Result<(), String> {
        let ttl = LeaseConfig::from_ttl(Duration::from_secs(5)).unwrap();
        let locks = Arc::new(LockManager::new(Arc::new(self.leases("dapper_status")), ttl));
        let status = StatusReader::new(&self.config("dapper_status"), locks).unwrap().look().await;
        if status.state == State::Unreachable { Err(status.reason) } else { Ok(()) }
    }

    /// Does what an operator does with running replicas.
    async fn steer(&mut self) -> Result<(), String> {
        let config = self.config("dapper_run");
        let text = |error: crate::PostgresError| format!("{error:?}");
        self.next += 1;
        self.app.batch_execute(&format!("INSERT INTO orders VALUES ({})", self.next)).await.unwrap();
        crate::pause(&config, Some("p"), None).await.map_err(text)?;
        crate::resume(&config, Some("p")).await.map_err(text)?;
        let seq = crate::skip_candidates(&config).await.map_err(text)?[0].seq;
        let what = crate::Skip::ChangeSet { seq, processes: vec!["p".into()] };
        crate::skip(&config, &what, None, true).await.map_err(text)?;
        crate::discard_dead_letters(&config, &crate::DeadLetterFilter::default()).await.map_err(text)?;
        crate::audit(&config, None, 10).await.map(drop).map_err(text)
    }

    /// Each right is taken away, and given back.
    async fn every_right_is_needed(&mut self, name: &str) {
        let rights: Vec<Right> = block(name).iter().flat_map(|grant| Right::of(grant)).collect();
        assert!(rights.len() >= 3, "{rights:?}");
        for right in rights {
            self.run(&self.superuser, &right.revoke()).await;
            let outcome = match name {
                "install" => self.install().await,
                "run" => self.replica().await,
                "operate" => self.steer().await,
                _ => self.look().await,
            };
            let refused = outcome.expect_err(&format!("it works without {right:?}"));
            assert!(
                refused.contains("permission denied") || refused.contains("MissingRights"),
                "{right:?}: {refused}"
            );
            self.run(&self.superuser, &right.grant()).await;
        }
    }
}

async fn denied(client: &Client, statements: &[&str]) {
    for statement in statements {
        let error = client.batch_execute(statement).await.expect_err(statement);
        let code = error.code().expect(statement).code();
        assert_eq!(code, "42501", "{statement}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_what_the_page_says_and_nothing_else() {
    let mut shop = Shop::new().await;
    for statement in block("install") {
        shop.run(&shop.superuser, &statement).await;
    }
    shop.run(&shop.superuser, "ALTER ROLE dapper_install PASSWORD 'secret'").await;
    shop.run(&shop.superuser, "CREATE ROLE dapper_run LOGIN PASSWORD 'secret'").await;
    shop.every_right_is_needed("install").await;
    shop.install().await.unwrap();
    let installer = connect(&shop.database.url_as("dapper_install", "secret")).await.unwrap();
    denied(
        &installer,
        &["SELECT FROM public.orders", "INSERT INTO public.orders VALUES (0)", "DROP TABLE public.orders"],
    )
    .await;

    for statement in block("run") {
        shop.run(&installer, &statement).await;
    }
    shop.replica().await.unwrap();
    shop.every_right_is_needed("run").await;
    shop.replica().await.unwrap();
    let runner = connect(&shop.database.url_as("dapper_run", "secret")).await.unwrap();
    denied(
        &runner,
        &[
            "SELECT FROM public.orders",
            "INSERT INTO dapper_orders_input.change_sets_0 (changes, payload) VALUES (1, '')",
            "DELETE FROM dapper_orders_input.cursors",
            "CREATE TABLE dapper_orders_input.t ()",
            "CREATE SCHEMA s",
        ],
    )
    .await;

    for statement in block("operate") {
        shop.run(&installer, &statement).await;
    }
    shop.steer().await.unwrap();
    shop.every_right_is_needed("operate").await;
    shop.steer().await.unwrap();

    shop.run(&shop.superuser, "CREATE ROLE dapper_status LOGIN PASSWORD 'secret'").await;
    for statement in block("status") {
        shop.run(&installer, &statement).await;
    }
    shop.look().await.unwrap();
    shop.every_right_is_needed("status").await;
    shop.look().await.unwrap();

    let written =
        "INSERT INTO hidden VALUES (1); UPDATE hidden SET id = 2; DELETE FROM hidden; TRUNCATE orders";
    shop.app
        .batch_execute(&format!(
            "SET search_path = ''; {}",
            written.replace("hidden", "public.hidden").replace("orders", "public.orders")
        ))
        .await
        .unwrap();
    denied(
        &shop.app,
        &[
            "SELECT FROM dapper_orders_input.change_sets",
            "SELECT setval('dapper_orders_input.wake_up', 1)",
            "SELECT dapper_orders_input.key_columns(0)",
        ],
    )
    .await;
    drop(installer);
    let removed = crate::uninstall(&shop.config("dapper_install")).await.unwrap();
    assert_eq!(removed.tables, ["public.hidden", "public.orders"]);
}
