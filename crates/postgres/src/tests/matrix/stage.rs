//! Two databases that are the same but for our triggers, and a comparison of what they do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use dapper_core::{Event, InputConfig};
use dapper_testkit::{Database, Server, ServerOptions};
use futures::{SinkExt, TryStreamExt};
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::support::{Fixture, config};

const ORACLE_SQL: &str = include_str!("oracle.sql");

/// One message of a client to its server.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Sql(String),
    /// What `COPY … TO STDOUT` gives, by a `COPY … FROM STDIN`.
    Copy(String, String),
}

impl<T: Into<String>> From<T> for Step {
    fn from(sql: T) -> Self {
        Self::Sql(sql.into())
    }
}

/// What a message came to: what the client was told, or the SQLSTATE.
pub(crate) type Outcome = Result<String, String>;

/// A change as the oracle has it.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub(crate) statement: String,
    pub(crate) root: String,
    pub(crate) own: String,
    pub(crate) operation: String,
    pub(crate) old: Option<Columns>,
    pub(crate) new: Option<Columns>,
}

pub(crate) type Columns = BTreeMap<String, Box<RawValue>>;

/// What an event must say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) location: String,
    pub(crate) id: String,
    pub(crate) operation: String,
    pub(crate) key: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.location, self.operation, self.id)
    }
}

/// The key columns of tables, by location: what the documented rules say, written down by the test.
pub(crate) type Keys = HashMap<String, Vec<String>>;

pub(crate) struct Stage {
    pub(crate) fixture: Fixture,
    pub(crate) plain: Database,
    plain_client: Client,
    sessions: Vec<(Client, Client)>,
    pub(crate) keys: Keys,
    /// The parents of tables that inherit. A statement that names a parent ends with `-- as ` and its location: what it
    /// does to rows of the child is the parent's.
    pub(crate) parents: HashMap<String, String>,
    /// Those whose rows have no unique key: between sessions, the order of their events means nothing.
    pub(crate) unordered: HashSet<String>,
    /// Those that make events.
    pub(crate) operations: Vec<String>,
    /// How many messages were carried out, and how many refused.
    pub(crate) outcomes: (AtomicU64, AtomicU64),
}

impl Stage {
    /// Both databases, on `server`, after `sql`; what an input of this configuration asks for is installed on the first.
    pub(crate) async fn on(server: &Server, sql: &str, change: impl FnOnce(&mut InputConfig)) -> Self {
        let (ours, plain) = (database(server, sql).await, database(server, sql).await);
        let client = ours.connect().await.unwrap();
        let mut config = config("orders-input", ours.url());
        change(&mut config);
        let operations = config.operations.clone().map_or_else(
            || ["create", "update", "delete"].map(str::to_owned).to_vec(),
            |operations| operations.iter().map(ToString::to_string).collect(),
        );
        let fixture = Fixture::install(ours, client, &config).await;
        let plain_client = plain.connect().await.unwrap();
        let mut stage = Self {
            fixture,
            plain,
            plain_client,
            sessions: Vec::new(),
            keys: Keys::new(),
            parents: HashMap::new(),
            unordered: HashSet::new(),
            operations,
            outcomes: Default::default(),
        };
        stage.open().await;
        stage
    }

    /// One more session of the application, on each of the two. Nothing is awaited behind another's lock.
    pub(crate) async fn open(&mut self) {
        let pair = self.pair().await;
        self.sessions.push(pair);
    }

    /// New sessions in the place of those whose client library gave up the connection: it does when a COPY is refused.
    pub(crate) async fn reopen(&mut self) {
        for session in 0..self.sessions.len() {
            let (ours, plain) = &self.sessions[session];
            if ours.is_closed() || plain.is_closed() {
                self.sessions[session] = self.pair().await;
            }
        }
    }

    async fn pair(&self) -> (Client, Client) {
        let pair = (self.fixture.database.connect().await.unwrap(), self.plain.connect().await.unwrap());
        let patience = "SET lock_timeout = '30ms'";
        pair.0.batch_execute(patience).await.unwrap();
        pair.1.batch_execute(patience).await.unwrap();
        pair
    }

    /// The same message on both; they must come to the same.
    pub(crate) async fn step(&self, session: usize, step: &Step) -> Result<Outcome, String> {
        let (ours, plain) = &self.sessions[session];
        let (ours, plain) = tokio::join!(
            send(ours, step, self.fixture.database.name()),
            send(plain, step, self.plain.name())
        );
        // Of several rows that are wrong, a COPY may name another one: without triggers it inserts in batches.
        let is_copy = matches!(step, Step::Copy(..));
        let state = |outcome: &Result<String, (String, String)>| match outcome {
            Ok(told) => Ok(told.clone()),
            Err((state, _)) if is_copy && state.starts_with("23") => Err("23".to_owned()),
            Err((state, _)) => Err(state.clone()),
        };
        if state(&ours) != state(&plain) {
            return Err(format!("{step:?}\n  with capture: {ours:?}\n  without: {plain:?}"));
        }
        let count = if ours.is_ok() { &self.outcomes.0 } else { &self.outcomes.1 };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(state(&ours))
    }

    /// Statements that must succeed, on both.
    pub(crate) async fn execute(&self, sql: &str) {
        for client in [&self.fixture.client, &self.plain_client] {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    /// Lets the oracle see the tables that were made since.
    pub(crate) async fn watch(&self) {
        self.execute("SELECT oracle.watch()").await;
    }

    /// Compares what was captured with what changed, and the tables that match with each other; returns
    /// the events.
    pub(crate) async fn verify(&mut self, tables: &str) -> Result<Vec<Event>, String> {
        let noted = noted(&self.fixture.client).await;
        self.plain_client.batch_execute("DELETE FROM oracle.log").await.unwrap();
        let events = self.fixture.events().await;
        self.compare(&noted, &events)?;
        let (ours, plain) =
            (contents(&self.fixture.client, tables).await, contents(&self.plain_client, tables).await);
        if ours != plain {
            return Err(format!("the tables differ\n  with capture: {ours:?}\n  without: {plain:?}"));
        }
        Ok(events)
    }

    fn compare(&self, noted: &[Noted], events: &[Event]) -> Result<(), String> {
        let groups = expected(noted, &self.keys, &self.parents);
        let mut wanted: BTreeMap<(String, String), Vec<Vec<Line>>> = BTreeMap::new();
        for mut group in groups {
            group.retain(|line| self.operations.contains(&line.operation));
            let mut of_group: BTreeMap<(String, String), Vec<Line>> = BTreeMap::new();
            for line in group {
                of_group.entry((line.location.clone(), line.id.clone())).or_default().push(line);
            }
            for (key, lines) in of_group {
                wanted.entry(key).or_default().push(lines);
            }
        }
        let mut seen: BTreeMap<(String, String), Vec<Line>> = BTreeMap::new();
        for event in events {
            let line = line(event);
            seen.entry((line.location.clone(), line.id.clone())).or_default().push(line);
        }
        let mut wrong = String::new();
        for key in wanted.keys().chain(seen.keys()).collect::<std::collections::BTreeSet<_>>() {
            let none = Vec::new();
            let (groups, seen) =
                (wanted.get(key).map_or(&[][..], Vec::as_slice), seen.get(key).unwrap_or(&none));
            if !self.agree(&key.0, groups, seen) {
                let _ = writeln!(wrong, "  {key:?}\n    wanted {groups:?}\n    seen   {seen:?}");
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("events are not what changed:\n{wrong}")) }
    }

    /// Whether the events of one key are those of its statements, in order; within one statement in any order.
    fn agree(&self, location: &str, groups: &[Vec<Line>], seen: &[Line]) -> bool {
        let sorted = |lines: &[Line]| {
            let mut lines = lines.to_vec();
            lines.sort();
            lines
        };
        if self.unordered.contains(location) {
            return sorted(&groups.concat()) == sorted(seen);
        }
        let mut rest = seen;
        for group in groups {
            if rest.len() < group.len() || sorted(&rest[..group.len()]) != sorted(group) {
                return false;
            }
            rest = &rest[group.len()..];
        }
        rest.is_empty()
    }
}

/// A server for tests that make many databases or statements and never crash it; it has prepared transactions.
pub(crate) async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            let settings = [
                ("fsync", "off"),
                ("max_prepared_transactions", "20"),
                ("autovacuum", "off"),
                ("jit", "off"),
            ];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let options = ServerOptions { settings, ..ServerOptions::default() };
            tokio::task::spawn_blocking(move || Server::start(&options).unwrap()).await.unwrap()
        })
        .await
}

pub(super) async fn database(server: &Server, sql: &str) -> Database {
    let database = Database::create_on(server).await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute(ORACLE_SQL).await.unwrap();
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    client.batch_execute("SELECT oracle.watch()").await.unwrap();
    database
}

/// `{database}` stands for the database's name: prepared transactions of all databases are in one name space.
pub(super) async fn send(client: &Client, step: &Step, database: &str) -> Result<String, (String, String)> {
    let failed = |error: tokio_postgres::Error| {
        let state = error.code().map_or_else(|| "no SQLSTATE".to_owned(), |code| code.code().to_owned());
        (state, format!("{error:?}"))
    };
    match step {
        Step::Sql(sql) => {
            let mut told = String::new();
            for message in client.simple_query(&sql.replace("{database}", database)).await.map_err(failed)? {
                match message {
                    SimpleQueryMessage::CommandComplete(rows) => {
                        let _ = writeln!(told, "{rows} rows");
                    }
                    SimpleQueryMessage::Row(row) => {
                        let values: Vec<_> = (0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect();
                        let _ = writeln!(told, "{}", values.join("|"));
                    }
                    _ => {}
                }
            }
            Ok(told)
        }
        Step::Copy(out, into) => {
            let rows = client.copy_out(out.as_str()).await.map_err(failed)?;
            let rows: Vec<_> = rows.try_collect().await.map_err(failed)?;
            let sink = client.copy_in(into.as_str()).await.map_err(failed)?;
            let mut sink = std::pin::pin!(sink);
            for row in rows {
                sink.send(row).await.map_err(failed)?;
            }
            Ok(format!("{} rows", sink.finish().await.map_err(failed)?))
        }
    }
}

/// What is committed and was not looked at before.
pub(super) async fn noted(client: &Client) -> Vec<Noted> {
    let columns = |text: Option<&str>| text.map(|text| serde_json::from_str(text).unwrap());
    let sql = "WITH gone AS (DELETE FROM oracle.log RETURNING *)
               SELECT statement, root, own, operation, old, new FROM gone ORDER BY n";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter()
        .map(|row| Noted {
            statement: row.get(0),
            root: row.get(1),
            own: row.get(2),
            operation: row.get(3),
            old: columns(row.get(4)),
            new: columns(row.get(5)),
        })
        .collect()
}

/// Nothing while an open transaction has truncated one of them.
async fn contents(client: &Client, tables: &str) -> Option<String> {
    match client.query_one("SELECT oracle.contents($1)", &[&tables]).await {
        Ok(row) => Some(row.get(0)),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// The events that follow from the changes by the documented rules, a group for each statement and table.
pub(crate) fn expected(noted: &[Noted], keys: &Keys, parents: &HashMap<String, String>) -> Vec<Vec<Line>> {
    let mut order: Vec<(&str, String)> = Vec::new();
    let mut groups: HashMap<(&str, String), Vec<&Noted>> = HashMap::new();
    for change in noted {
        let location = match change.operation.as_str() {
            "TRUNCATE" => change.own.clone(),
            _ => {
                let through = parents
                    .get(&change.own)
                    .filter(|parent| change.statement.contains(&format!("-- as {parent}\n")));
                through.unwrap_or(&change.root).clone()
            }
        };
        let at = (change.statement.as_str(), location);
        let group = groups.entry(at.clone()).or_default();
        if group.is_empty() {
            order.push(at);
        }
        group.push(change);
    }
    order
        .into_iter()
        .map(|at| {
            let none = Vec::new();
            lines_of(&at.1, keys.get(&at.1).unwrap_or(&none), &groups[&at])
        })
        .collect()
}

fn lines_of(location: &str, key: &[String], changes: &[&Noted]) -> Vec<Line> {
    let row = |columns: &Columns| columns.get("r").map(|r| r.get().to_owned());
    let (mut lines, mut truncated) = (Vec::new(), 0);
    let mut say = |operation: &str, columns: &Columns| lines.push(named(location, operation, key, columns));
    // A row that moves to another partition is deleted there and inserted here; it is known by its column `r`.
    let mut updates: Vec<(&Columns, &Columns)> = Vec::new();
    let mut gone: Vec<Option<&Columns>> = Vec::new();
    let mut gone_rows: HashMap<String, usize> = HashMap::new();
    for change in changes {
        match (&change.old, &change.new) {
            (Some(old), Some(new)) => updates.push((old, new)),
            (Some(old), None) => {
                gone_rows.extend(row(old).map(|row| (row, gone.len())));
                gone.push(Some(old));
            }
            // Of a MERGE, PostgreSQL itself reports the two.
            (None, Some(new)) if change.statement.starts_with("MERGE") => say("create", new),
            (None, Some(new)) => {
                let from = row(new).and_then(|row| gone_rows.remove(&row)).and_then(|at| gone[at].take());
                match from {
                    Some(old) => updates.push((old, new)),
                    None => say("create", new),
                }
            }
            (None, None) => truncated += 1,
        }
    }
    for old in gone.into_iter().flatten() {
        say("delete", old);
    }
    let id = |columns: &Columns| named("", "", key, columns).id;
    let mut came: HashMap<String, Vec<&Columns>> = HashMap::new();
    for (_, new) in &updates {
        came.entry(id(new)).or_default().push(new);
    }
    for (old, _) in &updates {
        match came.get_mut(&id(old)).and_then(Vec::pop) {
            Some(new) => say("update", new),
            None => say("delete", old),
        }
    }
    for new in came.into_values().flatten() {
        say("create", new);
    }
    lines.extend((0..truncated).map(|_| named(location, "truncate", &[], &Columns::new())));
    lines
}

fn named(location: &str, operation: &str, key: &[String], columns: &Columns) -> Line {
    let value = |column: &String| compact(columns.get(column).map_or("null", |value| value.get()));
    let id = match key {
        [] => String::new(),
        [column] => match serde_json::from_str(&value(column)).unwrap() {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text,
            _ => value(column),
        },
        several => format!("[{}]", several.iter().map(value).collect::<Vec<_>>().join(",")),
    };
    let fields: Vec<String> = key
        .iter()
        .map(|column| format!("{}:{}", serde_json::to_string(column).unwrap(), value(column)))
        .collect();
    let key = if key.is_empty() { "-".to_owned() } else { format!("{{{}}}", fields.join(",")) };
    Line { location: location.to_owned(), id, operation: operation.to_owned(), key }
}

/// JSON without the spaces between its parts.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    json.chars()
        .filter(|&c| {
            let keep = quoted || !c.is_ascii_whitespace();
            quoted ^= c == '"' && !escaped;
            escaped = quoted && c == '\\' && !escaped;
            keep
        })
        .collect()
}

pub(crate) fn line(event: &Event) -> Line {
    Line {
        location: event.location.to_string(),
        id: event.id.clone(),
        operation: event.operation.to_string(),
        key: event.key.as_ref().map_or("-".to_owned(), |key| key.get().to_owned()),
    }
}
