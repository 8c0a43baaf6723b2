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
    /// What stands behind the holder of a lane, if anything does.
    occupied: HashMap<LaneId, Option<Box<Lane<J>>>, BuildHasherDefault<Prehashed>>,
    /// Runnable since they entered, so in order of age.
    entered_runnable: VecDeque<Aged<J>>,
    /// Runnable since the one before them was done, or again.
    became_runnable: BinaryHeap<Aged<J>>,
    entered: u64,
}

#[derive(Debug)]
struct Lane<J> {
    behind: VecDeque<Aged<J>>,
    closed: bool,
}

/// A job and when it entered; the greatest is the oldest.
#[derive(Debug)]
pub(crate) struct Aged<J> {
    entered: u64,
    pub(crate) job: J,
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
        Self {
            occupied: HashMap::default(),
            entered_runnable: VecDeque::new(),
            became_runnable: BinaryHeap::new(),
            entered: 0,
        }
    }

    /// Adds a job at the end of its lane. Gives it back when the lane is closed.
    pub(crate) fn enter(&mut self, lane: LaneId, job: J) -> Option<J> {
        self.entered += 1;
        let aged = Aged { entered: self.entered, job };
        match self.occupied.entry(lane) {
            Entry::Vacant(vacant) => {
                vacant.insert(None);
                self.entered_runnable.push_back(aged);
                None
            }
            Entry::Occupied(mut lane) => {
                let lane = lane.get_mut().get_or_insert_with(Lane::new);
                if lane.closed {
                    return Some(aged.job);
                }
                lane.behind.push_back(aged);
                None
            }
        }
    }

    /// The oldest runnable job. It holds its lane until [`release`](Self::release).
    pub(crate) fn take(&mut self) -> Option<Aged<J>> {
        match (self.entered_runnable.front(), self.became_runnable.peek()) {
            (Some(entered), Some(became)) if entered.entered > became.entered => self.became_runnable.pop(),
            (Some(_), _) => self.entered_runnable.pop_front(),
            (None, _) => self.became_runnable.pop(),
        }
    }

    /// Makes a lane's holder, which was taken and not begun, runnable again, at its place.
    pub(crate) fn give_back(&mut self, aged: Aged<J>) {
        self.became_runnable.push(aged);
    }

    /// Makes a lane's holder, which was taken and not released, runnable again, before all others.
    pub(crate) fn resume(&mut self, job: J) {
        self.became_runnable.push(Aged { entered: 0, job });
    }

    /// The lane's holder is done: the one behind it becomes runnable.
    pub(crate) fn release(&mut self, lane: LaneId) {
        let Entry::Occupied(mut entry) = self.occupied.entry(lane) else { return };
        match entry.get_mut().as_mut().map(|lane| (lane.behind.pop_front(), lane.closed)) {
            Some((Some(aged), _)) => self.became_runnable.push(aged),
            Some((None, true)) => {}
            Some((None, false)) | None => drop(entry.remove()),
        }
    }

    /// The lane's holder was given up: nothing of this lane may run after it. Gives back those behind it.
    pub(crate) fn close(&mut self, lane: LaneId) -> Vec<J> {
        match self.occupied.get_mut(&lane) {
            Some(lane) => {
                let lane = lane.get_or_insert_with(Lane::new);
                lane.closed = true;
                std::mem::take(&mut lane.behind).into_iter().map(|aged| aged.job).collect()
            }
            None => Vec::new(),
        }
    }

    /// How many jobs are runnable.
    pub(crate) fn runnable(&self) -> usize {
        self.entered_runnable.len() + self.became_runnable.len()
    }
}

impl<J> Lane<J> {
    fn new() -> Box<Self> {
        Box::new(Self { behind: VecDeque::new(), closed: false })
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

    fn take<J>(lanes: &mut Lanes<J>) -> Option<J> {
        lanes.take().map(|aged| aged.job)
    }

    #[test]
    fn a_lane_runs_one_at_a_time_in_order_and_the_oldest_goes_first() {
        let mut lanes = Lanes::new();
        for (lane, job) in [(1, "a1"), (1, "a2"), (2, "b1"), (1, "a3"), (3, "c1")] {
            assert_eq!(lanes.enter(lane, job), None);
        }
        assert_eq!(lanes.runnable(), 3);
        assert_eq!(take(&mut lanes), Some("a1"));
        lanes.release(1);
        assert_eq!(take(&mut lanes), Some("a2"), "a2 is older than b1");
        assert_eq!((take(&mut lanes), take(&mut lanes)), (Some("b1"), Some("c1")));
        assert_eq!(take(&mut lanes), None, "a3 waits for a2");
        lanes.resume("a2");
        assert_eq!((take(&mut lanes), take(&mut lanes)), (Some("a2"), None), "a retried job keeps its lane");
        lanes.release(1);
        assert_eq!(take(&mut lanes), Some("a3"));
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
        take(&mut lanes);
        assert_eq!(lanes.close(1), ["a2", "a3"]);
        assert_eq!(lanes.enter(1, "a4"), Some("a4"));
        lanes.release(1);
        assert_eq!(lanes.enter(1, "a5"), Some("a5"), "closed for good");
        assert_eq!(lanes.enter(2, "b1"), None);
        assert_eq!(take(&mut lanes), Some("b1"));
    }

    #[test]
    fn what_is_given_back_keeps_its_place() {
        let mut lanes = Lanes::new();
        for (lane, job) in [(1, "a1"), (2, "b1"), (1, "a2"), (3, "c1")] {
            lanes.enter(lane, job);
        }
        let (first, second) = (lanes.take().unwrap(), lanes.take().unwrap());
        lanes.release(1);
        lanes.give_back(second);
        assert_eq!((first.job, lanes.runnable()), ("a1", 3));
        assert_eq!(
            [take(&mut lanes), take(&mut lanes), take(&mut lanes)],
            [Some("b1"), Some("a2"), Some("c1")]
        );
    }
}
