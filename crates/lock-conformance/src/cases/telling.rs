//! What a store says about terms, and what it must not say.

use std::time::Duration;

use dapper_lock::{HeldBy, HolderId, LockError, Renewal};
use tokio::time::{Instant, sleep, timeout};

use crate::case::{Stage, Verdict, chain, ensure};
use crate::client::{LONG, PAUSE, SOON, resource};

pub(crate) async fn holder_tells_the_truth(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, ttl) = (resource("orders")?, stage.short());
    let longest = stage.latest(LONG);
    let plausible = |by: &HeldBy| {
        ensure!(
            by.remaining > LONG / 2 && by.remaining <= longest,
            "a term that was just granted for {LONG:?} has {:?} left, says {by:?}",
            by.remaining
        );
        Ok(())
    };
    for holder in [HolderId::random(), HolderId::random()] {
        let term = one.grant(&resource, holder, LONG).await?;
        plausible(&two.holds(&term, "it was just granted").await?)?;
        plausible(&one.holds(&term, "it was just granted").await?)?;
        plausible(&two.refused(&resource, HolderId::random(), "it is held").await?)?;
        one.release(&term).await?;
        for client in [&one, &two] {
            let found = client.holder(&resource).await?;
            ensure!(found.is_none(), "{term:?} was released, and holder says {found:?}");
        }
    }
    one.grant(&resource, HolderId::random(), ttl).await?;
    let deadline = Instant::now() + stage.latest(ttl);
    while let Some(by) = two.holder(&resource).await? {
        ensure!(Instant::now() < deadline, "a term for {ttl:?} ran out, and holder says {by:?}");
        sleep(PAUSE).await;
    }
    Ok(())
}

pub(crate) async fn ended_never_lies(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let term = one.grant(&resource, HolderId::random(), LONG).await?;
    two.refused(&resource, HolderId::random(), "it is held").await?;
    let renewing = async {
        for _ in 0..5 {
            one.runs(&term, LONG, "its time to live is not over").await?;
            sleep(SOON / 10).await;
        }
        Verdict::Ok(())
    };
    tokio::select! {
        biased;
        () = one.store.ended(&term) => {
            let renewal = one.renew(&term, LONG).await?;
            ensure!(renewal == Renewal::NotHolder, "ended says that {term:?} is over, and renew says that it runs");
        }
        done = renewing => done?,
    }
    Ok(())
}

pub(crate) async fn secrets_do_not_show(stage: Stage) -> Verdict {
    const CANARY: &str = "c4n4ry-in-the-m1ne";
    const LIMIT: Duration = Duration::from_secs(15);
    let resource = resource("orders")?;
    let term = {
        let one = stage.open().await?;
        one.grant(&resource, HolderId::random(), LONG).await?
    };
    let suspects = stage.harness.open_with_secret(CANARY).await?;
    ensure!(!suspects.is_empty(), "the harness opened no handle with a secret");
    for crate::Suspect { store, debug } in suspects {
        ensure!(!debug.contains(CANARY), "Debug of a handle shows a secret: {debug}");
        let mut texts = Vec::new();
        if let Ok(Err(error)) = timeout(LIMIT, store.store_id()).await {
            texts.push(text("store_id", &error));
        }
        if let Ok(Err(error)) = timeout(LIMIT, store.try_acquire(&resource, &term.holder, LONG)).await {
            texts.push(text("try_acquire", &error));
        }
        if let Ok(Err(error)) = timeout(LIMIT, store.renew(&term, LONG)).await {
            texts.push(text("renew", &error));
        }
        if let Ok(Err(error)) = timeout(LIMIT, store.holder(&resource)).await {
            texts.push(text("holder", &error));
        }
        if let Ok(Err(error)) = timeout(LIMIT, store.wait(&resource, &term.holder, PAUSE)).await {
            texts.push(text("wait", &error));
        }
        if let Ok(Err(error)) = timeout(LIMIT, store.release(&term)).await {
            texts.push(text("release", &error));
        }
        let telling = texts.iter().find(|text| text.contains(CANARY));
        ensure!(telling.is_none(), "an error shows a secret: {}", telling.cloned().unwrap_or_default());
    }
    Ok(())
}

fn text(call: &str, error: &LockError) -> String {
    format!("{call}: {}; {error:?}", chain(error))
}
