//! How far the input has come: what is claimed, what is done, and what the cursor row must say of it.
//!
//! A pure state machine. The reader asks it where to read ([`Progress::next_read`]), tells it what was read
//! ([`Progress::claim`]) and what was handled ([`Progress::complete`]); the cursor row is [`Progress::position`], and
//! [`Progress::resume`] makes the state from the row that a predecessor left.
//!
//! A *target* is a snapshot that is worked off in `seq` order, in *chunks*. Several chunks, and several targets, may be
//! outstanding at once, so that one slow key does not stop the others; they are completed in order.

use std::collections::VecDeque;

use crate::snapshot::Snapshot;

/// What the cursor row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Every change it sees is done.
    pub(crate) prev: Snapshot,
    /// The snapshot being worked off, if any.
    pub(crate) target: Option<Snapshot>,
    /// Of the changes that `target` sees and `prev` does not, those with a `seq` up to this are done.
    pub(crate) done: i64,
    /// Bounds what may have been handed to a process.
    pub(crate) claimed: Option<Claimed>,
    /// Attempts at what is claimed, the running one included; 0 when nothing is.
    pub(crate) attempt: u32,
}

/// Every change that may have been handed to a process and is not done is seen by `snapshot` and has a `seq` up to `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// The latest target that was claimed from.
    pub(crate) snapshot: Snapshot,
    /// The highest position claimed.
    pub(crate) seq: i64,
}

/// Where to read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NextRead {
    /// What is visible now and was not in `since`; the statement's own snapshot becomes the target.
    Fresh {
        /// The snapshot up to which everything is read.
        since: Snapshot,
    },
    /// The rest of a target: seen by `target`, not by `since`, with a `seq` above `after`.
    Rest {
        /// The snapshot up to which everything is read.
        since: Snapshot,
        /// The snapshot being worked off.
        target: Snapshot,
        /// The position up to which the target is read.
        after: i64,
    },
}

/// What one read brought.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// The snapshot of the reading statement.
    pub(crate) snapshot: Snapshot,
    /// The last position in it; `None` when nothing was there.
    pub(crate) last_seq: Option<i64>,
    /// Whether nothing of the target is left behind it.
    pub(crate) exhausted: bool,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    prev: Snapshot,
    targets: VecDeque<Target>,
    /// What a predecessor may have handed out, until all of it is done again.
    inherited: Option<(Claimed, u32)>,
    /// Whether the cursor row says something else than [`Progress::position`].
    dirty: bool,
}

#[derive(Clone, Debug)]
struct Target {
    snapshot: Snapshot,
    done: i64,
    read: i64,
    exhausted: bool,
    /// The last position of each outstanding chunk.
    outstanding: VecDeque<i64>,
}

impl Progress {
    /// Takes up what a predecessor left, or what a new cursor says. The position's `attempt` must already count the
    /// attempt that begins now.
    #[must_use]
    pub(crate) fn resume(position: Position) -> Self {
        let Position { prev, target, done, claimed, attempt } = position;
        let targets = target
            .map(|snapshot| Target {
                snapshot,
                done,
                read: done,
                exhausted: false,
                outstanding: VecDeque::new(),
            })
            .into_iter()
            .collect();
        let inherited = claimed.map(|claimed| (claimed, attempt));
        Self { prev, targets, inherited, dirty: false }
    }

    /// Where to read next.
    #[must_use]
    pub(crate) fn next_read(&self) -> NextRead {
        match self.targets.back() {
            Some(last) if !last.exhausted => {
                let base = self.targets.len().checked_sub(2).and_then(|index| self.targets.get(index));
                NextRead::Rest {
                    since: base.map_or_else(|| self.prev.clone(), |target| target.snapshot.clone()),
                    target: last.snapshot.clone(),
                    after: last.read,
                }
            }
            Some(last) => NextRead::Fresh { since: last.snapshot.clone() },
            None => NextRead::Fresh { since: self.prev.clone() },
        }
    }

    /// What of the next read may be a repeat, and as which attempt it must be delivered.
    #[must_use]
    pub(crate) fn inherited(&self) -> Option<(&Claimed, u32)> {
        self.inherited.as_ref().map(|(claimed, attempt)| (claimed, *attempt))
    }

    /// Takes in the result of [`next_read`](Self::next_read). After this the row must be written before anything of the
    /// chunk is handed out.
    pub(crate) fn claim(&mut self, chunk: Chunk) {
        let continues = self.targets.back().is_some_and(|last| !last.exhausted);
        if !continues {
            if chunk.last_seq.is_none() {
                self.nothing_new(chunk.snapshot);
                return;
            }
            self.targets.push_back(Target {
                snapshot: chunk.snapshot,
                done: 0,
                read: 0,
                exhausted: false,
                outstanding: VecDeque::new(),
            });
        }
        if let Some(last) = self.targets.back_mut() {
            last.exhausted = chunk.exhausted;
            if let Some(seq) = chunk.last_seq {
                last.read = seq;
                last.outstanding.push_back(seq);
            }
        }
        self.dirty = true;
        self.retire();
    }

    /// A fresh read found nothing: what is seen now is what was seen before. The row need not say so, since reading
    /// again from the older snapshot would find nothing either.
    fn nothing_new(&mut self, snapshot: Snapshot) {
        if let Some(last) = self.targets.back_mut() {
            last.snapshot = snapshot;
        } else {
            self.prev = snapshot;
            self.forget_inherited();
        }
    }

    /// The oldest outstanding chunk is handled entirely.
    pub(crate) fn complete(&mut self) {
        for target in &mut self.targets {
            if let Some(seq) = target.outstanding.pop_front() {
                target.done = seq;
                self.dirty = true;
                break;
            }
        }
        self.retire();
    }

    /// Of the oldest outstanding chunk, what has a `seq` up to this is handled; the rest is not and will not be.
    pub(crate) fn complete_partly(&mut self, seq: i64) {
        if let Some(target) = self.targets.front_mut()
            && seq > target.done
            && target.outstanding.front().is_some_and(|&last| seq <= last)
        {
            target.done = seq;
            self.dirty = true;
        }
    }

    /// Whether the cursor row must be written.
    #[must_use]
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The row was written.
    pub(crate) fn saved(&mut self) {
        self.dirty = false;
    }

    /// The snapshot up to which everything is done.
    #[must_use]
    pub(crate) fn prev(&self) -> &Snapshot {
        &self.prev
    }

    /// What the cursor row must say.
    #[must_use]
    pub(crate) fn position(&self) -> Position {
        let front = self.targets.front();
        let claimed = self.claimed();
        Position {
            prev: self.prev.clone(),
            target: front.map(|target| target.snapshot.clone()),
            done: front.map_or(0, |target| target.done),
            attempt: match (&claimed, &self.inherited) {
                (None, _) => 0,
                (Some(_), Some((_, attempt))) => *attempt,
                (Some(_), None) => 1,
            },
            claimed,
        }
    }

    fn claimed(&self) -> Option<Claimed> {
        let highest = self.targets.iter().flat_map(|target| &target.outstanding).max();
        let own = highest.and_then(|&seq| {
            let last = self.targets.iter().rfind(|target| !target.outstanding.is_empty())?;
            Some((last, seq))
        });
        match (own, &self.inherited) {
            (None, None) => None,
            (None, Some((inherited, _))) => Some(inherited.clone()),
            (Some((last, seq)), None) => Some(Claimed { snapshot: last.snapshot.clone(), seq }),
            (Some((last, seq)), Some((inherited, _))) => Some(Claimed {
                snapshot: if last.snapshot.includes(&inherited.snapshot) {
                    last.snapshot.clone()
                } else {
                    inherited.snapshot.clone()
                },
                seq: seq.max(inherited.seq),
            }),
        }
    }

    /// Drops targets that are read and handled entirely.
    fn retire(&mut self) {
        while self.targets.front().is_some_and(|front| front.exhausted && front.outstanding.is_empty()) {
            if let Some(target) = self.targets.pop_front() {
                self.prev = target.snapshot;
                self.dirty = true;
                self.forget_inherited();
            }
        }
    }

    /// Once all that a predecessor can have claimed is done, nothing read later is a repeat.
    fn forget_inherited(&mut self) {
        if self.inherited.as_ref().is_some_and(|(claimed, _)| self.prev.includes(&claimed.snapshot)) {
            self.inherited = None;
            self.dirty = true;
        }
    }
}

#[cfg(test)]
mod tests;
