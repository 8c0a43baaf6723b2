//! Terms end by the store's clock, not sooner and not much later.

use std::time::Duration;

use dapper_lock::{HolderId, Resource, TryAcquire};
use tokio::time::{Instant, sleep};

use crate::case::{Stage, Verdict, ensure};
use crate::client::{Client, LONG, PAUSE, TOLERANCE, resource};

/// More than any time to live in these cases is rounded to by a careless store, and not a multiple of a second.
const ODD: Duration = Duration::from_millis(700);

/// Nobody may be granted the resource before `end`. True when somebody was granted it right at the end.
async fn lasts_until(client: &Client, resource: &Resource, end: Instant, what: &str) -> Verdict<bool> {
    while end.saturating_duration_since(Instant::now()) > TOLERANCE {
        if let TryAcquire::Granted(token) = client.try_acquire(resource, &HolderId::random(), LONG).await? {
            let early = end.saturating_duration_since(Instant::now());
            ensure!(
                early <= TOLERANCE,
                "token {token} was granted {early:?} before the time to live of {what} was over"
            );
            return Ok(true);
        }
        sleep(PAUSE).await;
    }
    Ok(false)
}

pub(crate) async fn a_term_lasts_its_time_to_live(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    two.store_id().await?;
    for ttl in [stage.short() + ODD, ODD] {
        let resource = resource(&format!("orders {ttl:?}"))?;
        let sent = Instant::now();
        one.grant(&resource, HolderId::random(), ttl).await?;
        lasts_until(&two, &resource, sent + ttl, &format!("a grant for {ttl:?}")).await?;
    }
    Ok(())
}

pub(crate) async fn a_term_ends_after_its_time_to_live(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, ttl) = (resource("orders")?, stage.short());
    one.grant(&resource, HolderId::random(), ttl).await?;
    let deadline = Instant::now() + stage.latest(ttl);
    let why = format!("the term before was granted for {ttl:?} and not renewed");
    two.granted_by(&resource, HolderId::random(), LONG, deadline, &why).await.map(drop)
}

pub(crate) async fn a_renewal_lets_the_term_run_on(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    two.store_id().await?;
    let (resource, ttl) = (resource("orders")?, stage.short() * 3);
    let term = one.grant(&resource, HolderId::random(), ttl).await?;
    sleep(ttl / 2).await;
    let sent = Instant::now();
    one.runs(&term, ttl, "its time to live is not over").await?;
    let deadline = Instant::now() + stage.latest(ttl);
    if lasts_until(&two, &resource, sent + ttl, &format!("a renewal for {ttl:?}")).await? {
        return Ok(());
    }
    let why = format!("the term before was renewed for {ttl:?} and not again");
    two.granted_by(&resource, HolderId::random(), LONG, deadline, &why).await.map(drop)
}
