//! Faults of the lease that need whole processes, beyond those of the failover measurement.

use std::time::{Duration, Instant};

use dapper_testkit::{Cluster, ClusterOptions, Database, Namespace, ReplicaOptions, Server, ServerOptions};
use tokio_postgres::Client;

use crate::support::{LIMIT, SMALL};

const TTL: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(3);

fn cluster(database: &Database) -> Cluster {
    Cluster::new(ClusterOptions {
        program: env!("CARGO_BIN_EXE_dapper").into(),
        pipeline: format!("[lock]\nttl = \"2s\"\n\n{SMALL}"),
        environment: vec![("DATABASE_URL".into(), database.url())],
        ..ClusterOptions::default()
    })
    .unwrap()
}

/// The holder's identity and the server's process that its lease lives in.
async fn holder(client: &Client) -> (String, i32) {
    let query = "SELECT holder, backend FROM dapper_orders_input.leases WHERE resource <> ''";
    let row = client.query_one(query, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_file_on_one_host_are_two_holders() {
    let (database, client) = crate::support::database().await;
    let mut cluster = cluster(&database);
    for _ in 0..2 {
        cluster.start_replica().unwrap();
    }
    let first = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    let other = &cluster.replicas()[1 - first.replica];
    other.wait_for_line(LIMIT, |line| line.message() == "standing by").await.unwrap();
    let (first_holder, _) = holder(&client).await;
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(other.log().held_token(), None, "both hold the lease");
    assert_eq!(holder(&client).await.0, first_holder);
    cluster.replicas()[first.replica].kill_9().unwrap();
    let second = cluster.wait_for_leader(first.token, LIMIT).await.unwrap();
    assert_ne!(second.replica, first.replica);
    assert_ne!(holder(&client).await.0, first_holder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_holder_is_followed_in_time_and_its_session_does_not_stay() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("the half-open holder is left out: only root makes network namespaces");
        return;
    }
    let options = ServerOptions { networks: vec![Namespace::ADDRESSES.to_owned()], ..Default::default() };
    let (server, namespace) =
        tokio::task::spawn_blocking(move || (Server::start(&options).unwrap(), Namespace::create().unwrap()))
            .await
            .unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let client = database.connect().await.unwrap();
    let mut cluster = cluster(&database);
    let url = database.url_via((namespace.outside(), server.address().1).into());
    let apart =
        ReplicaOptions { environment: vec![("DATABASE_URL".into(), url)], launcher: namespace.launcher() };
    cluster.start_replica_with(&apart).unwrap();
    let first = cluster.wait_for_leader(0, LIMIT).await.unwrap();
    let standby = cluster.start_replica().unwrap();
    standby.wait_for_line(LIMIT, |line| line.message() == "standing by").await.unwrap();
    let (_, session) = holder(&client).await;

    // First the network, then the client: nothing tells the server.
    namespace.cut().unwrap();
    cluster.replicas()[first.replica].kill_9().unwrap();
    let start = Instant::now();
    let second = cluster.wait_for_leader(first.token, TTL + LATE).await.unwrap();
    assert_eq!(second.replica, 1);
    let there = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    while client.query_one(there, &[&session]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(start.elapsed() < TTL * 2 + LATE, "the old session is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::task::spawn_blocking(move || drop((cluster, database, server, namespace))).await.unwrap();
}
