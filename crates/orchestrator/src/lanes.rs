//! One lane per key: what may run now, and what waits for the one before it. Pure; moves jobs, runs none.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The number of a lane: a hash of what must stay in order. Two keys with one number only wait for each other
/// without need.
pub(crate) type LaneId = u64;

/// Jobs by lane. At most one job of a lane is runnable or out at a time: the lane's *holder*.
///
/// Of the runnable jobs the oldest comes first: inputs record their progress up to the oldest event that is not handled,
/// so a key with many events must not fall behind the others.
#[derive(Debug)]
pub(crate) struct Lanes<J> {
    occupied: HashMap<LaneId, Lane<J>, BuildHasherDefault<Prehashed>>,
    runnable: BinaryHeap<Aged<J>>,
    entered: u64,
}

#[derive(Debug)]
struct Lane<J> {
    behind: VecDeque<Aged<J>>,
    closed: bool,
}

/// A job and when it entered; the greatest is the oldest.
#[derive(Debug)]
struct Aged<J> {
    entered: u64,
    job: J,
}

impl<J> Ord for Aged<J> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.entered.cmp(&self.entered)
    }
}

impl<J> PartialOrd for Aged<J> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<J> PartialEq for Aged<J> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<J> Eq for Aged<J> {}

impl<J> Lanes<J> {
    pub(crate) fn new() -> Self {
        Self { occupied: HashMap::default(), runnable: BinaryHeap::new(), entered: 0 }
    }

    /// Adds a job at the end of its lane. Gives it back when the lane is closed.
    pub(crate) fn enter(&mut self, lane: LaneId, job: J) -> Option<J> {
        self.entered += 1;
        let aged = Aged { entered: self.entered, job };
        match self.occupied.entry(lane) {
            Entry::Vacant(vacant) => {
                vacant.insert(Lane { behind: VecDeque::new(), closed: false });
                self.runnable.push(aged);
                None
            }
            Entry::Occupied(lane) if lane.get().closed => Some(aged.job),
            Entry::Occupied(mut lane) => {
                lane.get_mut().behind.push_back(aged);
                None
            }
        }
    }

    /// The oldest runnable job. It holds its lane until [`release`](Self::release).
    pub(crate) fn take(&mut self) -> Option<J> {
        self.runnable.pop().map(|aged| aged.job)
    }

    /// Makes a lane's holder, which was taken and not released, runnable again, before all others.
    pub(crate) fn resume(&mut self, job: J) {
        self.runnable.push(Aged { entered: 0, job });
    }

    /// The lane's holder is done: the one behind it becomes runnable.
    pub(crate) fn release(&mut self, lane: LaneId) {
        let Entry::Occupied(mut entry) = self.occupied.entry(lane) else { return };
        match entry.get_mut().behind.pop_front() {
            Some(aged) => self.runnable.push(aged),
            None if entry.get().closed => {}
            None => drop(entry.remove()),
        }
    }

    /// The lane's holder was given up: nothing of this lane may run after it. Gives back those behind it.
    pub(crate) fn close(&mut self, lane: LaneId) -> Vec<J> {
        match self.occupied.get_mut(&lane) {
            Some(lane) => {
                lane.closed = true;
                std::mem::take(&mut lane.behind).into_iter().map(|aged| aged.job).collect()
            }
            None => Vec::new(),
        }
    }

    /// How many jobs are runnable.
    pub(crate) fn runnable(&self) -> usize {
        self.runnable.len()
    }
}

/// Lane numbers are hashes already.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
    fn write_u64(&mut self, lane: u64) {
        self.0 = lane;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_runs_one_at_a_time_in_order_and_the_oldest_goes_first() {
        let mut lanes = Lanes::new();
        for (lane, job) in [(1, "a1"), (1, "a2"), (2, "b1"), (1, "a3"), (3, "c1")] {
            assert_eq!(lanes.enter(lane, job), None);
        }
        assert_eq!(lanes.runnable(), 3);
        assert_eq!(lanes.take(), Some("a1"));
        lanes.release(1);
        assert_eq!(lanes.take(), Some("a2"), "a2 is older than b1");
        assert_eq!((lanes.take(), lanes.take()), (Some("b1"), Some("c1")));
        assert_eq!(lanes.take(), None, "a3 waits for a2");
        lanes.resume("a2");
        assert_eq!((lanes.take(), lanes.take()), (Some("a2"), None), "a retried job keeps its lane");
        lanes.release(1);
        assert_eq!(lanes.take(), Some("a3"));
        for lane in [1, 2, 3] {
            lanes.release(lane);
        }
        assert!(lanes.occupied.is_empty(), "an empty lane is forgotten");
    }

    #[test]
    fn nothing_runs_after_one_that_was_given_up() {
        let mut lanes = Lanes::new();
        for job in ["a1", "a2", "a3"] {
            lanes.enter(1, job);
        }
        lanes.take();
        assert_eq!(lanes.close(1), ["a2", "a3"]);
        assert_eq!(lanes.enter(1, "a4"), Some("a4"));
        lanes.release(1);
        assert_eq!(lanes.enter(1, "a5"), Some("a5"), "closed for good");
        assert_eq!(lanes.enter(2, "b1"), None);
        assert_eq!(lanes.take(), Some("b1"));
    }
}
