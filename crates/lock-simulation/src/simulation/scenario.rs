//! What one seed simulates: how many nodes, which times, which faults and how many of them.

use std::time::Duration;

use dapper_lock::LeaseConfig;
use fastrand::Rng;

use crate::Break;

/// The odds of something, in thousandths.
pub(crate) type PerMille = u32;

/// Everything that is drawn before the first event. Times are in nanoseconds of the store's clock.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) nodes: usize,
    pub(crate) resources: usize,
    /// What the holders are configured with.
    pub(crate) config: LeaseConfig,
    pub(crate) ttl: u64,
    /// By how many millionths a clock may be too slow or too fast: margin / ttl, the stated bound.
    pub(crate) clock_bound_ppm: u64,
    /// Whether the store follows dead sessions at once, as a database does, or knows leases alone.
    pub(crate) sessions: bool,
    /// How long a message usually travels at most.
    pub(crate) delay: u64,
    pub(crate) slow: PerMille,
    pub(crate) loss: PerMille,
    /// A failure that the caller is told of, without learning whether the call was done.
    pub(crate) unclear: PerMille,
    /// Whether calls may arrive twice. Sessions run on TCP, which sees to that.
    pub(crate) duplicates: PerMille,
    /// Which faults may happen.
    pub(crate) faults: Vec<Fault>,
    pub(crate) fault_every: u64,
    /// How often a user has an idea.
    pub(crate) user_every: u64,
    pub(crate) lets_go: PerMille,
    pub(crate) cancels: PerMille,
    /// When the faults stop.
    pub(crate) calm_at: u64,
    /// When the run ends.
    pub(crate) ends_at: u64,
}

/// What happens to a machine, a process, the network or the store. Everything mends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process stands still (`SIGSTOP`, a long pause of a virtual machine); its kernel goes on.
    Freeze,
    /// The machine is suspended: nothing runs, timers stand still, and the server hears nothing.
    Suspend,
    /// The process is killed and started again.
    Kill,
    /// Some directions between a node and the store or the row are silent.
    Cut,
    /// The store is restarted: it is away for a while and has forgotten all sessions.
    Restart,
    /// Somebody ends a session at the server while its client is well.
    EndSession,
}

/// How many times to live after the last fault there must have been progress.
const PROGRESS_TTLS: u64 = 3;
/// The machine's pauses between tries do not shrink with the time to live, so short ones get this on top.
const SHORT_TTL: u64 = 1_000_000_000;
const PAUSES: u64 = 500_000_000;

impl Scenario {
    pub(crate) fn draw(rng: &mut Rng, broken: Option<Break>) -> Self {
        // Evenly over the orders of magnitude from 0.1 s to 100 s.
        let ttl = (1e8 * 10_f64.powf(3.0 * rng.f64())) as u64;
        let margin = ttl / 1000 * rng.u64(20..=350);
        let renew_every = (ttl - margin) / 100 * rng.u64(10..=90);
        let trusted = if broken == Some(Break::Margin) { 1 } else { margin };
        let times = [ttl, renew_every, trusted].map(Duration::from_nanos);
        let config = LeaseConfig::new(times[0], times[1], times[2]).expect("the times fit by construction");
        let sessions = rng.bool();
        // Each seed leaves some faults out, so that those which hide each other are also tried apart.
        let mut faults: Vec<Fault> =
            [Fault::Freeze, Fault::Suspend, Fault::Kill, Fault::Cut, Fault::Restart].into();
        if sessions {
            faults.push(Fault::EndSession);
        }
        faults.retain(|_| rng.bool());
        let calm_at = ttl * rng.u64(3..=7);
        let some = |rng: &mut Rng, odds: PerMille| if rng.bool() { rng.u32(0..=odds) } else { 0 };
        Self {
            nodes: rng.usize(2..=5),
            resources: if rng.u8(..8) == 0 { rng.usize(2..=3) } else { 1 },
            config,
            ttl,
            clock_bound_ppm: margin * 1_000_000 / ttl,
            sessions,
            delay: ttl / 1000 * rng.u64(1..=60),
            slow: some(rng, 150),
            loss: some(rng, 100),
            unclear: some(rng, 100),
            duplicates: if sessions { 0 } else { some(rng, 100) },
            faults,
            fault_every: ttl / 10 * rng.u64(2..=20),
            user_every: ttl / 100 * rng.u64(20..=80),
            lets_go: some(rng, 100),
            cancels: some(rng, 100),
            calm_at,
            ends_at: calm_at + PROGRESS_TTLS * ttl + if ttl < SHORT_TTL { PAUSES } else { 0 },
        }
    }
}
