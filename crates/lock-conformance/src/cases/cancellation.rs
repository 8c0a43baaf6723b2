//! Futures that are dropped at each point at which they can be.

use std::time::Duration;

use dapper_lock::{HolderId, Renewal, Resource, TryAcquire};
use tokio::time::{Instant, timeout};

use crate::cancel::cancel_after;
use crate::case::{Stage, Stop, Verdict, ensure};
use crate::client::{Client, LONG, PAUSE, SOON, resource};

/// More polls than any call needs.
const MAX_POLLS: usize = 200;
/// Dropped at once after the last poll, and dropped when the reply has come but was not looked at.
const LINGERS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(20)];
/// How long it takes a waiting call to come to rest.
const AT_REST: Duration = Duration::from_millis(250);

/// What a dropped call may have left behind.
struct Left {
    resource: Resource,
    holder: HolderId,
    at: Instant,
    polls: usize,
}

/// `what` happens to the resource of each number of polls, until it comes to its end.
fn endless(what: &str, polls: usize) -> Verdict {
    ensure!(polls < MAX_POLLS, "{what} did not end within {MAX_POLLS} polls");
    Ok(())
}

pub(crate) async fn a_cancelled_try_leaves_nothing_behind(stage: Stage) -> Verdict {
    let (one, other) = stage.open_two().await?;
    let (ttl, mut left) = (stage.short(), Vec::new());
    for linger in LINGERS {
        // A handle that was never used may have to connect, or even to make the store.
        for is_new in [true, false] {
            for polls in 0.. {
                endless("try_acquire", polls)?;
                let resource = resource(&format!("{linger:?} {is_new} {polls}"))?;
                let holder = HolderId::random();
                let handle = if is_new { stage.open().await? } else { one.clone() };
                let at = Instant::now();
                let tried =
                    cancel_after(handle.store.try_acquire(&resource, &holder, ttl), polls, linger).await;
                serves(&handle, &resource, holder, polls).await?;
                left.push(Left { resource, holder, at, polls });
                if let Some(answer) = tried {
                    let granted = matches!(answer, Ok(TryAcquire::Granted(_)));
                    ensure!(granted, "a try for a free resource answers {answer:?}");
                    break;
                }
            }
        }
    }
    for Left { resource, holder, at, polls } in left {
        // Counted from when the handle has served another call since: till then the request may have been on its way.
        let deadline = (at + stage.latest(ttl)).max(Instant::now() + PAUSE);
        let why = format!(
            "a try for {ttl:?} that was dropped after {polls} polls must leave nothing behind for longer"
        );
        let term = other.granted_by(&resource, HolderId::random(), LONG, deadline, &why).await?;
        other.runs(&term, LONG, "it was granted").await?;
        other.release(&term).await?;
        let again = one.grant(&resource, holder, LONG).await?;
        ensure!(again.token > term.token, "token {} was granted after token {}", again.token, term.token);
        one.release(&again).await?;
    }
    Ok(())
}

/// A handle on which a try was dropped goes on serving, and is not misled.
async fn serves(handle: &Client, resource: &Resource, holder: HolderId, polls: usize) -> Verdict {
    let after = |stop: Stop| match stop {
        Stop::Failed(what) => Stop::Failed(format!("after a try was dropped after {polls} polls: {what}")),
        stop => stop,
    };
    handle.store_id().await.map_err(after)?;
    let found = handle.holder(resource).await.map_err(after)?;
    let alone = found.as_ref().is_none_or(|by| by.holder == holder);
    ensure!(alone, "holder says {found:?}, although {holder} alone asked for {resource:?}");
    Ok(())
}

pub(crate) async fn a_cancelled_renewal_leaves_nothing_behind(stage: Stage) -> Verdict {
    let (one, other) = stage.open_two().await?;
    let (ttl, mut lost) = (stage.short() * 2, Vec::new());
    for linger in LINGERS {
        for polls in 0.. {
            endless("renew", polls)?;
            let resource = resource(&format!("{linger:?} {polls}"))?;
            let term = one.grant(&resource, HolderId::random(), ttl).await?;
            let renewed = cancel_after(one.store.renew(&term, ttl), polls, linger).await;
            let at = Instant::now();
            let after = format!("a renewal that was dropped after {polls} polls was the last call");
            match one.renew(&term, ttl).await.map_err(|stop| blame(stop, &after))? {
                Renewal::Renewed => {
                    one.holds(&term, &after).await?;
                    one.release(&term).await?;
                    let deadline = Instant::now() + SOON;
                    let next =
                        other.granted_by(&resource, HolderId::random(), LONG, deadline, &after).await?;
                    other.release(&next).await?;
                }
                Renewal::NotHolder => lost.push(Left { resource, holder: term.holder, at, polls }),
            }
            if renewed.is_some() {
                break;
            }
        }
    }
    for Left { resource, holder, at, polls } in lost {
        let deadline = (at + stage.latest(ttl)).max(Instant::now() + PAUSE);
        let why = format!("the term was lost with a renewal that was dropped after {polls} polls");
        let term = other.granted_by(&resource, HolderId::random(), LONG, deadline, &why).await?;
        other.release(&term).await?;
        let term = one.grant(&resource, holder, LONG).await?;
        one.release(&term).await?;
    }
    Ok(())
}

pub(crate) async fn a_cancelled_release_leaves_nothing_behind(stage: Stage) -> Verdict {
    let (one, other) = stage.open_two().await?;
    let (ttl, mut left) = (stage.short(), Vec::new());
    for linger in LINGERS {
        for again in [true, false] {
            for polls in 0.. {
                endless("release", polls)?;
                let resource = resource(&format!("{linger:?} {again} {polls}"))?;
                let term = one.grant(&resource, HolderId::random(), ttl).await?;
                let at = Instant::now();
                let released = cancel_after(one.store.release(&term), polls, linger).await;
                if again {
                    let after =
                        format!("a release was dropped after {polls} polls, and a second one confirmed");
                    one.release(&term).await.map_err(|stop| blame(stop, &after))?;
                    let deadline = Instant::now() + SOON;
                    let next =
                        other.granted_by(&resource, HolderId::random(), LONG, deadline, &after).await?;
                    other.release(&next).await?;
                } else {
                    left.push(Left { resource, holder: term.holder, at, polls });
                }
                if released.is_some() {
                    break;
                }
            }
        }
    }
    for Left { resource, at, polls, .. } in left {
        let deadline = (at + stage.latest(ttl)).max(Instant::now() + PAUSE);
        let why =
            format!("a release was dropped after {polls} polls, and the time to live of {ttl:?} is over");
        other.granted_by(&resource, HolderId::random(), LONG, deadline, &why).await?;
    }
    Ok(())
}

pub(crate) async fn a_cancelled_wait_leaves_nothing_behind(stage: Stage) -> Verdict {
    let (one, dropped) = stage.open_two().await?;
    let next = stage.open().await?;
    for linger in LINGERS {
        for polls in 0.. {
            endless("wait", polls)?;
            let resource = resource(&format!("{linger:?} {polls}"))?;
            let (holder, gone) = (HolderId::random(), HolderId::random());
            let term = one.grant(&resource, holder, LONG).await?;
            dropped.refused(&resource, gone, "it is held").await?;
            let wait = cancel_after(dropped.store.wait(&resource, &gone, SOON * 10), polls, linger);
            // It has come to its end, or to where it rests: there are no more points to drop it at.
            let is_last = timeout(AT_REST, wait).await.map_or(true, |ended| ended.is_some());
            let waiter =
                next.granted_after_wait(&resource, HolderId::random(), LONG, SOON * 5, "it was released");
            let release = async {
                tokio::time::sleep(AT_REST).await;
                one.release(&term).await.map(|()| Instant::now())
            };
            let (granted, released) = tokio::join!(timed(waiter), release);
            let ((granted, at), released) = (granted?, released?);
            ensure!(
                at < released + SOON,
                "a release did not wake who waits within {SOON:?}, after a wait of another had been dropped after {polls} polls"
            );
            next.release(&granted).await?;
            let again = dropped.grant(&resource, gone, LONG).await?;
            dropped.release(&again).await?;
            if is_last {
                break;
            }
        }
    }
    Ok(())
}

async fn timed<T>(call: impl Future<Output = Verdict<T>>) -> Verdict<(T, Instant)> {
    call.await.map(|output| (output, Instant::now()))
}

fn blame(stop: Stop, why: &str) -> Stop {
    match stop {
        Stop::Failed(what) => Stop::Failed(format!("{what}, although only {why}")),
        stop => stop,
    }
}
