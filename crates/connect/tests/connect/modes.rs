//! What each `sslmode` accepts and refuses.

use dapper_connect::{ConnectError, ConnectionString};
use tokio::io::AsyncReadExt;

use crate::certificates::{Authority, self_signed, self_signed_expired, self_signed_plain};
use crate::support::{EITHER, TlsServer, open};

const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

fn is_certificate(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Certificate { .. })
}

#[tokio::test]
async fn each_mode_takes_what_it_should() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &HOSTS), EITHER, None).await;
    let ours = server.file("ours.crt", &authority.pem);
    let other = server.file("other.crt", &Authority::new("other").pem);
    let both = server.file("both.crt", &format!("{}{}", Authority::new("third").pem, authority.pem));
    let elsewhere = "host=db.example hostaddr=127.0.0.1";

    for (rest, by_tls) in [
        ("host=127.0.0.1 sslmode=disable".to_owned(), false),
        ("host=127.0.0.1".to_owned(), true),
        ("hostaddr=127.0.0.1".to_owned(), true),
        (format!("host=127.0.0.1 sslmode=prefer sslrootcert={other}"), true),
        ("host=127.0.0.1 sslmode=require".to_owned(), true),
        (format!("{elsewhere} sslmode=require"), true),
        (format!("{elsewhere} sslmode=require sslrootcert={ours}"), true),
        (format!("{elsewhere} sslmode=verify-ca sslrootcert={ours}"), true),
        (format!("host=127.0.0.1 sslmode=verify-full sslrootcert={ours}"), true),
        (format!("host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={both}"), true),
        (format!("host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={ours} sslsni=0"), true),
        ("host=127.0.0.1 sslmode=require channel_binding=require".to_owned(), true),
    ] {
        let connected = server.connect(&rest).await;
        assert_eq!(connected.unwrap_or_else(|error| panic!("{rest}: {error:?}")), by_tls, "{rest}");
    }

    let vouches = "none of the certificates in sslrootcert vouches for it";
    for mode in ["require", "verify-ca", "verify-full"] {
        let rest = format!("host=localhost hostaddr=127.0.0.1 sslmode={mode} sslrootcert={other}");
        assert!(is_certificate(&server.refuses(&rest, &[vouches, "localhost:"]).await), "{mode}");
    }
    let rest = format!("{elsewhere} sslmode=verify-full sslrootcert={ours}");
    assert!(is_certificate(&server.refuses(&rest, &["not for \"db.example\" but for", "localhost"]).await));
    // Whatever this system trusts, it is not the test's authority; or it trusts nobody.
    let error = server.connect("host=localhost hostaddr=127.0.0.1 sslrootcert=system").await.unwrap_err();
    assert!(is_certificate(&error) || matches!(error, ConnectError::SystemRoots { .. }), "{error:?}");
}

#[tokio::test]
async fn versions_can_be_ruled_out() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &HOSTS), EITHER, None).await;
    for (rest, expected) in [
        ("", "TLSv1.3"),
        ("ssl_min_protocol_version=TLSv1.3", "TLSv1.3"),
        ("ssl_max_protocol_version=TLSv1.2", "TLSv1.2"),
        ("ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.2", "TLSv1.2"),
    ] {
        let client = open(&server.dsn(&format!("host=127.0.0.1 sslmode=require {rest}"))).await.unwrap();
        let sql = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, &str>(0), expected, "{rest}");
    }
    let none = "host=h ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2";
    assert!(none.parse::<ConnectionString>().is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused_where_certificates_are_looked_at() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue_expired("db", &HOSTS), EITHER, None).await;
    let ours = server.file("ours.crt", &authority.pem);
    assert!(server.connect("host=127.0.0.1 sslmode=require").await.unwrap());
    for mode in ["verify-ca", "verify-full"] {
        let rest = format!("host=127.0.0.1 sslmode={mode} sslrootcert={ours}");
        assert!(is_certificate(&server.refuses(&rest, &["it has expired"]).await));
    }
}

#[tokio::test]
async fn a_server_may_be_its_own_authority() {
    let pair = self_signed(&HOSTS);
    let server = TlsServer::start(&pair, EITHER, None).await;
    let own = server.file("own.crt", &pair.certificate);
    let other = server.file("other.crt", &self_signed(&HOSTS).certificate);
    let with = |mode: &str, host: &str, root: &str| {
        format!("host={host} hostaddr=127.0.0.1 sslmode={mode} sslrootcert={root}")
    };
    assert!(server.connect(&with("verify-full", "localhost", &own)).await.unwrap());
    assert!(server.connect(&with("verify-ca", "db.example", &own)).await.unwrap());
    let named = server.refuses(&with("verify-full", "db.example", &own), &["not for \"db.example\""]).await;
    assert!(is_certificate(&named));
    for mode in ["verify-ca", "verify-full"] {
        assert!(is_certificate(&server.refuses(&with(mode, "localhost", &other), &[]).await), "{mode}");
    }
}

#[tokio::test]
async fn an_expired_server_is_no_authority_even_for_itself() {
    let pair = self_signed_expired(&HOSTS);
    let server = TlsServer::start(&pair, EITHER, None).await;
    let own = server.file("own.crt", &pair.certificate);
    for mode in ["verify-ca", "verify-full"] {
        let rest = format!("host=127.0.0.1 sslmode={mode} sslrootcert={own}");
        assert!(is_certificate(&server.refuses(&rest, &["it has expired"]).await));
    }
}

#[tokio::test]
async fn a_certificate_of_its_own_need_not_be_marked_as_an_authoritys() {
    let pair = self_signed_plain(&HOSTS);
    let server = TlsServer::start(&pair, EITHER, None).await;
    let own = server.file("own.crt", &pair.certificate);
    assert!(server.connect(&format!("host=127.0.0.1 sslmode=verify-full sslrootcert={own}")).await.unwrap());
    let other = server.file("other.crt", &self_signed_plain(&HOSTS).certificate);
    let rest = format!("host=127.0.0.1 sslmode=verify-full sslrootcert={other}");
    assert!(is_certificate(&server.refuses(&rest, &[]).await));
}

#[tokio::test]
async fn files_that_will_not_do_are_named() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &HOSTS), EITHER, None).await;
    let empty = server.file("empty.crt", "nothing here\n");
    let rest = |file: &str| format!("host=127.0.0.1 sslmode=verify-full sslrootcert={file}");
    server.refuses(&rest("/nowhere/root.crt"), &["sslrootcert=\"/nowhere/root.crt\" can't be read"]).await;
    server.refuses(&rest(&empty), &["empty.crt\" has no certificates in PEM"]).await;
}

#[tokio::test]
async fn a_server_that_wants_no_tls_is_reached_with_prefer_alone() {
    let authority = Authority::new("ours");
    let rules = "hostnossl all all 127.0.0.1/32 scram-sha-256";
    let server = TlsServer::start(&authority.issue("db", &HOSTS), rules, None).await;
    assert!(!server.connect("host=127.0.0.1").await.unwrap());
    server.refuses("host=127.0.0.1 sslmode=require", &["no pg_hba.conf entry"]).await;
    let socket = server.server.directory().unwrap().display().to_string();
    assert!(!server.connect(&format!("host={socket} sslmode=verify-full sslrootcert=system")).await.unwrap());
}

/// No server of this version takes it: what is sent first is looked at instead.
#[tokio::test]
async fn direct_negotiation_begins_with_the_handshake() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        let length = client.read(&mut bytes).await.unwrap();
        bytes.truncate(length);
        bytes
    });
    let text =
        format!("host=localhost hostaddr=127.0.0.1 port={port} user=x sslmode=require sslnegotiation=direct");
    open(&text).await.unwrap_err();
    let first = first.await.unwrap();
    let has = |text: &[u8]| first.windows(text.len()).any(|window| window == text);
    assert!(first.starts_with(&[0x16, 3]) && has(b"\x0apostgresql") && has(b"localhost"), "{first:02x?}");
    let weaker = "host=h sslmode=prefer sslnegotiation=direct".parse::<ConnectionString>().unwrap_err();
    assert_eq!(weaker.parameter, Some("sslnegotiation"));
}
