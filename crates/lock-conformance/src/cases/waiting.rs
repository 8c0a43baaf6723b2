//! Waiting ends: with its limit, and soon after a release.

use std::time::Duration;

use dapper_lock::HolderId;
use tokio::time::{Instant, sleep};

use crate::case::{Stage, Verdict, ensure};
use crate::client::{LONG, SOON, resource};

const LIMIT: Duration = Duration::from_millis(500);

pub(crate) async fn a_wait_ends_with_its_limit(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (held, free) = (resource("held")?, resource("free")?);
    let term = one.grant(&held, HolderId::random(), LONG).await?;
    let holder = HolderId::random();
    two.refused(&held, holder, "it is held").await?;
    two.wait(&held, &holder, LIMIT).await?;
    two.wait(&held, &holder, Duration::ZERO).await?;
    two.wait(&free, &holder, LIMIT).await?;
    // Waiting says nothing about who holds.
    two.refused(&held, holder, "its holder has not let go; a wait for it ended, which means nothing").await?;
    one.runs(&term, LONG, "others only waited").await
}

pub(crate) async fn a_release_wakes_who_waits(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let three = stage.open().await?;
    let resource = resource("orders")?;
    for _ in 0..3 {
        let term = one.grant(&resource, HolderId::random(), LONG).await?;
        let waiter = |client: crate::client::Client| {
            let resource = resource.clone();
            async move {
                let why = "it was released while this waited";
                let term =
                    client.granted_after_wait(&resource, HolderId::random(), LONG, SOON * 10, why).await?;
                let granted = Instant::now();
                client.release(&term).await?;
                Ok(granted)
            }
        };
        let release = async {
            sleep(LIMIT).await;
            one.release(&term).await.map(|()| Instant::now())
        };
        // The first of the two wakes the second one in turn.
        let (first, second, released) = tokio::join!(waiter(two.clone()), waiter(three.clone()), release);
        let (first, second, released): (Verdict<Instant>, Verdict<Instant>, _) = (first, second, released);
        let last = first?.max(second?);
        let (took, both) = (last.saturating_duration_since(released?), SOON * 2);
        ensure!(took < both, "a release did not wake who waits: it took two of them {took:?} to be granted");
    }
    Ok(())
}
