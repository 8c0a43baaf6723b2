//! What is asked of etcd, one function for each question.

use std::time::Duration;

use dapper_lock::{FencingToken, HolderId, StoreId, Term};
use etcd_client::{
    Compare, CompareOp, Error, GetOptions, GetResponse, KeyValue, LeaseGrantOptions, PutOptions,
    ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::connection::{Connection, Deadline};
use crate::error::EtcdLockError;
use crate::keys::{self, Entry};

type Result<T, E = EtcdLockError> = std::result::Result<T, E>;

/// What became of putting a holder's name under a key.
pub(crate) enum Claim {
    /// It is there, and this is the revision at which it came.
    Made(FencingToken),
    /// Somebody else's was there.
    Taken(Entry),
}

/// What is under the key, by a quorum, and at which revision of the whole store that was so.
pub(crate) async fn read(connection: &Connection, key: &str, deadline: Deadline) -> Result<GetResponse> {
    let mut client = connection.kv();
    connection.call("read a key", deadline, client.get(key, None)).await
}

/// Makes an etcd lease under an id that was drawn before, so that it can be revoked whether or not the answer comes.
pub(crate) async fn grant(
    connection: &Connection,
    lease: i64,
    ttl: Duration,
    deadline: Deadline,
) -> Result<()> {
    let options = LeaseGrantOptions::new().with_id(lease);
    let mut client = connection.leases();
    connection.call("grant a lease", deadline, client.grant(whole_seconds(ttl), Some(options))).await?;
    Ok(())
}

/// Puts the holder's name under the key, bound to the etcd lease, if there is no such key.
pub(crate) async fn claim(
    connection: &Connection,
    key: &str,
    holder: &HolderId,
    lease: i64,
    deadline: Deadline,
) -> Result<Claim> {
    let transaction = Txn::new()
        .when(keys::is_free(key))
        .and_then([put(key, holder, lease)])
        .or_else([TxnOp::get(key, None)]);
    let answer = run(connection, "acquire the lease", transaction, deadline).await?;
    let revision = answer.header().map_or(0, ResponseHeader::revision);
    let nothing = |problem: &str| EtcdLockError::Garbage { key: key.to_owned(), problem: problem.to_owned() };
    if answer.succeeded() {
        // Everything that a transaction makes gets its revision.
        return keys::token(revision).map(Claim::Made).ok_or_else(|| nothing("no revision"));
    }
    let pair = pair(&answer).ok_or_else(|| nothing("nothing, and refuses to put something there"))?;
    Entry::read(&pair).map(Claim::Taken)
}

/// How long an etcd lease still runs, rounded up to whole seconds; zero when it is over.
pub(crate) async fn remaining(connection: &Connection, lease: i64, deadline: Deadline) -> Result<Duration> {
    let mut client = connection.leases();
    let answer =
        connection.call("ask for the end of a lease", deadline, client.time_to_live(lease, None)).await?;
    // The server rounds down, and says -1 when there is no such lease.
    Ok(Duration::from_secs(u64::try_from(answer.ttl() + 1).unwrap_or(0)))
}

/// Lets the etcd lease run for its whole time again; says how long that is, or `None` when it is over.
pub(crate) async fn keep_alive(
    connection: &Connection,
    lease: i64,
    deadline: Deadline,
) -> Result<Option<Duration>> {
    let kept = async {
        let mut client = connection.leases();
        let kept = client.keep_alive(lease).await;
        let standing = match &kept {
            // The client says by this that the lease is over, and other things too.
            Ok(_) | Err(Error::LeaseKeepAliveError(_)) => client.time_to_live(lease, None).await?,
            Err(_) => return kept.map(|_| None),
        };
        match u64::try_from(standing.ttl()) {
            Err(_) => Ok(None),
            Ok(_) => kept.map(|_| u64::try_from(standing.granted_ttl()).ok()),
        }
    };
    let seconds = connection.call("keep the lease alive", deadline, kept).await?;
    Ok(seconds.map(Duration::from_secs))
}

/// Whether the key is the term's, by a quorum.
pub(crate) async fn verify(
    connection: &Connection,
    key: &str,
    term: &Term,
    deadline: Deadline,
) -> Result<bool> {
    // Without something to read in it, a transaction would be answered from the member's own memory.
    let read = || [TxnOp::get(key, Some(GetOptions::new().with_keys_only()))];
    let transaction = Txn::new().when(keys::is_term(key, term)).and_then(read()).or_else(read());
    Ok(run(connection, "verify the lease", transaction, deadline).await?.succeeded())
}

/// Binds the term's key to another etcd lease, if it is the term's; whether it is. The token stays.
pub(crate) async fn rebind(
    connection: &Connection,
    key: &str,
    term: &Term,
    lease: i64,
    deadline: Deadline,
) -> Result<bool> {
    let transaction = Txn::new().when(keys::is_term(key, term)).and_then([put(key, &term.holder, lease)]);
    Ok(run(connection, "extend the lease", transaction, deadline).await?.succeeded())
}

/// Removes the key if it is the term's.
pub(crate) async fn release(
    connection: &Connection,
    key: &str,
    term: &Term,
    deadline: Deadline,
) -> Result<()> {
    let transaction = Txn::new().when(keys::is_term(key, term)).and_then([TxnOp::delete(key, None)]);
    run(connection, "release the lease", transaction, deadline).await.map(drop)
}

/// Ends an etcd lease, and with it the key that is bound to it.
pub(crate) async fn revoke(connection: &Connection, lease: i64, deadline: Deadline) -> Result<()> {
    let mut client = connection.leases();
    connection.call("revoke a lease", deadline, client.revoke(lease)).await?;
    Ok(())
}

/// Gives the store an identity unless it has one, and says which it has.
pub(crate) async fn make_store_id(connection: &Connection, key: &str, deadline: Deadline) -> Result<StoreId> {
    let drawn = StoreId::random();
    let transaction = Txn::new()
        .when(keys::is_free(key))
        .and_then([TxnOp::put(key, drawn.to_string(), None)])
        .or_else([TxnOp::get(key, None)]);
    let answer = run(connection, "draw an identity for the store", transaction, deadline).await?;
    // Another replica's may have come first.
    pair(&answer).as_ref().map_or(Ok(drawn), keys::read_store_id)
}

/// Fails unless the user may write both keys. Writes nothing: rights are checked before the condition, which is never
/// true.
pub(crate) async fn check_rights(
    connection: &Connection,
    store: &str,
    lease: &str,
    deadline: Deadline,
) -> Result<()> {
    let never = [0, 1].map(|revision| Compare::create_revision(store, CompareOp::Equal, revision));
    let transaction =
        Txn::new().when(never).and_then([TxnOp::put(store, "", None), TxnOp::put(lease, "", None)]);
    run(connection, "check the rights", transaction, deadline).await?;
    Ok(())
}

/// Which etcd this is.
pub(crate) async fn version(connection: &Connection, deadline: Deadline) -> Result<String> {
    let mut client = connection.maintenance();
    let answer = connection.call("ask for the version", deadline, client.status()).await?;
    Ok(answer.version().to_owned())
}

/// Seconds, rounded up: an etcd lease lives for whole ones, and must not be shorter than was asked for.
fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn put(key: &str, holder: &HolderId, lease: i64) -> TxnOp {
    TxnOp::put(key, holder.to_string(), Some(PutOptions::new().with_lease(lease)))
}

async fn run(
    connection: &Connection,
    task: &'static str,
    transaction: Txn,
    deadline: Deadline,
) -> Result<TxnResponse> {
    let mut client = connection.kv();
    connection.call(task, deadline, client.txn(transaction)).await
}

/// What the first read of a transaction found.
fn pair(answer: &TxnResponse) -> Option<KeyValue> {
    answer.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Get(mut found) => found.take_kvs().into_iter().next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_rounded_up() {
        for (ttl, seconds) in [
            (Duration::from_millis(100), 1),
            (Duration::from_secs(1), 1),
            (Duration::from_nanos(1_000_000_001), 2),
            (Duration::from_secs(3_600), 3_600),
        ] {
            assert_eq!(whole_seconds(ttl), seconds, "{ttl:?}");
        }
    }
}
