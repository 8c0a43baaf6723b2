//! Behind a pooler that hands the server's sessions out by transaction.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_testkit::Database;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::support::{acquire, config, database, manager, row, until};

/// The server's sessions that nobody uses, the last used one last.
type Pool = Arc<Mutex<Vec<TcpStream>>>;

/// Starts a pooler in front of the database's server, and returns a configuration that goes through it.
async fn pooler(database: &Database) -> Config {
    let original = config(database);
    let Some(Host::Tcp(host)) = original.get_hosts().first() else { panic!("the server has no TCP port") };
    let server = (host.clone(), original.get_ports().first().copied().unwrap_or(5432));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut pooled = Config::new();
    pooled.host("127.0.0.1").port(listener.local_addr().unwrap().port()).dbname(database.name());
    pooled.user(original.get_user().unwrap()).password(original.get_password().unwrap());
    pooled.ssl_mode(tokio_postgres::config::SslMode::Disable);
    tokio::spawn(async move {
        let pool = Pool::default();
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(serve(client, server, Arc::clone(&pool)));
        }
    });
    pooled
}

/// Lets the client log in to a session of its own, which then belongs to all, and runs each of its transactions in
/// whichever session is free.
async fn serve(mut client: TcpStream, mut server: TcpStream, pool: Pool) -> io::Result<()> {
    // The first message has no tag.
    let length = client.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    client.read_exact(&mut body).await?;
    server.write_u32(length).await?;
    server.write_all(&body).await?;
    loop {
        // Until the server is ready; it waits for the client's password in between.
        let (tag, body) = read(&mut server).await?;
        write(&mut client, tag, &body).await?;
        let asks = tag == b'R' && matches!(body[..4], [0, 0, 0, 3 | 5 | 10 | 11]);
        if asks {
            let (tag, body) = read(&mut client).await?;
            write(&mut server, tag, &body).await?;
        }
        if tag == b'Z' {
            break;
        }
    }
    pool.lock().unwrap().push(server);
    loop {
        let mut message = read(&mut client).await?;
        if message.0 == b'X' {
            return Ok(());
        }
        let mut server = pool.lock().unwrap().pop().ok_or(io::ErrorKind::WouldBlock)?;
        'transaction: loop {
            // A query, or everything up to a Sync, has one answer that ends with "ready".
            while !matches!(message.0, b'Q' | b'S') {
                write(&mut server, message.0, &message.1).await?;
                message = read(&mut client).await?;
            }
            write(&mut server, message.0, &message.1).await?;
            loop {
                let (tag, body) = read(&mut server).await?;
                write(&mut client, tag, &body).await?;
                if tag == b'Z' && body == b"I" {
                    break 'transaction;
                }
                if tag == b'Z' {
                    break;
                }
            }
            message = read(&mut client).await?;
        }
        pool.lock().unwrap().push(server);
    }
}

async fn read(from: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let tag = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await?;
    Ok((tag, body))
}

async fn write(to: &mut TcpStream, tag: u8, body: &[u8]) -> io::Result<()> {
    let mut message = vec![tag];
    message.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend(body);
    to.write_all(&message).await
}

#[tokio::test]
async fn leases_do_without_sessions() {
    let database = database().await;
    let watcher = database.connect().await.unwrap();
    let pooled = pooler(&database).await;
    let store = || PostgresLockStore::new(pooled.clone(), PostgresLockOptions::default());
    let ttl = Duration::from_secs(3);
    let (one, two) = (manager(store(), ttl), manager(store(), ttl));
    let lease = acquire(&one).await;
    assert!(!row(&watcher).await.1);
    let other = tokio::spawn(async move { acquire(&two).await });
    tokio::time::sleep(ttl * 2).await;
    assert!(lease.is_valid() && !other.is_finished());
    let locks = "SELECT count(*) = $1 FROM pg_locks WHERE locktype = 'advisory' AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    until(&watcher, locks, 0).await;
    let token = lease.token();
    lease.release().await.unwrap();
    assert!(other.await.unwrap().token() > token);
}
