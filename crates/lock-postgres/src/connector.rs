//! The seam between the store and the transport: plain, or whatever TLS the caller brings.

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Error, Socket};

/// Moves the messages of one connection; whatever its end, the connection is then lost.
pub(crate) type Transport = BoxFuture<'static, Result<(), Error>>;

/// Opens connections.
#[async_trait]
pub(crate) trait Connector: Send + Sync {
    async fn connect(&self, config: &Config) -> Result<(Client, Transport), Error>;
}

/// Opens connections with a TLS connector of tokio-postgres, [`NoTls`](tokio_postgres::NoTls) included.
pub(crate) struct TlsConnector<T>(pub(crate) T);

#[async_trait]
impl<T> Connector for TlsConnector<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    async fn connect(&self, config: &Config) -> Result<(Client, Transport), Error> {
        let (client, connection) = config.connect(self.0.clone()).await?;
        Ok((client, Box::pin(connection)))
    }
}
