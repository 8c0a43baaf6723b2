//! Somebody between client and server who takes TLS away.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use dapper_connect::ConnectError;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::fmt::MakeWriter;

use crate::certificates::Authority;
use crate::support::{EITHER, TlsServer, chain};

/// The message by which a client asks for TLS.
const ASKS_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Says no for the server when it is asked for TLS, and passes everything else on. Keeps what it was sent.
async fn start_man_in_the_middle(server: (String, u16)) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let overheard = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&overheard);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, kept) = (server.clone(), Arc::clone(&kept));
            tokio::spawn(async move {
                let mut first = [0; 8];
                client.read_exact(&mut first).await.unwrap();
                assert_eq!(first, ASKS_FOR_TLS);
                client.write_all(b"N").await.unwrap();
                let mut next = vec![0; 4096];
                let length = client.read(&mut next).await.unwrap_or(0);
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&next[..length]);
                if length > 0 {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    server.write_all(&next[..length]).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (port, overheard)
}

#[tokio::test]
async fn whoever_asks_for_tls_sends_nothing_without() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &["127.0.0.1"]), EITHER, None).await;
    let root = server.file("ours.crt", &authority.pem);
    let (port, overheard) = start_man_in_the_middle(server.server.address()).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let root = if mode == "require" { String::new() } else { format!("sslrootcert={root}") };
        let rest = format!("host=127.0.0.1 port={port} sslmode={mode} {root}");
        let error = server.refuses(&rest, &["offers no TLS", mode, "took it away"]).await;
        assert!(matches!(error, ConnectError::NoTls { .. }), "{error:?}");
    }
    assert_eq!(overheard.lock().unwrap().as_slice(), b"", "something was sent in the open");
}

#[tokio::test]
async fn prefer_goes_without_and_says_so_once() {
    let authority = Authority::new("ours");
    let server = TlsServer::start(&authority.issue("db", &["127.0.0.1"]), EITHER, None).await;
    let (port, _) = start_man_in_the_middle(server.server.address()).await;
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let text = server.dsn(&format!("host=127.0.0.1 port={port} sslmode=prefer"));
    let connection: dapper_connect::ConnectionString = text.parse().unwrap();
    for _ in 0..3 {
        let (client, driver) = connection.clone().connect("dapper test").await.unwrap();
        drop((client, driver));
    }
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(said.matches("connected without TLS").count(), 1, "{said}");
    assert!(said.contains("WARN") && said.contains("verify-full"), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")) && !said.contains(&server.password), "{said}");

    // A password that goes with channel binding alone is not shown to him either.
    let bound = server.dsn(&format!("host=127.0.0.1 port={port} sslmode=prefer channel_binding=require"));
    let error = bound.parse::<dapper_connect::ConnectionString>().unwrap().connect("x").await.err().unwrap();
    assert!(chain(&error).contains("channel binding"), "{}", chain(&error));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
