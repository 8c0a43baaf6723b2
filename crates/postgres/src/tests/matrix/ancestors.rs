//! The matrix with the ancestor's trigger in the place of ours, and what becomes of it.
//!
//! `cargo xtask capture --ancestor` writes the table of `docs/capture.md` anew.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use dapper_testkit::Database;
use tokio_postgres::Client;

use super::documented::{compare_with_page, page};
use super::shapes::{Shape, shapes};
use super::stage::{Keys, Step, database, expected, noted, send, server};
use super::statements::{kinds, reset};
use crate::session::{Notifications, Session};
use dapper_connect::ConnectionString;

/// Its function and its trigger, for one table, written from its description.
const FUNCTION: &str = "
    CREATE FUNCTION process_record_seed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('seed', json_build_object('tbl', TG_TABLE_NAME, 'id', COALESCE(NEW.id, 0), 'op', TG_OP)::text);
        RETURN NEW;
    END $$";

/// One table with the ancestor's trigger, the same without, and who listens.
struct Ancestor {
    database: Database,
    client: Client,
    plain: (Database, Client),
    session: Session,
    notifications: Notifications,
}

/// What became of one cell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Right,
    /// Events are missing, or say something else than what changed.
    Wrong,
    /// A statement fails that does not fail without it.
    Fails,
}

impl Ancestor {
    /// Fails where its installation does.
    async fn on(shape: &Shape) -> Result<Self, String> {
        let sql = format!(
            "DO $$ BEGIN CREATE ROLE matrix_clerk; EXCEPTION WHEN OTHERS THEN NULL; END $$; {}; {FUNCTION};
             GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
            shape.create
        );
        let (database, plain) = (database(server().await, &sql).await, database(server().await, &sql).await);
        let (client, plain_client) = (database.connect().await.unwrap(), plain.connect().await.unwrap());
        let install = "DO $$ DECLARE t text; BEGIN
                FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
                    EXECUTE format('CREATE TRIGGER seed AFTER INSERT OR UPDATE OR DELETE ON %I
                                    FOR EACH ROW EXECUTE FUNCTION process_record_seed()', t);
                END LOOP;
            END $$";
        client.batch_execute(install).await.map_err(|error| {
            error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
        })?;
        let connection = ConnectionString::parse(&database.url().into()).unwrap();
        let mut session = Session::open(&connection, "ancestor").await.unwrap();
        session.client().batch_execute("LISTEN seed").await.unwrap();
        let notifications = session.take_notifications();
        Ok(Self { database, client, plain: (plain, plain_client), session, notifications })
    }

    /// What was heard since, `operation id` by table and id.
    async fn heard(&mut self) -> BTreeMap<String, Vec<String>> {
        // Notifications come before the answer to a later query.
        self.session.client().batch_execute("SELECT 1").await.unwrap();
        let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Ok(text) = self.notifications.foreign.try_recv() {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let id = match &value["id"] {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let operation = match value["op"].as_str().unwrap() {
                "INSERT" => "create",
                "UPDATE" => "update",
                _ => "delete",
            };
            heard.entry(id).or_default().push(operation.to_owned());
        }
        heard
    }

    /// Judged without what brings the table back to its rows.
    async fn fate(&mut self, shape: &Shape, steps: &[Step]) -> Fate {
        for (client, database) in [(&self.client, &self.database), (&self.plain.1, &self.plain.0)] {
            client.batch_execute("SET session_replication_role = replica").await.unwrap();
            for step in reset(shape) {
                let _ = send(client, &step, database.name()).await;
            }
            client.batch_execute("RESET session_replication_role").await.unwrap();
        }
        noted(&self.plain.1).await;
        let mut fate = Fate::Right;
        for step in steps {
            let (ours, plain) = tokio::join!(
                send(&self.client, step, self.database.name()),
                send(&self.plain.1, step, self.plain.0.name())
            );
            if ours.is_err() && plain.is_ok() {
                fate = Fate::Fails;
            }
        }
        // Whatever a failure left behind.
        for client in [&self.client, &self.plain.1] {
            let _ = client.batch_execute("ROLLBACK").await;
            let _ = client.batch_execute("RESET ALL; RESET ROLE; DISCARD TEMP").await;
        }
        let _ = send(&self.plain.1, &"ROLLBACK PREPARED '{database}'".into(), self.plain.0.name()).await;
        // Judged by what changed where it is not in the way.
        let changed = noted(&self.plain.1).await;
        noted(&self.client).await;
        let heard = self.heard().await;
        let keys: Keys =
            [(shape.location.to_owned(), shape.key.iter().map(|&key| key.to_owned()).collect())].into();
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in expected(&changed, &keys, &HashMap::new()).concat() {
            wanted.entry(line.id).or_default().push(line.operation);
        }
        if wanted != heard { fate.max(Fate::Wrong) } else { fate }
    }
}

/// A row for each `every`th table, and the statements that it gets wrong even on a table made for it.
async fn table(every: usize) -> String {
    let mut rows = "| table | statements fail that would not | events missing or wrong | right |\n| --- | --: | --: | --: |\n".to_owned();
    let mut wrong_kinds = Vec::new();
    for shape in shapes().into_iter().step_by(every) {
        let mut ancestor = match Ancestor::on(&shape).await {
            Ok(ancestor) => ancestor,
            Err(reason) => {
                let _ = writeln!(rows, "| {} | its installation fails: {reason} | | |", shape.title);
                continue;
            }
        };
        let (mut fails, mut wrong, mut right) = (0, 0, 0);
        let chosen = kinds(&shape).into_iter().filter(|kind| !kind.title.contains("1,000 rows"));
        for kind in chosen {
            let fate = ancestor.fate(&shape, &kind.steps).await;
            match fate {
                Fate::Fails => fails += 1,
                Fate::Wrong => wrong += 1,
                Fate::Right => right += 1,
            }
            if fate != Fate::Right && shape.title == "int" {
                wrong_kinds.push(kind.title);
            }
        }
        let _ = writeln!(rows, "| {} | {fails} | {wrong} | {right} |", shape.title);
    }
    let _ = writeln!(rows, "\nOn the table made for it, with an integer `id`, it fails with:\n");
    for kind in wrong_kinds {
        let _ = writeln!(rows, "- {kind}");
    }
    rows
}

#[tokio::test]
async fn ancestors_failures() {
    let database = database(server().await, "").await;
    let version = "SELECT current_setting('server_version_num')::int / 10000";
    let version: i32 = database.connect().await.unwrap().query_one(version, &[]).await.unwrap().get(0);
    if std::env::var("DAPPER_TEST_WRITE_DOCS").is_ok() {
        return compare_with_page("ancestor", &table(1).await);
    }
    // All tables take minutes, so the ordinary run looks at some. The page is of a server that knows MERGE.
    let page = std::fs::read_to_string(page()).unwrap();
    for row in table(6).await.lines().filter(|row| !row.is_empty()) {
        assert!(
            version < 15 || page.contains(&format!("{row}\n")),
            "docs/capture.md is not current (cargo xtask capture --ancestor): {row}"
        );
    }
}
