//! A small pooler that hands the server's sessions out by transaction, as PgBouncer does in transaction mode.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::Database;

/// The server's sessions that nobody uses, the last used one last.
type Pool = Arc<Mutex<Vec<TcpStream>>>;

/// Starts a pooler in front of the database's server, which ends with the runtime; returns a connection string that leads
/// through it.
///
/// # Errors
/// When no port is free, or the server has no TCP address.
pub async fn pooler(database: &Database) -> io::Result<String> {
    let original: Config = database.url().parse().map_err(io::Error::other)?;
    let Some(Host::Tcp(host)) = original.get_hosts().first() else {
        return Err(io::Error::other("the server has no TCP port"));
    };
    let server = (host.clone(), original.get_ports().first().copied().unwrap_or(5432));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let pool = Pool::default();
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&server).await else { return };
            tokio::spawn(serve(client, server, Arc::clone(&pool)));
        }
    });
    let user = original.get_user().unwrap_or_default();
    let password = String::from_utf8_lossy(original.get_password().unwrap_or_default()).into_owned();
    let name = database.name();
    Ok(format!("host=127.0.0.1 port={port} user={user} password={password} dbname={name} sslmode=disable"))
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
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(server);
    loop {
        let mut message = read(&mut client).await?;
        if message.0 == b'X' {
            return Ok(());
        }
        let mut server =
            pool.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or(io::ErrorKind::WouldBlock)?;
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
        pool.lock().unwrap_or_else(PoisonError::into_inner).push(server);
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
    message.extend(u32::try_from(body.len() + 4).map_err(io::Error::other)?.to_be_bytes());
    message.extend(body);
    to.write_all(&message).await
}
