//! x
use std::time::Instant;
use dapper_lock_simulation::{simulation, Break};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "model" {
        let v: Vec<u8> = args[2].split(',').map(|v| v.parse().unwrap()).collect();
        let b = args.get(3).map(|b| <Break as clap::ValueEnum>::from_str(b, true).unwrap());
        let c = dapper_lock_simulation::model::Configuration { nodes: v[0], ttl: v[1], margin: v[2], renew_every: v[3], delay: v[4], pauses: v[5], losses: v[6], restarts: v[7], slow_clocks: v[8], sessions: v[9]==1, let_go: v[10]==1, broken: b };
        let t = Instant::now();
        let r = dapper_lock_simulation::model::explore(c, &mut |r| if r.states % 64 == 0 { eprintln!("{} {} {}", r.states, r.transitions, r.depth) });
        for l in &r.path { println!("{l}"); }
        println!("{:?} {} {} {} {:?}", r.found, r.states, r.transitions, r.depth, t.elapsed());
        return;
    }
    let n: u64 = args[1].parse().unwrap();
    if args[2] == "trace" { 
        let b = args.get(3).map(|b| <Break as clap::ValueEnum>::from_str(b, true).unwrap());
        let o = simulation::trace(n, b); for l in o.trace { println!("{l}"); } println!("{:?} {:?}", o.violations, o.tally); return; }
    let breaks: Vec<Option<Break>> = if args[2]=="all" { Break::ALL.into_iter().map(Some).collect() } else { vec![None] };
    for b in breaks {
        let t = Instant::now();
        let mut tally = simulation::Tally::default();
        let mut first: Vec<(u64, simulation::Violation)> = vec![]; let mut bad = 0;
        for s in 0..n {
            let o = simulation::simulate(s, b);
            tally += o.tally;
            if !o.violations.is_empty() { bad += 1; }
            for v in o.violations { if !first.iter().any(|(_, f)| std::mem::discriminant(f) == std::mem::discriminant(&v)) { first.push((s, v)); } }
        }
        println!("{b:?}: {bad} bad of {n} in {:?}, {:?}\n  {tally:?}", t.elapsed(), first);
    }
}
