//! The orchestrator's side of parking: takes parcels, and knows which lanes are held.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dapper_core::{Event, Fate, Parcel, Parking};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::held::HeldLanes;

/// The number of a key at a process, the same for all replicas. Two with one number only wait for each other without
/// need.
pub(crate) fn lane(process: &str, location: &str, id: &str) -> i64 {
    let mut hash = Sha256::new();
    for part in [process, location, id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    i64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 digest has 32 bytes"))
}

/// What all deliveries of one holder share.
pub(crate) struct Handle {
    held: Mutex<HeldLanes>,
    /// Whether any lane is held; else nobody need look further.
    any: AtomicBool,
    /// Processes that are paused: every lane of theirs counts as held.
    paused: Mutex<BTreeSet<String>>,
    /// Whether there are any.
    pausing: AtomicBool,
    /// Not bounded by itself: each parcel is an event of a delivery that is not settled, and those are bounded.
    sender: mpsc::UnboundedSender<Sent>,
}

/// A parcel, where it comes from and what is known of it.
pub(crate) struct Sent {
    pub(crate) parcel: Parcel,
    pub(crate) lane: i64,
    pub(crate) source: Source,
    /// Whether the lane was marked as held because of it.
    pub(crate) marked: bool,
}

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its change set's position.
    pub(crate) seq: i64,
    /// Its position in the change set.
    pub(crate) position: i32,
    /// Its row, if it is at the process where that is parked.
    pub(crate) row: Option<i64>,
    /// The try that it was resumed for, if it was.
    pub(crate) from: Option<u64>,
}

/// The [`Parking`] of one delivery.
pub(crate) struct OfDelivery {
    pub(crate) handle: Arc<Handle>,
    pub(crate) origin: Origin,
}

/// Where the events of a delivery come from.
pub(crate) enum Origin {
    /// From change sets: for each its position, and how many events it and those before it make up.
    ChangeSets(Arc<[(i64, usize)]>),
    /// From a row, and of which process.
    Row(Source, String),
}

impl Handle {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Sent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let held = Mutex::new(HeldLanes::new());
        let (any, pausing) = (AtomicBool::new(false), AtomicBool::new(false));
        (Arc::new(Self { held, any, paused: Mutex::default(), pausing, sender }), receiver)
    }

    /// From now on these processes are paused, and no others.
    pub(crate) fn pause(&self, processes: &BTreeSet<String>) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.clone_from(processes);
        self.pausing.store(!paused.is_empty(), Ordering::Release);
    }

    fn is_paused(&self, process: &str) -> bool {
        self.pausing.load(Ordering::Acquire)
            && self.paused.lock().unwrap_or_else(PoisonError::into_inner).contains(process)
    }

    /// Changes or asks what is known of the lanes.
    pub(crate) fn with_held<T>(&self, what: impl FnOnce(&mut HeldLanes) -> T) -> T {
        let mut held: MutexGuard<'_, HeldLanes> = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let result = what(&mut held);
        self.any.store(!held.is_empty(), Ordering::Release);
        result
    }
}

impl Parking for OfDelivery {
    fn is_held(&self, process: &str, event: &Event) -> bool {
        if self.handle.is_paused(process) {
            return true;
        }
        if !self.handle.any.load(Ordering::Acquire) {
            return false;
        }
        let lane = lane(process, &event.location, &event.id);
        self.handle.with_held(|held| held.is_held(lane))
    }

    fn store(&self, parcel: Parcel) {
        let lane = lane(&parcel.process, &parcel.event.location, &parcel.event.id);
        let source = self.origin.source(&parcel);
        // A dead letter lets those behind it go on, and a row that is put back is in the table.
        let marked = source.row.is_none() && !matches!(parcel.fate, Fate::Dead { .. });
        if marked {
            self.handle.with_held(|held| held.sent(lane));
        }
        // When nobody takes it, the parcel is dropped, and the event abandoned.
        let _ = self.handle.sender.send(Sent { parcel, lane, source, marked });
    }
}

impl Origin {
    fn source(&self, parcel: &Parcel) -> Source {
        match self {
            Self::Row(source, process) if *process == parcel.process => *source,
            Self::Row(source, _) => Source { row: None, ..*source },
            Self::ChangeSets(ends) => {
                let at = ends.partition_point(|&(_, end)| end <= parcel.index);
                let seq = ends.get(at).map_or(0, |&(seq, _)| seq);
                let begin = at.checked_sub(1).map_or(0, |before| ends[before].1);
                let position = i32::try_from(parcel.index - begin).unwrap_or(i32::MAX);
                Source { seq, position, row: None, from: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_lane_do_not_run_into_each_other() {
        assert_ne!(lane("ab", "c", "d"), lane("a", "bc", "d"));
        assert_eq!(lane("hook", "orders", "42"), -658_881_125_363_028_914, "replicas of all versions agree");
    }
}
