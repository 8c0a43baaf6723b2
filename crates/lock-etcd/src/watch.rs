//! Watching a key.

use etcd_client::{Event, GetResponse, ResponseHeader, WatchOptions, WatchStream};

use crate::connection::{Connection, Deadline};
use crate::error::EtcdLockError;

const TASK: &str = "watch the lease";

/// A watch of one key. Dropping it ends it.
pub(crate) struct Watch<'c> {
    connection: &'c Connection,
    stream: WatchStream,
}

impl<'c> Watch<'c> {
    /// Watches from what was read on, so that nothing in between is missed.
    pub(crate) async fn from(
        connection: &'c Connection,
        key: &str,
        found: &GetResponse,
        deadline: Deadline,
    ) -> Result<Self, EtcdLockError> {
        let revision = found.header().map_or(0, ResponseHeader::revision);
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let mut client = connection.watches();
        let stream = connection.call(TASK, deadline, client.watch(key, Some(options))).await?;
        Ok(Self { connection, stream })
    }

    /// Returns after a change of the key that is wanted, and when etcd has forgotten the changes from which this was to
    /// go on, so that only another look can tell. No message comes for as long as nothing happens.
    pub(crate) async fn until_changed(
        &mut self,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> Result<(), EtcdLockError> {
        let reason = loop {
            match self.stream.message().await {
                Ok(Some(message)) if message.compact_revision() > 0 => return Ok(()),
                Ok(Some(message)) if message.canceled() => break message.cancel_reason().to_owned(),
                Ok(Some(message)) if message.events().iter().any(&is_wanted) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => break "its stream has ended".to_owned(),
                Err(error) => return Err(self.connection.failed(TASK, error)),
            }
        };
        self.connection.give_up();
        Err(EtcdLockError::WatchEnded { reason })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dapper_testkit::{EtcdOptions, EtcdServer};
    use tokio::time::timeout;

    use super::*;
    use crate::{EtcdLockOptions, requests};

    #[tokio::test]
    async fn what_was_read_and_compacted_since_ends_a_watch_without_an_error() {
        let server = EtcdServer::start(&EtcdOptions::default()).unwrap();
        let endpoint = server.url().parse().unwrap();
        let limit = Duration::from_secs(5);
        let deadline = Deadline::after(limit);
        let connection = Connection::open(&EtcdLockOptions::default(), &endpoint, limit).await.unwrap();
        let found = requests::read(&connection, "key", deadline).await.unwrap();
        for _ in 0..3 {
            connection.kv().put("key", "", None).await.unwrap();
        }
        let mut watch = Watch::from(&connection, "key", &found, deadline).await.unwrap();
        timeout(limit, watch.until_changed(|_| true)).await.unwrap().unwrap();
        connection.kv().compact(3, None).await.unwrap();
        let mut watch = Watch::from(&connection, "key", &found, deadline).await.unwrap();
        timeout(limit, watch.until_changed(|_| false)).await.unwrap().unwrap();
        assert!(connection.is_usable());
    }
}
