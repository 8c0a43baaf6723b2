//! Tokens only ever grow.

use std::pin::pin;

use dapper_lock::{HolderId, Term};
use tokio::time::{Instant, sleep};

use crate::cancel::poll;
use crate::case::{Stage, Verdict, ensure};
use crate::client::{LONG, PAUSE, SOON, resource};

const ROUNDS: usize = 3;

pub(crate) async fn a_free_resource_is_granted(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let found = one.holder(&resource).await?;
    ensure!(found.is_none(), "nobody has ever held {resource:?}, and holder says {found:?}");
    let term = one.grant(&resource, HolderId::random(), LONG).await?;
    two.holds(&term, "it was granted through another handle").await.map(drop)
}

pub(crate) async fn tokens_grow_with_each_release(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let mut last = None;
    for round in 0..2 * ROUNDS {
        // The same holder and others, the same handle and others.
        let client = if round % 2 == 0 { &one } else { &two };
        let term = client.grant(&resource, HolderId::random(), LONG).await?;
        grows(&mut last, &term, "an earlier grant that was released")?;
        client.release(&term).await?;
        let again = client.grant(&resource, term.holder, LONG).await?;
        grows(&mut last, &again, "an earlier grant of the same holder that was released")?;
        client.release(&again).await?;
    }
    Ok(())
}

pub(crate) async fn tokens_grow_with_each_expiry(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let (ttl, mut last) = (stage.short(), None);
    for client in [&one, &two, &one] {
        let deadline = Instant::now() + stage.latest(ttl);
        let why = "the last term was short";
        let term = client.granted_by(&resource, HolderId::random(), ttl, deadline, why).await?;
        grows(&mut last, &term, "an earlier grant that ran out")?;
    }
    Ok(())
}

pub(crate) async fn tokens_grow_over_grants_that_nobody_received(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let (ttl, mut last) = (stage.short(), None);
    for polls in 0..2 * ROUNDS {
        let holder = HolderId::random();
        // Others may have seen the grant before its caller went away.
        let (received, seen) = {
            let mut unreceived = pin!(one.store.try_acquire(&resource, &holder, ttl));
            let received = poll(unreceived.as_mut(), polls).await;
            sleep(PAUSE).await;
            (received, two.holder(&resource).await?.filter(|by| by.holder == holder))
        };
        if let Some(by) = &seen {
            let term = Term { resource: resource.clone(), holder, token: by.token };
            grows(&mut last, &term, "an earlier grant that nobody may have received")?;
        }
        let deadline = Instant::now() + stage.latest(ttl);
        let why = "a grant that nobody received is over";
        let term = two.granted_by(&resource, HolderId::random(), LONG, deadline, why).await?;
        grows(&mut last, &term, "an earlier grant that nobody may have received")?;
        two.release(&term).await?;
        if received.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

pub(crate) async fn tokens_grow_across_a_restart(stage: Stage) -> Verdict {
    let one = stage.open().await?;
    // A release may be lost with the store; its term then ends in time.
    let (resource, ttl, mut last) = (resource("orders")?, stage.short() * 3, None);
    for _ in 0..2 {
        for _ in 0..ROUNDS {
            let term = one.grant(&resource, HolderId::random(), ttl).await?;
            grows(&mut last, &term, "an earlier grant")?;
            one.release(&term).await?;
        }
        stage.harness.restart().await?;
        let two = stage.open().await?;
        let deadline = Instant::now() + stage.latest(ttl) + SOON * 5;
        let why = "it was released before the restart, and its time to live is over";
        let term = two.granted_by(&resource, HolderId::random(), LONG, deadline, why).await?;
        grows(&mut last, &term, "a grant from before a restart of the store")?;
        two.release(&term).await?;
        // The old handle comes back to itself, too.
        let term = one.granted_by(&resource, HolderId::random(), LONG, deadline, why).await?;
        grows(&mut last, &term, "a grant from before a restart of the store")?;
        one.release(&term).await?;
    }
    Ok(())
}

/// Remembers the term's token, which must be higher than the last one.
fn grows(last: &mut Option<Term>, term: &Term, what: &str) -> Verdict {
    if let Some(last) = last {
        let (token, before) = (term.token, last.token);
        ensure!(token > before, "a grant has token {token}, which is not above token {before} of {what}");
    }
    *last = Some(term.clone());
    Ok(())
}
