//! Replies that never come, or come when everything has changed.

use dapper_lock::{HolderId, LockError, Term, TryAcquire};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use crate::cancel::poll;
use crate::case::{Stage, Verdict, ensure};
use crate::client::{Client, LONG, SOON, bounded, resource};

/// More polls than any store needs for a try.
const MAX_POLLS: usize = 200;

/// Whoever lost the reply learns of the grant by asking again, and gives it back.
pub(crate) async fn a_grant_whose_reply_was_lost_is_found_and_released(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, holder) = (resource("orders")?, HolderId::random());
    // The reply is not looked at: it was lost on the way.
    let _ = one.grant(&resource, holder, LONG).await?;
    let by = two
        .refused(&resource, holder, "an earlier grant to the same holder, whose reply was lost, is running")
        .await?;
    ensure!(by.holder == holder, "try_acquire says {by:?} to {holder}, whom the store granted {resource:?}");
    let lost = Term { resource: resource.clone(), holder, token: by.token };
    two.release(&lost).await?;
    let deadline = Instant::now() + SOON;
    let why = "the grant whose reply was lost was released by the term that try_acquire named";
    let term = two.granted_by(&resource, holder, LONG, deadline, why).await?;
    ensure!(term.token > lost.token, "token {} was granted after token {}", term.token, lost.token);
    Ok(())
}

/// A try whose caller was held up, and what is left of it.
struct HeldUp {
    resource: dapper_lock::Resource,
    holder: HolderId,
    handle: Client,
    reply: BoxFuture<'static, Result<TryAcquire, LockError>>,
}

pub(crate) async fn a_late_reply_grants_nothing_twice(stage: Stage) -> Verdict {
    let other = stage.open().await?;
    other.store_id().await?;
    let ttl = stage.short();
    let mut held_up = Vec::new();
    for polls in 1..MAX_POLLS {
        let (resource, holder) = (resource(&format!("orders {polls}"))?, HolderId::random());
        let handle = stage.open().await?;
        handle.store_id().await?;
        let store = std::sync::Arc::clone(&handle.store);
        let (for_reply, name) = (holder, resource.clone());
        let mut reply: BoxFuture<'static, _> =
            Box::pin(async move { store.try_acquire(&name, &for_reply, ttl).await });
        if poll(reply.as_mut(), polls).await.is_some() {
            break;
        }
        held_up.push(HeldUp { resource, holder, handle, reply });
    }
    sleep(ttl).await;
    let mut next = Vec::new();
    for HeldUp { resource, .. } in &held_up {
        let deadline = Instant::now() + stage.latest(ttl);
        let why =
            format!("the caller of an unfinished try was held up longer than its time to live of {ttl:?}");
        next.push(other.granted_by(resource, HolderId::random(), LONG, deadline, &why).await?);
    }
    for (HeldUp { resource, holder, handle, reply }, next) in held_up.into_iter().zip(next) {
        let late = bounded("try_acquire", reply).await?;
        if let Ok(TryAcquire::Granted(token)) = late {
            let term = Term { resource, holder, token };
            ensure!(
                token < next.token,
                "a try that was held up was granted token {token} while {next:?} was running"
            );
            handle.is_over(&term, LONG, "another was granted the resource before the reply came").await?;
        }
        let why = "only the reply to a try before it came late";
        other.holds(&next, why).await?;
        other.runs(&next, LONG, why).await?;
        let told = timeout(std::time::Duration::ZERO, other.store.ended(&next)).await.is_ok();
        ensure!(!told, "ended says that {next:?} is over, although {why}");
    }
    Ok(())
}
