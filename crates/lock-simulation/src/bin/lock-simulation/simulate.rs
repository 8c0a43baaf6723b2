//! `lock-simulation simulate`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use dapper_lock_simulation::simulation::{Tally, simulate, trace};
use dapper_lock_simulation::{Break, Violation};
use indicatif::{ProgressBar, ProgressStyle};

/// How many seeds a thread takes at a time.
const SHARE: u64 = 256;

/// Run a simulation per seed, on all cores: nodes, a store and a fenced row in simulated time, with faults
#[derive(Debug, clap::Args)]
pub(crate) struct Simulate {
    /// How many seeds
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this seed, and tell what happens
    #[arg(long)]
    seed: Option<u64>,
    /// Break this on purpose: it is an error if nobody notices
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<Break>,
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    tally: Tally,
    failed: u64,
    /// For each kind of violation, by its name: how many seeds had it, and the first of them.
    kinds: BTreeMap<String, (u64, u64)>,
}

impl Simulate {
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(seed) = self.seed {
            return self.replay(seed);
        }
        let start = Instant::now();
        let (sum, ran) = self.run_all();
        let seconds = start.elapsed().as_secs_f64();
        println!("{ran} seeds from {} in {seconds:.1} s, {:.0} per second", self.first, ran as f64 / seconds);
        println!("{}", sum.tally);
        for (kind, (count, first)) in &sum.kinds {
            println!("{kind}: {count} seeds; the first is {first}, number {}", first - self.first + 1);
        }
        match (self.broken, sum.kinds.values().map(|(_, first)| first).min()) {
            (None, None) => println!("no violation"),
            (Some(broken), Some(first)) => {
                println!("{broken} was broken on purpose, and caught after {} seeds", first - self.first + 1);
            }
            (Some(broken), None) => bail!("{broken} was broken on purpose, and nobody noticed"),
            (None, Some(first)) => {
                self.tell(*first);
                bail!(
                    "{} of {ran} seeds failed; cargo xtask simulate --seed {first} replays the first",
                    sum.failed
                );
            }
        }
        Ok(())
    }

    fn run_all(&self) -> (Sum, u64) {
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} seeds, {per_sec}, {eta} left{msg}");
        let bar = ProgressBar::new(self.seeds).with_style(style.expect("the template is well formed"));
        let (next, ran, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let total = Mutex::new(Sum::default());
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
                scope.spawn(|| {
                    let mut own = Sum::default();
                    loop {
                        let from = next.fetch_add(SHARE, Ordering::Relaxed);
                        if from >= self.seeds || stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let to = (from + SHARE).min(self.seeds);
                        (from..to).for_each(|offset| own.add(self.first + offset, self.broken));
                        // The rest would only say the same again. What is broken on purpose is counted to the end.
                        if own.failed > 0 && self.broken.is_none() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        ran.fetch_add(to - from, Ordering::Relaxed);
                        bar.inc(to - from);
                    }
                    total.lock().expect("no thread panics with it").merge(own);
                });
            }
        });
        bar.finish_and_clear();
        (total.into_inner().expect("no thread panics with it"), ran.into_inner())
    }

    fn replay(&self, seed: u64) -> Result<()> {
        match (self.tell(seed), self.broken) {
            (0, _) | (_, Some(_)) => Ok(()),
            (violations, None) => bail!("seed {seed}: {violations} violations"),
        }
    }

    /// Prints what happens with that seed, and says how many violations there are.
    fn tell(&self, seed: u64) -> usize {
        let outcome = trace(seed, self.broken);
        for line in &outcome.trace {
            println!("{line}");
        }
        for violation in &outcome.violations {
            println!("seed {seed}: {violation}");
        }
        println!("seed {seed}: {} violations; {}", outcome.violations.len(), outcome.tally);
        outcome.violations.len()
    }
}

impl Sum {
    fn add(&mut self, seed: u64, broken: Option<Break>) {
        let outcome = simulate(seed, broken);
        self.tally += outcome.tally;
        self.failed += u64::from(!outcome.violations.is_empty());
        for violation in &outcome.violations {
            let (count, first) = self.kinds.entry(kind(violation)).or_insert((0, seed));
            *count += 1;
            *first = seed.min(*first);
        }
    }

    fn merge(&mut self, other: Self) {
        self.tally += other.tally;
        self.failed += other.failed;
        for (kind, (count, first)) in other.kinds {
            let (sum, earliest) = self.kinds.entry(kind).or_insert((0, first));
            *sum += count;
            *earliest = first.min(*earliest);
        }
    }
}

/// What its description begins with.
fn kind(violation: &Violation) -> String {
    let text = violation.to_string();
    text.split(':').next().unwrap_or_default().to_owned()
}
