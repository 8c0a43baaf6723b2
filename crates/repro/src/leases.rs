//! Two leaders at once, or none.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use dapper_lock::{
    BootClock, Clock, HolderId, LeaseConfig, LockManager, LockManagerOptions, LockStore, Renewal, Resource,
    Term, Timestamp, TryAcquire,
};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_lock_simulation::{Break, Violation, simulation::simulate};
use dapper_testkit::{Faults, Proxy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::fixture::{WAIT, database};
use crate::{Harm, Pair, Row, Source};

/// A renewal that everybody may make.
#[must_use]
pub fn renewed_by_anyone() -> Row {
    Row {
        name: "renewed-by-anyone",
        whose: const { &[Source::thread("River #197", "https://github.com/riverqueue/river/issues/197")] },
        bug: "the renewal compares the caller with itself, so everybody renews and believes to lead",
        ours: "a renewal names resource, holder and token of the running term",
        run: || Box::pin(renewed_by_anyone_run()),
    }
}

/// A lease that ends when it is renewed.
#[must_use]
pub fn ttl_equals_interval() -> Row {
    Row {
        name: "ttl-equals-interval",
        whose: const { &[Source::thread("River #217", "https://github.com/riverqueue/river/pull/217")] },
        bug: "the lease lives exactly as long as the pause between renewals, so a healthy leader loses it",
        ours: "such times are refused; by default a lease is renewed three times while it lives",
        run: || Box::pin(ttl_equals_interval_run()),
    }
}

/// Trust that counts from the answer.
#[must_use]
pub fn trust_from_answer() -> Row {
    Row {
        name: "trust-from-answer",
        whose: const { &[Source::thread("River #1213", "https://github.com/riverqueue/river/pull/1213")] },
        bug: "the leader trusts its lease from when the answer came, and the answer was slow",
        ours: "trust ends at *request sent + time to live − margin*",
        run: || Box::pin(async { Ok(simulated(Break::Anchor)) }),
    }
}

/// A resignation that ends somebody's term.
#[must_use]
pub fn resigns_any_term() -> Row {
    Row {
        name: "resigns-any-term",
        whose: const { &[Source::thread("River #1213", "https://github.com/riverqueue/river/pull/1213")] },
        bug: "a late resignation names the client, not the term, and ends the client's next term",
        ours: "a release names the token; that of an older term does nothing",
        run: || Box::pin(resigns_any_term_run()),
    }
}

/// An error that counts as "still leader".
#[must_use]
pub fn leads_on_error() -> Row {
    Row {
        name: "leads-on-error",
        whose: const {
            &[
                Source::thread("Oban #1488", "https://github.com/oban-bg/oban/issues/1488"),
                Source::thread(
                    "prometheus-postgresql-adapter #89",
                    "https://github.com/timescale/prometheus-postgresql-adapter/issues/89",
                ),
            ]
        },
        bug: "a leader whose renewal fails keeps its status, for 19 days in one report",
        ours: "an unclear answer means \"not the holder\" when trust runs out",
        run: || Box::pin(leads_on_error_run()),
    }
}

/// A leader that nobody tells.
#[must_use]
pub fn never_told() -> Row {
    Row {
        name: "never-told",
        whose: const {
            &[
                Source::thread("Kubernetes #23731", "https://github.com/kubernetes/kubernetes/issues/23731"),
                Source::thread(
                    "kubernetes-client #2860",
                    "https://github.com/fabric8io/kubernetes-client/issues/2860",
                ),
            ]
        },
        bug: "the elector sees that another one leads, and never calls back whoever led before",
        ours: "losing a lease is an event that its holder receives, and it is asked before each hand-off",
        run: || Box::pin(never_told_run()),
    }
}

/// Work that goes on after the lease.
#[must_use]
pub fn writes_after_loss() -> Row {
    Row {
        name: "writes-after-loss",
        whose: const {
            &[
                Source::thread("Cilium #42920", "https://github.com/cilium/cilium/pull/42920"),
                Source::thread("Kyverno #14984", "https://github.com/kyverno/kyverno/pull/14984"),
            ]
        },
        bug: "what a leader has begun goes on after it lost the lead, beside its successor",
        ours: "the cursor row compares tokens: nothing of a lower one is accepted after a takeover",
        run: || Box::pin(async { Ok(simulated(Break::Fence)) }),
    }
}

/// An identity that two processes share.
#[must_use]
pub fn identity_is_host_name() -> Row {
    Row {
        name: "identity-is-host-name",
        whose: const {
            &[Source::thread(
                "external-provisioner #690",
                "https://github.com/kubernetes-csi/external-provisioner/pull/690",
            )]
        },
        bug: "the holder's identity is its host's name, so two processes on one host both hold the lease",
        ours: "the identity is drawn at random when a process starts",
        run: || Box::pin(identity_is_host_name_run()),
    }
}

/// Clocks of different machines.
#[must_use]
pub fn node_clocks() -> Row {
    Row {
        name: "node-clocks",
        whose: const {
            &[
                Source::thread("ShedLock #231", "https://github.com/lukas-krecan/ShedLock/issues/231"),
                Source::thread("ShedLock #132", "https://github.com/lukas-krecan/ShedLock/issues/132"),
            ]
        },
        bug: "the end of the lock is a time of the clock of whoever takes it, and clocks differ",
        ours: "times of a lease exist only inside the store; holders measure durations",
        run: || Box::pin(node_clocks_run()),
    }
}

/// Short enough to see a lease end, long enough for a machine that is busy.
const TTL: Duration = Duration::from_secs(3);
/// For leases that must be kept, on a machine that may be busy.
const LONG_TTL: Duration = Duration::from_secs(20);
const LEADERS: &str = "CREATE TABLE leader (name text PRIMARY KEY, holder text, expires_at timestamptz)";

/// Takes a lease that is free or over; the way of all of these.
const ELECT: &str = "INSERT INTO leader VALUES ('x', $1, clock_timestamp() + $2::text::interval)
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
    WHERE leader.expires_at <= clock_timestamp()";

/// Renews one's own.
const RENEW: &str = "UPDATE leader SET expires_at = clock_timestamp() + $2::text::interval
    WHERE name = 'x' AND holder = $1 AND expires_at > clock_timestamp()";

async fn naive(client: &Client, statement: &str, holder: &str) -> Result<bool> {
    let ttl = format!("{} ms", TTL.as_millis());
    Ok(client.execute(statement, &[&holder, &ttl]).await? > 0)
}

pub(crate) fn store(url: &str) -> Result<PostgresLockStore> {
    Ok(PostgresLockStore::new(url.parse()?, PostgresLockOptions::default()))
}

pub(crate) fn manager(url: &str, ttl: Duration) -> Result<LockManager> {
    Ok(LockManager::new(Arc::new(store(url)?), LeaseConfig::from_ttl(ttl)?))
}

pub(crate) fn resource() -> Resource {
    Resource::new("x").expect("one letter is a name")
}

/// How many seeds of the simulation are run for a row.
const SEEDS: u64 = 1_000;

/// The lease machine in simulated time, with one rule left out around it, and with all of them: the same seeds, and so
/// the same faults.
fn simulated(rule: Break) -> Pair {
    let violated = |broken| {
        let is_harm = |violation: &Violation| {
            matches!(violation, Violation::TwoHolders { .. } | Violation::StaleWrite { .. })
        };
        (0..SEEDS).filter(|seed| simulate(*seed, broken).violations.iter().any(is_harm)).count()
    };
    let kind = "simulations had two holders at once or a stale write";
    let harm = |count| Harm::new(kind, count, usize::try_from(SEEDS).unwrap_or(usize::MAX));
    Pair::new(harm(violated(Some(rule))), harm(violated(None)))
}

async fn renewed_by_anyone_run() -> Result<Pair> {
    const OTHERS: usize = 19;
    const REELECT: &str = "INSERT INTO leader VALUES ('x', $1, clock_timestamp() + $2::text::interval)
        ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at WHERE excluded.holder = $1";
    let harm = |count| Harm::new("others were told that they lead", count, OTHERS);
    let (there, client) = database(LEADERS).await?;
    ensure!(naive(&client, ELECT, "leader").await?, "nobody was elected");
    let mut told = 0;
    for other in 0..OTHERS {
        told += usize::from(naive(&client, REELECT, &format!("other-{other}")).await?);
    }

    let store = store(&there.url())?;
    let granted = store.try_acquire(&resource(), &HolderId::random(), WAIT).await?;
    let TryAcquire::Granted(token) = granted else { anyhow::bail!("nobody was granted it: {granted:?}") };
    let mut renewed = 0;
    for _ in 0..OTHERS {
        let term = Term { resource: resource(), holder: HolderId::random(), token };
        // A store that was never granted that term says so by an error.
        renewed +=
            usize::from(store.renew(&term, WAIT).await.is_ok_and(|renewal| renewal == Renewal::Renewed));
    }
    Ok(Pair::new(harm(told), harm(renewed)))
}

async fn ttl_equals_interval_run() -> Result<Pair> {
    const TERMS: u32 = 2;
    let harm = |count| Harm::new("terms of a healthy leader were lost", count, TERMS as usize);
    let (there, client) = database(LEADERS).await?;
    let naive_side = async {
        let mut lost = 0;
        for _ in 0..TERMS {
            client.batch_execute("DELETE FROM leader").await?;
            ensure!(naive(&client, ELECT, "leader").await?, "nobody was elected");
            sleep(TTL).await;
            lost += usize::from(!naive(&client, RENEW, "leader").await?);
        }
        Ok::<usize, anyhow::Error>(lost)
    };
    ensure!(LeaseConfig::new(TTL, TTL, TTL / 10).is_err(), "these times were not refused");
    let (holder, contender) = (manager(&there.url(), TTL)?, manager(&there.url(), TTL)?);
    let our_side = async {
        let lease = holder.acquire(&resource()).await?;
        let contended = timeout(TTL * TERMS, contender.acquire(&resource())).await;
        Ok::<usize, anyhow::Error>(usize::from(contended.is_ok() || !lease.is_valid()))
    };
    let (lost, ours) = tokio::try_join!(naive_side, our_side)?;
    Ok(Pair::new(harm(lost), harm(ours)))
}

async fn resigns_any_term_run() -> Result<Pair> {
    let harm = |count| Harm::new("running terms were ended by a late resignation", count, 1);
    let (there, client) = database(LEADERS).await?;
    const RESIGN: &str = "DELETE FROM leader WHERE name = 'x' AND holder = 'client'";
    ensure!(naive(&client, ELECT, "client").await?, "nobody was elected");
    // The resignation is sent, and is on its way when the client has long been elected again.
    client.batch_execute("UPDATE leader SET expires_at = clock_timestamp() - interval '1 s'").await?;
    ensure!(naive(&client, ELECT, "client").await?, "nobody was elected");
    client.batch_execute(RESIGN).await?;
    let ended = naive(&client, ELECT, "other").await?;

    let store = store(&there.url())?;
    let (holder, other) = (HolderId::random(), HolderId::random());
    let mut tokens = Vec::new();
    for ttl in [Duration::from_millis(100), WAIT] {
        let deadline = Instant::now() + WAIT;
        loop {
            if let TryAcquire::Granted(token) = store.try_acquire(&resource(), &holder, ttl).await? {
                tokens.push(token);
                break;
            }
            ensure!(Instant::now() < deadline, "it was never granted again");
            sleep(Duration::from_millis(10)).await;
        }
    }
    store.release(&Term { resource: resource(), holder, token: tokens[0] }).await?;
    let ours = matches!(store.try_acquire(&resource(), &other, WAIT).await?, TryAcquire::Granted(_));
    Ok(Pair::new(harm(usize::from(ended)), harm(usize::from(ours))))
}

/// How often somebody looks who believes to lead.
const LOOKS: usize = 40;

async fn leads_on_error_run() -> Result<Pair> {
    let harm = |count| Harm::new("looks found two leaders", count, LOOKS);
    let (there, client) = database(LEADERS).await?;
    let proxy = Proxy::start(there.server().address()).await?;
    let cut_off = dapper_testkit::connect(&there.url_via(proxy.address())).await?;
    ensure!(naive(&cut_off, ELECT, "one").await?, "nobody was elected");
    let (one, two) = (manager(&there.url_via(proxy.address()), TTL)?, manager(&there.url(), TTL)?);
    let lease = one.acquire(&resource()).await?;
    let waiting = tokio::spawn(async move { two.acquire(&resource()).await });
    proxy.set(Faults::SILENT);

    let (mut naive_one, mut naive_two) = (true, false);
    let (mut theirs, mut ours) = (0, 0);
    for _ in 0..LOOKS {
        // An error keeps the status; only an answer may change it.
        let renewal = timeout(Duration::from_millis(50), naive(&cut_off, RENEW, "one")).await;
        if let Ok(Ok(renewed)) = renewal {
            naive_one = renewed;
        }
        naive_two = naive_two || naive(&client, ELECT, "two").await?;
        theirs += usize::from(naive_one && naive_two);
        ours += usize::from(lease.is_valid() && waiting.is_finished());
        sleep(TTL / 20).await;
    }
    let next = timeout(WAIT, waiting).await???;
    ensure!(next.token() > lease.token(), "the token did not grow");
    ours += usize::from(lease.is_valid());
    Ok(Pair::new(harm(theirs), harm(ours)))
}

async fn never_told_run() -> Result<Pair> {
    let harm = |count| Harm::new("leaders were never told that they no longer lead", count, 1);
    let (there, client) = database(LEADERS).await?;
    let one = there.connect().await?;
    ensure!(naive(&one, ELECT, "one").await?, "nobody was elected");
    client.batch_execute("UPDATE leader SET expires_at = clock_timestamp() - interval '1 s'").await?;
    ensure!(naive(&client, ELECT, "two").await?, "nobody was elected");
    let (mut leads, mut sees_another) = (true, false);
    for _ in 0..10 {
        // Who sees that another one leads says so in its log, and tries again.
        if naive(&one, RENEW, "one").await? {
            leads = true;
        } else {
            let holder: String = one.query_one("SELECT holder FROM leader", &[]).await?.get(0);
            sees_another = holder != "one";
        }
        sleep(TTL / 20).await;
    }

    let manager = manager(&there.url(), TTL)?;
    let lease = manager.acquire(&resource()).await?;
    store(&there.url())?.release(lease.term()).await?;
    let heard = timeout(WAIT, lease.lost()).await.is_ok() && !lease.is_valid();
    Ok(Pair::new(harm(usize::from(leads && sees_another)), harm(usize::from(!heard))))
}

async fn identity_is_host_name_run() -> Result<Pair> {
    const PROCESSES: usize = 5;
    let harm =
        |holders: usize| Harm::new("processes held the lease beside another", holders - 1, PROCESSES - 1);
    let (there, client) = database(LEADERS).await?;
    const TAKE: &str = "INSERT INTO leader VALUES ('x', $1, clock_timestamp() + $2::text::interval)
        ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at
        WHERE leader.expires_at <= clock_timestamp() OR leader.holder = $1";
    let mut holders = 0;
    for _ in 0..PROCESSES {
        holders += usize::from(naive(&client, TAKE, "host-1").await?);
    }

    let mut acquiring = JoinSet::new();
    for _ in 0..PROCESSES {
        let manager = manager(&there.url(), LONG_TTL)?;
        acquiring.spawn(async move { manager.acquire(&resource()).await });
    }
    let mut leases = Vec::new();
    let mut patience = WAIT;
    while let Ok(Some(lease)) = timeout(patience, acquiring.join_next()).await {
        leases.push(lease??);
        // Now everybody else has the time to get it, too.
        patience = TTL;
    }
    let ours = leases.iter().filter(|lease| lease.is_valid()).count();
    ensure!(ours > 0, "nobody held the lease");
    Ok(Pair::new(harm(holders), harm(ours)))
}

/// A clock that is ahead of the machine's.
struct Ahead(Duration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        BootClock.now().after(self.0)
    }
}

async fn node_clocks_run() -> Result<Pair> {
    const AHEAD: Duration = Duration::from_secs(180);
    let harm = |count| Harm::new("nodes held the lock beside another", count, 1);
    let (there, client) = database(LEADERS).await?;
    // The node says what time it is.
    const TAKE: &str = "INSERT INTO leader VALUES ('x', $1, $2::text::timestamptz + interval '2 min')
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
        WHERE leader.expires_at <= $2::text::timestamptz";
    let first = client.execute(TAKE, &[&"one", &"2026-04-13 12:00:00+00"]).await?;
    let second = client.execute(TAKE, &[&"two", &"2026-04-13 12:03:00+00"]).await?;
    ensure!(first == 1, "nobody took the lock");

    let one = manager(&there.url(), LONG_TTL)?;
    let options = LockManagerOptions { clock: Arc::new(Ahead(AHEAD)), ..LockManagerOptions::default() };
    let two =
        LockManager::with_options(Arc::new(store(&there.url())?), LeaseConfig::from_ttl(LONG_TTL)?, options);
    let lease = one.acquire(&resource()).await?;
    let other = timeout(TTL, two.acquire(&resource())).await;
    ensure!(lease.is_valid(), "the lease was lost");
    Ok(Pair::new(harm(usize::try_from(second)?), harm(usize::from(other.is_ok()))))
}
