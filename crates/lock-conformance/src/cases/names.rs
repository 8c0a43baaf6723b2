//! Resources are told apart by their names, whatever these are.

use dapper_lock::{HolderId, Resource};

use crate::case::{Stage, Stop, Verdict, ensure};
use crate::client::{Client, LONG, resource};

/// Names that one carelessness or another takes for each other, or for something else than a name.
const ODD: [&str; 44] = [
    "a",
    "A",
    " a",
    "a ",
    "a  b",
    "a b",
    "ä",
    "a\u{308}",
    "Ä",
    "ß",
    "ss",
    "\u{200b}a",
    "ﬁ",
    "fi",
    "💧",
    "a/b",
    "a/../a/b",
    "a\\b",
    "/",
    ".",
    "..",
    "./a",
    "~",
    "*",
    "?",
    "[a]",
    "a%",
    "a_",
    "%61",
    "a\u{fffd}",
    "$HOME",
    "${A}",
    "$(a)",
    "`a`",
    "-a",
    "--",
    "'",
    "''",
    "\"",
    "'; DROP TABLE leases; --",
    "null",
    "0",
    "00",
    "NUL",
];

pub(crate) async fn resources_are_independent(stage: Stage) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let (orders, others) = (resource("orders")?, resource("others")?);
    let holder = HolderId::random();
    let term = one.grant(&orders, holder, LONG).await?;
    let own = one.grant(&others, holder, LONG).await?;
    two.refused(&others, HolderId::random(), "it is held by the holder of another resource").await?;
    one.release(&term).await?;
    two.holds(&own, "only another resource was released").await?;
    one.runs(&own, LONG, "only another resource was released").await?;
    let next = two.grant(&orders, HolderId::random(), LONG).await?;
    one.release(&own).await?;
    two.runs(&next, LONG, "only another resource was released").await
}

pub(crate) async fn odd_names_are_told_apart(stage: Stage) -> Verdict {
    let names: Vec<String> = ODD.iter().map(|name| (*name).to_owned()).collect();
    told_apart(&stage, &names).await
}

pub(crate) async fn long_names_are_told_apart(stage: Stage) -> Verdict {
    let long = Resource::MAX_BYTES;
    let mut names: Vec<String> = (0..3).map(|last| format!("{}{last}", "x".repeat(long - 1))).collect();
    names.push("x".repeat(long - 1));
    names.push("ü".repeat(long / 2));
    names.push("💧".repeat(long / 4));
    names.push("'".repeat(long));
    names.push("/".repeat(long));
    names.push(format!("0{}", "x".repeat(long - 1)));
    told_apart(&stage, &names).await
}

/// All are held at the same time, each by a holder of its own.
async fn told_apart(stage: &Stage, names: &[String]) -> Verdict {
    let (one, two) = stage.open_two().await?;
    let mut terms = Vec::new();
    for name in names {
        let term = one.grant(&resource(name)?, HolderId::random(), LONG).await;
        terms.push(term.map_err(|stop| explain(stop, name))?);
    }
    for term in &terms {
        held(&two, term).await?;
        two.refused(&term.resource, HolderId::random(), "it is held").await?;
    }
    for term in &terms {
        one.release(term).await?;
        let found = two.holder(&term.resource).await?;
        ensure!(found.is_none(), "{:?} was released, and holder says {found:?}", term.resource);
    }
    Ok(())
}

async fn held(client: &Client, term: &dapper_lock::Term) -> Verdict {
    let why = "all names are held at the same time, each by a holder of its own";
    client.holds(term, why).await.map(drop)
}

fn explain(stop: Stop, name: &str) -> Stop {
    match stop {
        Stop::Failed(what) => {
            Stop::Failed(format!("the name {name:?} is taken for another one, or for none: {what}"))
        }
        stop => stop,
    }
}
