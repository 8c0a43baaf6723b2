//! Certificates and passwords of clients.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use dapper_connect::ConnectError;

use crate::certificates::Authority;
use crate::support::{EITHER, TlsServer};

const HOSTS: [&str; 1] = ["127.0.0.1"];

#[tokio::test]
async fn a_client_certificate_proves_who_we_are() {
    let (authority, other) = (Authority::new("ours"), Authority::new("other"));
    let rules = "hostssl all all 127.0.0.1/32 cert";
    let server = TlsServer::start(&authority.issue("db", &HOSTS), rules, Some(&authority.pem)).await;
    let root = server.file("ours.crt", &authority.pem);
    let base = format!("host=127.0.0.1 sslmode=verify-full sslrootcert={root}");
    let with = |name: &str, pair: &crate::certificates::Pair| {
        let certificate = server.file(&format!("{name}.crt"), &pair.certificate);
        let key = server.file(&format!("{name}.key"), &pair.key);
        format!("{base} sslcert={certificate} sslkey={key}")
    };
    let good = with("good", &authority.issue("dapper", &[]));
    assert!(server.connect(&good).await.unwrap());

    server.refuses(&base, &["connection requires a valid client certificate"]).await;
    server
        .refuses(&format!("{good} sslcertmode=disable"), &["connection requires a valid client certificate"])
        .await;
    let stranger = with("stranger", &authority.issue("somebody", &[]));
    server.refuses(&stranger, &["certificate authentication failed for user \"dapper\""]).await;
    for (name, pair) in
        [("foreign", other.issue("dapper", &[])), ("late", authority.issue_expired("dapper", &[]))]
    {
        let error =
            server.refuses(&with(name, &pair), &["the server does not accept the client certificate"]).await;
        assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_key_that_will_not_do_is_named_before_anything_is_sent() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &HOSTS), EITHER, None).await;
    let pair = authority.issue("dapper", &[]);
    let certificate = server.file("client.crt", &pair.certificate);
    let key = server.file("client.key", &pair.key);
    let with = |key: &str| format!("host=127.0.0.1 sslmode=require sslcert={certificate} sslkey={key}");
    assert!(server.connect(&with(&key)).await.unwrap());

    let other = server.file("other.key", &authority.issue("dapper", &[]).key);
    server.refuses(&with(&other), &["other.key", "does not go with the certificate"]).await;
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = server.file("encrypted.key", encrypted);
    server.refuses(&with(&encrypted), &["encrypted.key", "without a password"]).await;
    server.refuses(&with("/nowhere/x.key"), &["sslkey=\"/nowhere/x.key\" can't be read"]).await;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    server.refuses(&with(&key), &["client.key", "chmod 0600"]).await;
}

#[tokio::test]
async fn the_password_file_is_read_anew_and_must_be_private() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &HOSTS), EITHER, None).await;
    let (_, port) = server.server.address();
    let file = server.file("passwords", &format!("127.0.0.1:{port}:*:dapper:wrong-canary\n"));
    let dsn = format!("host=127.0.0.1 port={port} user=dapper dbname=postgres passfile={file}");
    let refused = ["password authentication failed"];
    crate::support::refuses(&dsn, "wrong-canary", &refused).await;
    server.file("passwords", &format!("other:*:*:*:x\n127.0.0.1:{port}:*:dapper:{}\n", server.password));
    assert!(crate::support::connect(&dsn, &server.password).await.unwrap());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    crate::support::refuses(&dsn, &server.password, &["passfile=", "chmod 0600"]).await;
}
