//! Which store it is.

use dapper_lock::{HolderId, StoreId};

use crate::case::{Stage, Verdict, ensure};
use crate::client::{Client, LONG, SOON, resource};

pub(crate) async fn a_store_has_one_identity(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let id = one.store_id().await?;
    let term = two.grant(&resource("orders")?, HolderId::random(), LONG).await?;
    two.release(&term).await?;
    let three = stage.open().await?;
    for (when, client) in [("later", &one), ("on another handle", &two), ("on a new handle", &three)] {
        let other = client.store_id().await?;
        ensure!(id == other, "the identity of the store was {id} and is {other} {when}");
    }
    let lives_on = stage.harness.address().is_ok();
    ensure!(
        id != StoreId::EPHEMERAL || !lives_on,
        "the store serves several processes, and has the identity of one that lives and dies with its own"
    );
    Ok(())
}

pub(crate) async fn two_stores_have_two_identities(stage: Stage) -> Verdict {
    let another = stage.another().await?;
    let (one, two) = (stage.open().await?, Client { store: another.open().await? });
    let (id, other) = (one.store_id().await?, two.store_id().await?);
    ensure!(id != other || id == StoreId::EPHEMERAL, "two stores have the same identity {id}");
    Ok(())
}

pub(crate) async fn the_identity_survives_a_restart(stage: Stage) -> Verdict {
    let one = stage.open().await?;
    let id = one.store_id().await?;
    let term = one.grant(&resource("orders")?, HolderId::random(), LONG).await?;
    one.release(&term).await?;
    stage.harness.restart().await?;
    ensure!(
        id != StoreId::EPHEMERAL,
        "the store outlives its process, and its identity says that it does not"
    );
    let two = stage.open().await?;
    let deadline = tokio::time::Instant::now() + SOON * 5;
    let after = loop {
        match two.store_id().await {
            Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(crate::client::PAUSE).await;
            }
            answer => break answer?,
        }
    };
    ensure!(id == after, "the identity of the store was {id} before a restart and is {after} after it");
    Ok(())
}
