//! One holder, whoever asks, from wherever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dapper_lock::{FencingToken, HolderId, TryAcquire};
use futures::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep, timeout};

use crate::case::{Stage, Stop, Verdict, ensure};
use crate::client::{Client, LONG, PAUSE, SOON, resource};

pub(crate) async fn one_of_many_is_granted(stage: Stage) -> Verdict {
    let clients = try_join_all((0..6).map(|_| stage.open())).await?;
    for round in 0..5 {
        let resource = resource(&format!("orders {round}"))?;
        let tries = clients.iter().map(|client| {
            let (client, resource) = (client.clone(), resource.clone());
            tokio::spawn(async move { client.try_acquire(&resource, &HolderId::random(), LONG).await })
        });
        let mut granted = Vec::new();
        for answer in join_all(tries).await {
            let answer = answer.map_err(|error| Stop::Failed(format!("a try panicked: {error}")))??;
            if let TryAcquire::Granted(token) = answer {
                granted.push(token);
            }
        }
        let count = clients.len();
        ensure!(
            granted.len() == 1,
            "of {count} holders who tried at once, those with tokens {granted:?} were granted"
        );
    }
    Ok(())
}

pub(crate) async fn many_tasks_count_without_losing_one(stage: Stage) -> Verdict {
    const TASKS: usize = 6;
    const ROUNDS: usize = 15;
    let clients = try_join_all((0..3).map(|_| stage.open())).await?;
    // The store is made before it is contended for.
    clients[0].store_id().await?;
    let resource = resource("counter")?;
    let (counter, tokens) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let tasks = (0..TASKS).map(|task| {
        let (client, resource) = (clients[task % clients.len()].clone(), resource.clone());
        let (counter, tokens) = (Arc::clone(&counter), Arc::clone(&tokens));
        tokio::spawn(async move {
            let holder = HolderId::random();
            for _ in 0..ROUNDS {
                let term = client
                    .granted_after_wait(&resource, holder, LONG, LONG, "each holds it for a moment only")
                    .await?;
                // Reading and writing apart: a second holder in between makes one of them lose a count.
                let seen = counter.load(Ordering::SeqCst);
                tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(term.token);
                sleep(Duration::from_millis(1)).await;
                counter.store(seen + 1, Ordering::SeqCst);
                client.release(&term).await?;
            }
            Verdict::Ok(())
        })
    });
    for task in join_all(tasks).await {
        task.map_err(|error| Stop::Failed(format!("a task panicked: {error}")))??;
    }
    let (counted, expected) = (counter.load(Ordering::SeqCst), TASKS * ROUNDS);
    ensure!(counted == expected, "{TASKS} tasks counted {expected} times under the lock to {counted}");
    let tokens: Vec<FencingToken> =
        std::mem::take(&mut *tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let ordered = tokens.windows(2).all(|pair| pair[0] < pair[1]);
    ensure!(ordered, "the tokens of one holder after the other do not grow: {tokens:?}");
    Ok(())
}

pub(crate) async fn many_processes_count_without_losing_one(stage: Stage) -> Verdict {
    let address = stage.harness.address()?;
    stage.worker.contend(&address).await
}

pub(crate) async fn an_own_earlier_grant_is_held(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let term = one.grant(&resource, HolderId::random(), LONG).await?;
    for client in [&one, &two] {
        let by =
            client.refused(&resource, term.holder, "an earlier term of the same holder is running").await?;
        let own = by.holder == term.holder && by.token == term.token;
        ensure!(own, "try_acquire says {by:?} to the holder of {term:?} itself");
    }
    one.runs(&term, LONG, "its holder only asked again").await
}

pub(crate) async fn a_restart_frees_nothing(stage: Stage) -> Verdict {
    let one = stage.open().await?;
    let resource = resource("orders")?;
    let term = one.grant(&resource, HolderId::random(), LONG).await?;
    stage.harness.restart().await?;
    let two = stage.open().await?;
    let (restarted, mut refusals) = (Instant::now(), 0);
    while refusals == 0 || restarted.elapsed() < SOON / 2 {
        let tried = two.store.try_acquire(&resource, &HolderId::random(), LONG).await;
        match tried {
            Ok(TryAcquire::Held(_)) => refusals += 1,
            Ok(TryAcquire::Granted(token)) => return knows(&one, &term, token).await,
            Err(error) => ensure!(restarted.elapsed() < SOON * 5, "the store does not come back: {error}"),
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// A term may end with its session, if its holder is told.
async fn knows(client: &Client, term: &dapper_lock::Term, token: FencingToken) -> Verdict {
    let told = timeout(SOON, client.store.ended(term)).await.is_ok();
    ensure!(
        told,
        "a restart of the store freed the resource: token {token} was granted, and the holder of {term:?} is not told"
    );
    Ok(())
}
