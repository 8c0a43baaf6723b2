//! Several hosts, and one limit for all of them.

use std::time::{Duration, Instant};

use dapper_connect::{ConnectError, ConnectionString};
use dapper_testkit::{Database, Faults, Proxy, Server, ServerOptions};

use crate::support::{chain, connect, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_found_among_standbys() {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Server::start(&ServerOptions::default()).unwrap();
        let standby = Server::standby_of(&primary).unwrap();
        (primary, standby)
    })
    .await
    .unwrap();
    let (one, other) = (standby.address().1, primary.address().1);
    let dsn = |rest: &str| {
        format!("{} host=127.0.0.1,127.0.0.1 port={one},{other} {rest}", primary.dsn("postgres"))
    };
    let is_standby = async |text: String| -> bool {
        let client = open(&text).await.unwrap();
        client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0)
    };
    for rest in
        ["", "target_session_attrs=primary", "target_session_attrs=read-write load_balance_hosts=random"]
    {
        assert!(!is_standby(dsn(rest)).await, "{rest}");
    }
    assert!(is_standby(dsn("target_session_attrs=any")).await);
    let mut met = [false; 2];
    for _ in 0..64 {
        met[usize::from(is_standby(dsn("target_session_attrs=any load_balance_hosts=random")).await)] = true;
    }
    assert_eq!(met, [true, true]);

    let only = format!("{} host=127.0.0.1,127.0.0.1 port={one},{one}", primary.dsn("postgres"));
    let error = open(&only).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::ReadOnly { server } if server.contains(&format!(":{one},"))),
        "{error:?}"
    );
    tokio::task::spawn_blocking(move || drop((standby, primary))).await.unwrap();
}

#[tokio::test]
async fn a_host_that_never_answers_leaves_time_for_the_next() {
    let database = Database::create().await.unwrap();
    let silent = Proxy::start(database.server().address()).await.unwrap();
    silent.set(Faults::SILENT);
    let (port, silent) = (database.server().address().1, silent.address().port());
    let dsn = database.server().dsn(database.name());
    let started = Instant::now();
    let text = format!("{dsn} host=127.0.0.1,127.0.0.1 port={silent},{port} connect_timeout=4");
    connect(&text, "canary").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(1_900), "the silent host was not tried");

    let started = Instant::now();
    let text = format!("{dsn} host=127.0.0.1,127.0.0.1 port={silent},{silent} connect_timeout=1");
    let error = connect(&text, "canary").await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { seconds: 1, .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_server_that_says_no_ends_the_search() {
    let database = Database::create().await.unwrap();
    let (_, port) = database.server().address();
    let user = "user=dapper password=wrong-canary dbname=postgres";
    let refused = format!("{user} host=127.0.0.1,127.0.0.1 port={port},1");
    let error = connect(&refused, "wrong-canary").await.unwrap_err();
    assert!(chain(&error).contains("password authentication failed"), "{}", chain(&error));
    // A port that nobody listens on is gone past.
    let dsn = database.server().dsn(database.name());
    connect(&format!("{dsn} host=127.0.0.1,127.0.0.1 port=1,{port}"), "canary").await.unwrap();
    let error = open("host=no-such-host.invalid user=x").await.unwrap_err();
    assert!(matches!(error, ConnectError::Lookup { .. }), "{error:?}");
    assert!(error.to_string().contains("no-such-host.invalid:5432"), "{error}");
}

#[tokio::test]
async fn the_server_shows_our_name_first() {
    let database = Database::create().await.unwrap();
    let text = format!("{} application_name=billing", database.server().dsn(database.name()));
    let connection: ConnectionString = text.parse().unwrap();
    let (client, driver) = connection.connect("dapper orders_input 01234567").await.unwrap();
    tokio::spawn(driver);
    let row = client.query_one("SHOW application_name", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "dapper orders_input 01234567 billing");
}
