//! The lock backend "etcd", as the binary with the feature of that name has it.

use std::time::Duration;

use dapper_testkit::{EtcdOptions, EtcdServer};
use expect_test::expect;
use nix::sys::signal::Signal;

use crate::support::{CANARY, Dapper, Running, SMALL, dapper, database};

const LOCK: &str = "[lock]\nbackend = \"etcd\"\nconnection_string = \"${LOCK_URL}\"\nttl = \"3s\"\n";

fn server() -> EtcdServer {
    EtcdServer::start(&EtcdOptions::default()).unwrap()
}

#[test]
fn addresses_that_are_none() {
    let said = |lock: &str| dapper(&format!("{lock}{SMALL}"), &["check", "--offline", "pipeline.toml"]);
    let none = said("[lock]\nbackend = \"etcd\"\n");
    assert_eq!(none.code, Some(1));
    expect![[r#"
        error: pipeline.toml:1: the lock backend "etcd" needs a "connection_string", such as http://one:2379,http://two:2379
    "#]]
    .assert_eq(&none.err);
    let wrong = said(&format!(
        "[lock]\nbackend = \"etcd\"\nconnection_string = \"http://a:2379,https://u:{CANARY}@b/x\"\n"
    ));
    expect![[r#"
        error: pipeline.toml:3: connection_string is wrong: address 2 of etcd has something after host and port
    "#]]
    .assert_eq(&wrong.err);
    let good = said(&format!(
        "[lock]\nbackend = \"etcd\"\nconnection_string = \"http://a:2379,https://u:{CANARY}@b\"\n"
    ));
    assert_eq!((good.code, good.err.as_str()), (Some(0), ""));
    assert!(good.out.starts_with("lock     etcd, ttl 10s\n"), "{}", good.out);
}

#[tokio::test]
async fn it_is_reached_or_the_error_says_why_not() {
    let (database, _client) = database().await;
    let etcd = server();
    let said = |command: &str, lock_url: &str| {
        let dapper = Dapper::new(&format!("{LOCK}{SMALL}"), &[command, "pipeline.toml"]);
        dapper.env("DATABASE_URL", &database.url()).env("LOCK_URL", lock_url).run()
    };
    let good = said("check", &etcd.url());
    assert_eq!((good.code, good.err.as_str()), (Some(0), ""), "{good:?}");
    assert!(good.out.contains("reached  lock: etcd 3."), "{}", good.out);
    let with_user = etcd.url().replace("http://", &format!("http://app:{CANARY}@"));
    let nowhere = format!("http://app:{CANARY}@127.0.0.1:1");
    let cases = [(with_user, "authentication is not enabled"), (nowhere, "Connection refused")];
    for (lock_url, wanted) in cases {
        for command in ["check", "run"] {
            let said = said(command, &lock_url);
            assert_eq!((said.code, said.err.lines().count()), (Some(1), 1), "{said:?}");
            assert!(said.err.starts_with("error: pipeline.toml:3: lock: lock store etcd: "), "{}", said.err);
            assert!(said.err.contains(wanted), "{}", said.err);
        }
    }
    let uninstalled = said("uninstall", &etcd.url());
    assert!(uninstalled.out.contains("etcdctl del dapper/locks/store"), "{}", uninstalled.out);
}

/// One replica leads and the other takes over, clean stop and `kill -9`; etcd holds the lease, the cursor its token.
#[tokio::test]
async fn one_replica_leads_and_another_takes_over() {
    let (database, client) = database().await;
    let etcd = server();
    let pipeline = format!("{LOCK}{SMALL}");
    let start = || Running::start_with(&pipeline, &database, &[], &[("LOCK_URL", &etcd.url())]);
    let mut replica = start();
    let mut tokens = vec![token(&replica.logged("lease granted").await)];
    for (number, signal) in [(1_i64, Signal::SIGTERM), (2, Signal::SIGKILL)] {
        client.execute("INSERT INTO orders VALUES ($1)", &[&number]).await.unwrap();
        let mut next = start();
        // It waits for its turn as long as the other holds.
        assert!(
            tokio::time::timeout(Duration::from_millis(500), next.logged("lease granted")).await.is_err()
        );
        replica.signal(signal);
        tokens.push(token(&next.logged("lease granted").await));
        replica = next;
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    client.execute("INSERT INTO orders VALUES (3)", &[]).await.unwrap();
    loop {
        let line = replica.printed().await;
        if line.contains(r#""id":"3""#) {
            let sealed: i64 =
                client.query_one("SELECT token FROM dapper_orders_input.cursors", &[]).await.unwrap().get(0);
            assert_eq!(u64::try_from(sealed).unwrap(), *tokens.last().unwrap());
            assert!(line.contains(&format!("\"token\":{sealed}")), "{line}");
            break;
        }
    }
    replica.signal(Signal::SIGTERM);
    assert_eq!(replica.exit_code().await, Some(0));
}

fn token(line: &str) -> u64 {
    let (_, rest) = line.split_once("token=").unwrap_or_else(|| panic!("{line}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
