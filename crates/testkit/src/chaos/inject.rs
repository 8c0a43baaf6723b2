//! Does one fault, and undoes it.

use std::sync::Arc;
use std::time::Duration;

use dapper_failpoints::Point;
use tokio::time::{Instant, sleep};

use super::Failure;
use super::plan::{Fault, Planned};
use super::sink::Mood;
use super::slot::{Claim, Slot};
use super::stage::Stage;
use crate::{Faults, Flow, StopMode, connect};

const POLL: Duration = Duration::from_millis(10);
/// How long a point that is armed may not be reached.
const POINT_LIMIT: Duration = Duration::from_secs(6);
/// How long a replica may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// More than there can be.
const MANY_CONNECTIONS: usize = 100;

/// Which sessions are the replicas'.
const SESSIONS: &str = "SELECT pid FROM pg_stat_activity
  WHERE datname = current_database() AND application_name LIKE 'dapper%' AND application_name <> 'dapper-testkit'
  ORDER BY backend_start";

/// Runs one fault to its end, and counts it if it came about.
pub(super) async fn inject(stage: Arc<Stage>, planned: Planned) {
    let name = planned.fault.name();
    match run(&stage, planned).await {
        Ok(true) => stage.count(name),
        Ok(false) => stage.count("not possible at the moment"),
        Err(error) => {
            crate::say(&format!("{name}: {error}"));
            stage.count("not possible at the moment");
        }
    }
}

async fn run(stage: &Arc<Stage>, planned: Planned) -> Result<bool, Failure> {
    let Planned { fault, length, choice, point, .. } = planned;
    let share = f64::from(length) / 1000.0;
    let ttl = stage.options.ttl;
    let outlast = ttl.mul_f64(1.1 + share * 0.8);
    match fault {
        Fault::KillHolder => Ok(stage.holder(choice).kill()),
        Fault::KillAny => Ok(stage.slots[choice as usize % stage.slots.len()].kill()),
        Fault::Stop => stop(stage, choice).await,
        Fault::KillAtPoint => at_point(stage, point, choice, None).await,
        Fault::FreezeAtPoint => at_point(stage, point, choice, Some(outlast)).await,
        Fault::Freeze => {
            let Some(claim) = stage.claim(choice) else { return Ok(false) };
            let frozen = claim.with(|replica| replica.freeze().is_ok()) == Some(true);
            sleep(outlast).await;
            claim.with(|replica| replica.thaw().is_ok());
            Ok(frozen)
        }
        Fault::Partition | Fault::RequestsLate | Fault::RepliesLate | Fault::Delay | Fault::Reset => {
            Ok(network(stage, fault, (choice, share)).await)
        }
        Fault::HalfOpen => {
            let Some(claim) = stage.claim(choice) else { return Ok(false) };
            let connections = claim.proxy.connections();
            connections.iter().for_each(|connection| connection.set(Faults::SILENT));
            let killed = claim.kill();
            sleep(outlast).await;
            connections.iter().for_each(crate::ProxiedConnection::reset);
            Ok(killed)
        }
        Fault::TerminateBackend => sessions(stage, "pg_terminate_backend", (choice, length)).await,
        Fault::CancelBackend => sessions(stage, "pg_cancel_backend", (choice, length)).await,
        Fault::Crash | Fault::Restart => {
            let mode = if fault == Fault::Crash { StopMode::Immediate } else { StopMode::Fast };
            stage.servers.lock().await.restart(mode, Duration::from_millis(length.into())).await?;
            Ok(true)
        }
        Fault::Promote => {
            let behind = Duration::from_millis(100 + u64::from(length));
            let promoted = stage.servers.lock().await.promote(stage, behind).await?;
            let stage = Arc::clone(stage);
            tokio::spawn(async move {
                sleep(Duration::from_secs(5)).await;
                stage.make_standby().await;
            });
            Ok(promoted)
        }
        Fault::TooManyConnections => too_many_connections(stage, share).await,
        Fault::SlowReceiver => receiver(stage, Mood::Slow, share).await,
        Fault::FailingReceiver => receiver(stage, Mood::Failing, share).await,
        Fault::HangingReceiver => receiver(stage, Mood::Hanging, share).await,
        Fault::Ddl => {
            let target = stage.target.borrow().clone();
            Ok(stage.ddl.lock().await.change(&target, choice).await)
        }
    }
}

async fn stop(stage: &Stage, choice: u32) -> Result<bool, Failure> {
    let Some(claim) = stage.holder(choice).claim() else { return Ok(false) };
    let before = claim.incarnation();
    let asked = claim.terminate();
    let deadline = Instant::now() + STOP_LIMIT;
    while claim.incarnation() == before && Instant::now() < deadline {
        sleep(POLL).await;
    }
    Ok(asked)
}

async fn receiver(stage: &Stage, mood: Mood, share: f64) -> Result<bool, Failure> {
    let _one_at_a_time = stage.mood.lock().await;
    stage.link.set_mood(mood);
    sleep(Duration::from_secs_f64(0.5 + share * 2.0)).await;
    stage.link.set_mood(Mood::Fine);
    Ok(true)
}

async fn network(stage: &Stage, fault: Fault, (choice, share): (u32, f64)) -> bool {
    // Where a broken rule is to be noticed, it is the holder, and for long enough that another takes over.
    let aimed = stage.options.is_broken();
    let Some(claim) = stage.claim(choice | u32::from(aimed)) else { return false };
    let mut lasts = stage.options.ttl.mul_f64(0.3 + if aimed { 1.2 } else { share * 1.6 });
    let faults = match fault {
        Fault::Partition => Faults::SILENT,
        Fault::RequestsLate => Faults::to_server(Flow::SILENT),
        Fault::RepliesLate => Faults::to_client(Flow::SILENT),
        Fault::Delay => {
            let flow = Flow::delayed(Duration::from_millis(2 + u64::from(choice / 7 % 60)));
            Faults { to_server: flow, to_client: flow }
        }
        _ => {
            lasts = Duration::from_millis(300);
            let flow = Flow::cut_after(u64::from(choice / 7 % 3000));
            match choice / 3 % 3 {
                0 => {
                    claim.proxy.reset();
                    return true;
                }
                1 => Faults::to_server(flow),
                _ => Faults::to_client(flow),
            }
        }
    };
    claim.proxy.set(faults);
    sleep(lasts).await;
    claim.proxy.heal();
    true
}

async fn sessions(stage: &Stage, function: &str, (choice, length): (u32, u32)) -> Result<bool, Failure> {
    let url = stage.target.borrow().url.clone();
    // The server may just be away.
    let Ok(client) = connect(&url).await else { return Ok(false) };
    let Ok(rows) = client.query(SESSIONS, &[]).await else { return Ok(false) };
    let all: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    if all.is_empty() {
        return Ok(false);
    }
    let one = all[choice as usize % all.len()];
    let pids = if length > 800 { all } else { vec![one] };
    let sql = format!("SELECT {function}(pid) FROM unnest($1::int[]) AS pid");
    Ok(client.query(&sql, &[&pids]).await.is_ok())
}

async fn too_many_connections(stage: &Stage, share: f64) -> Result<bool, Failure> {
    let _no_other_fault_of_the_server = stage.servers.lock().await;
    let url = stage.target.borrow().url.clone();
    let until = Instant::now() + Duration::from_secs_f64(0.5 + share * 1.5);
    let mut taken = Vec::new();
    let mut refused = false;
    while Instant::now() < until {
        match connect(&url).await {
            Ok(client) if taken.len() < MANY_CONNECTIONS => taken.push(client),
            Ok(_) => return Ok(refused),
            Err(_) => {
                refused = true;
                sleep(POLL).await;
            }
        }
    }
    Ok(refused)
}

/// Kills, or stops for a while, whoever reaches a point next.
async fn at_point(
    stage: &Stage,
    point: Point,
    choice: u32,
    stop_for: Option<Duration>,
) -> Result<bool, Failure> {
    let action = if stop_for.is_some() { "stop" } else { "kill" };
    let times = match point {
        Point::BeforeCall | Point::AfterCall => 1 + choice % 300,
        Point::AfterRead | Point::BeforeClaim | Point::AfterClaim | Point::AfterHandOut => 1 + choice % 8,
        Point::BeforeAdvance | Point::AfterAdvance | Point::BeforePark | Point::AfterPark => 1 + choice % 8,
        Point::AfterResume => 1 + choice % 4,
        _ => 1,
    };
    let line = format!("{} {action} {times}\n", point.name());
    let holder = Arc::clone(stage.holder(choice));
    let armed: Vec<Claim> = match point {
        // Reached by whoever takes over.
        Point::AfterGrant | Point::BeforeSeal | Point::AfterSeal => {
            stage.slots.iter().filter(|slot| slot.number != holder.number).filter_map(Slot::claim).collect()
        }
        _ => holder.claim().into_iter().collect(),
    };
    let before: Vec<u32> = armed.iter().map(|slot| slot.incarnation()).collect();
    for slot in &armed {
        if stop_for.is_none() {
            slot.doom();
        }
        slot.arm(&line);
    }
    match point {
        Point::AfterGrant | Point::BeforeSeal | Point::AfterSeal => _ = holder.kill(),
        Point::BeforeRelease => {
            sleep(POLL * 3).await;
            armed.iter().for_each(|slot| _ = slot.terminate());
        }
        _ => {}
    }
    // Reached only while something fails.
    let failing = match point {
        Point::BeforePark | Point::AfterPark | Point::AfterResume => {
            let one_at_a_time = stage.mood.lock().await;
            stage.link.set_mood(Mood::Failing);
            Some(one_at_a_time)
        }
        _ => None,
    };
    let deadline = Instant::now() + POINT_LIMIT;
    let mut hit = None;
    while hit.is_none() && Instant::now() < deadline && !armed.is_empty() {
        sleep(POLL).await;
        hit = armed.iter().zip(&before).position(|(slot, &before)| {
            let gone = slot.incarnation() != before || slot.with(|_| ()).is_none();
            if stop_for.is_some() { slot.is_stopped() } else { gone }
        });
    }
    if failing.is_some() {
        stage.link.set_mood(Mood::Fine);
    }
    drop(failing);
    armed.iter().enumerate().filter(|(index, _)| Some(*index) != hit).for_each(|(_, slot)| _ = slot.arm(""));
    let Some(hit) = hit else { return Ok(false) };
    stage.count(&format!("at {}", point.name()));
    if let Some(stop_for) = stop_for {
        sleep(stop_for).await;
        armed[hit].arm("");
        armed[hit].with(|replica| replica.thaw().is_ok());
    }
    Ok(true)
}
