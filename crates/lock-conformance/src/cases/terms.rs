//! Renewals and releases name one exact term.

use std::time::Duration;

use dapper_lock::{FencingToken, HolderId, Resource, Term};
use tokio::time::{Instant, sleep};

use crate::case::{Stage, Verdict, ensure};
use crate::client::{Client, LONG, SOON, resource};

/// Grants a term that is not the resource's first, so that there are lower tokens and higher ones.
async fn third_grant(client: &Client, resource: &Resource, holder: HolderId, ttl: Duration) -> Verdict<Term> {
    for _ in 0..2 {
        let term = client.grant(resource, holder, LONG).await?;
        client.release(&term).await?;
    }
    client.grant(resource, holder, ttl).await
}

/// The terms that differ from `term` by their token alone.
fn other_tokens(term: &Term) -> Vec<Term> {
    let number = term.token.get();
    let numbers = [number - 1, number + 1, 1, u64::MAX >> 1];
    let tokens = numbers.into_iter().filter(|other| *other != number).filter_map(FencingToken::new);
    tokens.map(|token| Term { token, ..term.clone() }).collect()
}

fn other_holder(term: &Term) -> Term {
    Term { holder: HolderId::random(), ..term.clone() }
}

/// A renewal of another term must neither be confirmed nor let the true one run on.
async fn renews_nothing(stage: &Stage, others: impl Fn(&Term) -> Vec<Term>, what: &str) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, ttl) = (resource("orders")?, stage.short());
    let term = third_grant(&one, &resource, HolderId::random(), ttl).await?;
    let deadline = Instant::now() + stage.latest(ttl);
    for other in others(&term) {
        one.is_over(&other, LONG, &format!("{what}; the term that runs is {term:?}")).await?;
    }
    let why = format!("its term was not renewed: only {what}");
    two.granted_by(&resource, HolderId::random(), LONG, deadline, &why).await.map(drop)
}

pub(crate) async fn a_renewal_names_the_exact_token(stage: Stage) -> Verdict {
    renews_nothing(&stage, other_tokens, "a term with another token was to be renewed").await
}

pub(crate) async fn a_renewal_names_the_exact_holder(stage: Stage) -> Verdict {
    let others = |term: &Term| vec![other_holder(term)];
    renews_nothing(&stage, others, "a term of another holder was to be renewed").await
}

pub(crate) async fn a_renewal_names_the_exact_resource(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (orders, never, others) = (resource("orders")?, resource("never granted")?, resource("others")?);
    let term = one.grant(&orders, HolderId::random(), LONG).await?;
    let other = two.grant(&others, HolderId::random(), LONG).await?;
    for resource in [never.clone(), others] {
        let wrong = Term { resource, ..term.clone() };
        one.is_over(&wrong, LONG, "the resource was never granted to that holder").await?;
    }
    let found = two.holder(&never).await?;
    ensure!(found.is_none(), "a renewal started a term that there never was: {found:?}");
    one.runs(&term, LONG, "only terms of other resources were to be renewed").await?;
    two.runs(&other, LONG, "only a term of another holder was to be renewed").await
}

pub(crate) async fn a_released_term_is_not_renewed(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let term = one.grant(&resource, HolderId::random(), LONG).await?;
    one.release(&term).await?;
    one.is_over(&term, LONG, "it was released").await?;
    let next = two.grant(&resource, HolderId::random(), LONG).await?;
    two.release(&next).await?;
    one.is_over(&term, LONG, "it was released, and so was the term that followed").await
}

/// Nobody else has taken the resource: the term is over all the same.
pub(crate) async fn an_expired_term_is_not_revived(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, ttl) = (resource("orders")?, stage.short());
    let term = one.grant(&resource, HolderId::random(), ttl).await?;
    let deadline = Instant::now() + stage.latest(ttl);
    // The store itself says when it is over.
    while two.holder(&resource).await?.is_some() {
        ensure!(Instant::now() < deadline, "holder still shows {term:?}, whose time to live was {ttl:?}");
        sleep(Duration::from_millis(50)).await;
    }
    one.is_over(&term, LONG, "it ran out, though nobody has taken the resource since").await?;
    let found = two.holder(&resource).await?;
    ensure!(found.is_none(), "a renewal brought a term back that had run out: {found:?}");
    two.grant(&resource, HolderId::random(), LONG).await.map(drop)
}

pub(crate) async fn a_stale_holder_is_told(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, ttl) = (resource("orders")?, stage.short());
    let stale = one.grant(&resource, HolderId::random(), ttl).await?;
    let deadline = Instant::now() + stage.latest(ttl);
    let next = two.granted_by(&resource, HolderId::random(), LONG, deadline, "the last term ran out").await?;
    one.is_over(&stale, LONG, "it ran out and was followed by another").await?;
    two.holds(&next, "only a stale holder was to be renewed").await?;
    two.runs(&next, LONG, "only a stale holder was to be renewed").await
}

/// A release of another term must leave the true one alone.
async fn releases_nothing(stage: &Stage, others: impl Fn(&Term) -> Vec<Term>, what: &str) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    let term = third_grant(&one, &resource, HolderId::random(), LONG).await?;
    for other in others(&term) {
        one.release(&other).await?;
        two.release(&other).await?;
        two.refused(&resource, HolderId::random(), what).await?;
    }
    two.holds(&term, what).await?;
    one.runs(&term, LONG, what).await
}

pub(crate) async fn a_release_names_the_exact_token(stage: Stage) -> Verdict {
    releases_nothing(&stage, other_tokens, "only a term with another token was released").await
}

pub(crate) async fn a_release_names_the_exact_holder(stage: Stage) -> Verdict {
    let others = |term: &Term| vec![other_holder(term)];
    releases_nothing(&stage, others, "only a term of another holder was released").await
}

pub(crate) async fn a_release_names_the_exact_resource(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (orders, others) = (resource("orders")?, resource("others")?);
    // The same holder and, in most stores, the same token: the resource alone tells them apart.
    let holder = HolderId::random();
    let term = one.grant(&orders, holder, LONG).await?;
    let other = one.grant(&others, holder, LONG).await?;
    one.release(&Term { resource: resource("never granted")?, ..term.clone() }).await?;
    one.release(&term).await?;
    two.holds(&other, "only a term of another resource was released").await?;
    one.runs(&other, LONG, "only a term of another resource was released").await
}

pub(crate) async fn a_late_release_leaves_the_next_term_alone(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (resource, ttl) = (resource("orders")?, stage.short());
    let stale = one.grant(&resource, HolderId::random(), ttl).await?;
    let deadline = Instant::now() + stage.latest(ttl);
    let next = two.granted_by(&resource, HolderId::random(), LONG, deadline, "the last term ran out").await?;
    one.release(&stale).await?;
    two.holds(&next, "only the term before it was released").await?;
    two.runs(&next, LONG, "only the term before it was released").await
}

pub(crate) async fn a_release_frees_at_once(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let resource = resource("orders")?;
    for _ in 0..3 {
        let term = one.grant(&resource, HolderId::random(), LONG).await?;
        one.release(&term).await?;
        let released = Instant::now();
        let next =
            two.granted_by(&resource, HolderId::random(), LONG, released + SOON, "it was released").await?;
        two.release(&next).await?;
    }
    Ok(())
}

pub(crate) async fn a_release_of_a_term_that_is_over_is_fine(stage: Stage) -> Verdict {
    let one = stage.open().await?;
    let resource = resource("orders")?;
    let term = one.grant(&resource, HolderId::random(), LONG).await?;
    for _ in 0..3 {
        one.release(&term).await?;
    }
    one.release(&Term { resource, ..other_holder(&term) }).await
}
