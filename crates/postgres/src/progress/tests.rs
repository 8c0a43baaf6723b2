//! The state machine against a model of PostgreSQL's transactions: nothing lost, no repeat unmarked, seq order kept.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What the world does next.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    Write { transaction: usize },
    End { transaction: usize, commit: bool },
    Read { limit: usize },
    Handle,
    Save,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Begin),
        5 => any::<usize>().prop_map(|transaction| Step::Write { transaction }),
        3 => (any::<usize>(), prop::bool::weighted(0.8))
            .prop_map(|(transaction, commit)| Step::End { transaction, commit }),
        6 => (1usize..4).prop_map(|limit| Step::Read { limit }),
        4 => Just(Step::Handle),
        1 => Just(Step::Save),
        1 => Just(Step::Crash),
    ]
}

/// A database with one cursor row, and a reader whose deliveries are remembered over its crashes.
struct World {
    next_xid: u64,
    latest_completed: u64,
    next_seq: i64,
    open: BTreeSet<u64>,
    /// seq to xid, of transactions that did not roll back.
    changes: BTreeMap<i64, u64>,
    row: Position,
    progress: Progress,
    outstanding: VecDeque<Vec<i64>>,
    handed_out: BTreeMap<i64, u32>,
    handled: BTreeSet<i64>,
}

impl World {
    fn new() -> Self {
        let row = Position { prev: Snapshot::beginning(), target: None, done: 0, claimed: None, attempt: 0 };
        Self {
            next_xid: 10,
            latest_completed: 9,
            next_seq: 1,
            open: BTreeSet::new(),
            changes: BTreeMap::new(),
            progress: Progress::resume(row.clone()),
            row,
            outstanding: VecDeque::new(),
            handed_out: BTreeMap::new(),
            handled: BTreeSet::new(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        let xip: Vec<u64> = self.open.iter().copied().filter(|&xid| xid < xmax).collect();
        Snapshot { xmin: xip.first().copied().unwrap_or(xmax), xmax, xip }
    }

    fn save(&mut self) {
        self.row = self.progress.position();
        self.progress.saved();
    }

    fn read(&mut self, limit: usize) -> Result<bool, TestCaseError> {
        let now = self.snapshot();
        let (since, target, after) = match self.progress.next_read() {
            NextRead::Fresh { since } => (since, now.clone(), 0),
            NextRead::Rest { since, target, after } => (since, target, after),
        };
        let unread: Vec<i64> = self
            .changes
            .iter()
            .filter(|&(&seq, &xid)| seq > after && now.sees(xid) && target.sees(xid) && !since.sees(xid))
            .map(|(&seq, _)| seq)
            .collect();
        let chunk: Vec<i64> = unread.iter().copied().take(limit).collect();
        let inherited = self.progress.inherited().map(|(claimed, attempt)| (claimed.clone(), attempt));
        self.progress.claim(Chunk {
            snapshot: now,
            last_seq: chunk.last().copied(),
            exhausted: unread.len() == chunk.len(),
        });
        if chunk.is_empty() {
            return Ok(false);
        }
        self.save();
        for &seq in &chunk {
            let xid = self.changes[&seq];
            let attempt = match &inherited {
                Some((claimed, attempt)) if claimed.snapshot.sees(xid) && seq <= claimed.seq => *attempt,
                _ => 1,
            };
            if let Some(before) = self.handed_out.insert(seq, attempt) {
                prop_assert!(attempt > 1, "change {seq} repeated unmarked after attempt {before}");
            }
            prop_assert!(!self.handled.contains(&seq) || attempt > 1);
        }
        self.outstanding.push_back(chunk);
        let outstanding: usize = self.progress.targets.iter().map(|target| target.outstanding.len()).sum();
        prop_assert_eq!(outstanding, self.outstanding.len());
        Ok(true)
    }

    fn handle(&mut self) {
        if let Some(chunk) = self.outstanding.pop_front() {
            self.handled.extend(chunk);
            self.progress.complete();
        }
    }

    fn crash(&mut self) {
        let mut position = self.row.clone();
        if position.claimed.is_some() {
            position.attempt += 1;
            self.row.attempt += 1;
        }
        self.progress = Progress::resume(position);
        self.outstanding.clear();
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let nth = |open: &BTreeSet<u64>, n: usize| open.iter().nth(n % open.len().max(1)).copied();
        match *step {
            Step::Begin => {
                self.open.insert(self.next_xid);
                self.next_xid += 1;
            }
            Step::Write { transaction } => {
                if let Some(xid) = nth(&self.open, transaction) {
                    self.changes.insert(self.next_seq, xid);
                    self.next_seq += 1;
                }
            }
            Step::End { transaction, commit } => {
                if let Some(xid) = nth(&self.open, transaction) {
                    self.open.remove(&xid);
                    self.latest_completed = self.latest_completed.max(xid);
                    if !commit {
                        self.changes.retain(|_, &mut writer| writer != xid);
                    }
                }
            }
            Step::Read { limit } => {
                self.read(limit)?;
            }
            Step::Handle => self.handle(),
            Step::Save => self.save(),
            Step::Crash => self.crash(),
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), TestCaseError> {
        self.latest_completed = self.open.iter().copied().max().unwrap_or(0).max(self.latest_completed);
        self.open.clear();
        for _ in 0..10 * (self.changes.len() + 10) {
            let found = self.read(3)?;
            self.handle();
            if !found && self.outstanding.is_empty() && self.progress.next_read_is_fresh() {
                break;
            }
        }
        for seq in self.changes.keys() {
            prop_assert!(self.handled.contains(seq), "change {seq} is lost");
        }
        Ok(())
    }
}

impl Progress {
    fn next_read_is_fresh(&self) -> bool {
        matches!(self.next_read(), NextRead::Fresh { .. })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_no_repeat_is_unmarked(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step)?;
        }
        world.drain()?;
    }
}

#[test]
fn a_clean_run_marks_nothing_and_ends_with_nothing_claimed() {
    let mut progress = Progress::resume(World::new().row);
    let snapshot: Snapshot = "5:9:5".parse().unwrap();
    progress.claim(Chunk { snapshot: snapshot.clone(), last_seq: Some(3), exhausted: false });
    assert_eq!(
        progress.position(),
        Position {
            prev: Snapshot::beginning(),
            target: Some(snapshot.clone()),
            done: 0,
            claimed: Some(Claimed { snapshot: snapshot.clone(), seq: 3 }),
            attempt: 1,
        }
    );
    progress.complete();
    assert_eq!((progress.position().done, progress.position().claimed), (3, None));
    progress.claim(Chunk { snapshot: "6:10:".parse().unwrap(), last_seq: Some(7), exhausted: true });
    progress.complete();
    assert_eq!(
        progress.position(),
        Position { prev: snapshot, target: None, done: 0, claimed: None, attempt: 0 }
    );
}

#[test]
fn a_part_of_a_chunk_can_be_done() {
    let mut progress = Progress::resume(World::new().row);
    progress.claim(Chunk { snapshot: "5:9:".parse().unwrap(), last_seq: Some(8), exhausted: true });
    progress.complete_partly(6);
    let position = progress.position();
    assert_eq!((position.done, position.claimed.map(|claimed| claimed.seq)), (6, Some(8)));
}
