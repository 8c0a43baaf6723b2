//! Servers that are there and cannot be used: one clear error each, by `run` as by `check`.

use std::os::unix::fs::PermissionsExt;

use crate::support::{CANARY, Dapper, SMALL, database};
use dapper_testkit::{Database, Server, ServerOptions, connect};
use tokio_postgres::Client;

const WITH_LOCK: &str = "[lock]\nconnection_string = \"${LOCK_DATABASE_URL}\"\n";

/// What both commands say, which must be one line that starts with `place` and contains `wanted`. At the highest log
/// level there is more, and still no secret.
fn refused(pipeline: &str, variables: &[(&str, &str)], place: &str, wanted: &str) {
    let said = |arguments: &[&str]| {
        let dapper = Dapper::new(pipeline, arguments);
        variables.iter().fold(dapper, |dapper, (name, value)| dapper.env(name, value)).run()
    };
    for command in ["run", "check"] {
        let quiet = said(&[command, "pipeline.toml"]);
        assert_eq!(
            (quiet.code, quiet.out.as_str(), quiet.err.lines().count()),
            (Some(1), "", 1),
            "{quiet:?}"
        );
        assert!(quiet.err.starts_with(&format!("error: pipeline.toml:{place}")), "{}", quiet.err);
        assert!(quiet.err.contains(wanted), "{}", quiet.err);
        let loud = said(&[command, "pipeline.toml", "--log-level", "trace"]);
        assert_eq!((loud.code, loud.out.as_str()), (Some(1), ""), "{loud:?}");
        assert_eq!(loud.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", loud.err);
    }
}

/// Makes a role that may do nothing but connect. It is the database's own, since roles are the server's.
async fn poor_role(database: &Database, client: &Client, password: &str) -> String {
    let role = format!("poor_{}", database.name());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'")).await.unwrap();
    role
}

async fn drop_role(client: &Client, role: &str) {
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password() {
    let (database, client) = database().await;
    let role = poor_role(&database, &client, "another").await;
    let (right, wrong) = (database.url(), database.url_as(&role, CANARY));
    let wanted = "password authentication failed";
    refused(SMALL, &[("DATABASE_URL", &wrong)], "4: ", wanted);
    let with_lock = format!("{WITH_LOCK}{SMALL}");
    let variables = [("DATABASE_URL", right.as_str()), ("LOCK_DATABASE_URL", wrong.as_str())];
    refused(&with_lock, &variables, "2: lock: ", wanted);
    drop_role(&client, &role).await;
}

#[tokio::test]
async fn a_role_without_rights() {
    let (database, client) = database().await;
    let role = poor_role(&database, &client, CANARY).await;
    let (right, poor) = (database.url(), database.url_as(&role, CANARY));
    let wanted = |schema: &str| format!("role {role:?} may not create schema {schema:?} (CREATE on database");
    refused(SMALL, &[("DATABASE_URL", &poor)], "4: ", &wanted("dapper_orders_input"));
    let with_lock = format!("{WITH_LOCK}{SMALL}");
    let variables = [("DATABASE_URL", right.as_str()), ("LOCK_DATABASE_URL", poor.as_str())];
    refused(&with_lock, &variables, "2: lock: ", &wanted("dapper_lock"));

    client.batch_execute("CREATE SCHEMA dapper_lock").await.unwrap();
    refused(&with_lock, &variables, "2: lock: ", "may not use schema \"dapper_lock\"");
    let revoke = format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", database.name());
    client.batch_execute(&revoke).await.unwrap();
    refused(SMALL, &[("DATABASE_URL", &poor)], "4: ", "permission denied for database");
    drop_role(&client, &role).await;
}

#[tokio::test]
async fn a_database_that_is_not_there() {
    let (database, _) = database().await;
    let url = database.server().url("nowhere");
    refused(SMALL, &[("DATABASE_URL", &url)], "4: ", "database \"nowhere\" does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby() {
    let primary = blocking(|| Server::start(&ServerOptions::default()).unwrap()).await;
    let client = connect(&primary.url("postgres")).await.unwrap();
    client.batch_execute(&format!("CREATE ROLE app SUPERUSER LOGIN PASSWORD '{CANARY}'")).await.unwrap();
    let standby = blocking({
        let primary = primary.clone();
        move || Server::standby_of(&primary).unwrap()
    })
    .await;
    let on = |server: &Server| server.url_as("postgres", "app", CANARY);
    refused(SMALL, &[("DATABASE_URL", &on(&standby))], "4: ", "is a standby");
    let with_lock = format!("{WITH_LOCK}{SMALL}");
    let variables = [("DATABASE_URL", on(&primary)), ("LOCK_DATABASE_URL", on(&standby))];
    let variables = variables.each_ref().map(|(name, url)| (*name, url.as_str()));
    refused(&with_lock, &variables, "2: lock: ", "is a standby");
    blocking(move || drop((standby, primary))).await;
}

/// Those of the ancestor's tests, and such as have a secret in them.
#[test]
fn connection_strings_that_are_none() {
    let secret = [
        format!("malformed {CANARY}"),
        format!("postgresql:// {CANARY} url"),
        format!("postgres://app:{CANARY}@[::1/app"),
        format!("host=db password='{CANARY}"),
    ];
    let texts = ["malformed url", "postgresql:// malformed url"].into_iter();
    for text in texts.chain(secret.iter().map(String::as_str)) {
        let wanted = "input \"orders-input\": connection_string ";
        refused(SMALL, &[("DATABASE_URL", text)], "4: ", wanted);
        let with_lock = format!("{WITH_LOCK}{SMALL}");
        refused(&with_lock, &[("LOCK_DATABASE_URL", text)], "2: connection_string ", "");
    }
    refused(SMALL, &[("DATABASE_URL", "")], "4: ", "\"connection_string\" is empty");
}

/// What the string leaves out comes from variables and files, for each place that has a connection string.
#[tokio::test]
async fn variables_and_a_password_file_complete_connection_strings() {
    let (database, _) = database().await;
    let (host, port) = database.server().address();
    let url = database.url();
    let password = url.split([':', '@']).nth(2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    std::fs::write(&file, format!("{host}:{port}:*:dapper:{password}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let sql = "\n[[processes]]\nname = \"copy\"\ntype = \"sql\"\n[processes.execution_context]\n\
               connection_string = \"postgresql://\"\nstatement = \"SELECT :event_id\"\n\
               [[links]]\ninput = \"orders-input\"\nprocess = \"copy\"\n";
    let pipeline = format!("{WITH_LOCK}{SMALL}{sql}");
    let port = port.to_string();
    let variables = [
        ("DATABASE_URL", "postgresql://"),
        ("LOCK_DATABASE_URL", "user=dapper"),
        ("PGHOST", host.as_str()),
        ("PGPORT", &port),
        ("PGUSER", "dapper"),
        ("PGDATABASE", database.name()),
        ("PGPASSFILE", file.to_str().unwrap()),
    ];
    let check = |variables: &[(&str, &str)]| {
        let dapper = Dapper::new(&pipeline, &["check", "pipeline.toml"]);
        variables.iter().fold(dapper, |dapper, (name, value)| dapper.env(name, value)).run()
    };
    let said = check(&variables);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(said.out.matches(database.name()).count(), 3, "{said:?}");

    let refused = |name, value, wanted: &str| {
        let said = check(&[&variables[..], &[(name, value)]].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(
            said.err.starts_with("error: pipeline.toml:2: connection_string ") && said.err.contains(wanted),
            "{said:?}"
        );
    };
    refused("PGSSLMODE", CANARY, "(sslmode is from the variable PGSSLMODE)");
    refused("PGREQUIREPEER", CANARY, "the variable PGREQUIREPEER, which is not supported");
    refused("PGSERVICE", CANARY, "names a service that is not there");
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
