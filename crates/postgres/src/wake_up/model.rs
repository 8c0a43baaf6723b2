//! Every interleaving of a few writers with the reader's machine: whoever writes is read, or wakes the reader.
//!
//! The machine is the one that runs; its actions are carried out here one by one, as the holder does, between any steps
//! of the writers. A run is over when no writer has anything left and the reader sleeps without a notification on its
//! way: then everything committed must have been read. The backstop, which would find it in the end, is left out.

use std::collections::HashSet;

use super::*;

const WRITERS: usize = 2;
/// Transactions of each writer.
const TRANSACTIONS: u8 = 2;

/// What the protocol is made to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// `F` is what a snapshot calls `xmax`.
    XmaxForF,
    /// `F` is drawn before the flag is cleared.
    DrawsBeforeClearing,
    /// The reader sleeps as soon as it has `F`.
    NoReadAfterF,
    /// A writer looks at the flag before it has a transaction id.
    LooksBeforeDrawing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle {
        left: u8,
    },
    /// Has looked too early.
    Looked {
        left: u8,
        notifies: bool,
    },
    Drawn {
        left: u8,
        xid: u64,
    },
    Ready {
        left: u8,
        xid: u64,
        notifies: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Reading,
    Setting,
    Clearing,
    Drawing,
    Polling,
    Sleeping,
}

#[derive(Clone)]
struct World {
    machine: WakeUp,
    phase: Phase,
    /// Drawn too early.
    f: u64,
    flag: bool,
    notified: bool,
    next_xid: u64,
    /// The latest id that has ended.
    completed: u64,
    writers: [Writer; WRITERS],
    /// Committed and not read.
    unread: usize,
}

impl World {
    fn new(state: State, flag: bool) -> Self {
        Self {
            machine: WakeUp { notify: true, state, hits: 0, empty_reads: 0 },
            phase: Phase::Reading,
            f: 0,
            flag,
            notified: false,
            next_xid: 10,
            completed: 9,
            writers: [Writer::Idle { left: TRANSACTIONS }; WRITERS],
            unread: 0,
        }
    }

    /// Two worlds with the same key have the same future.
    fn key(&self) -> String {
        let WakeUp { state, hits, empty_reads, .. } = &self.machine;
        let counts = (hits.min(&HITS_UNTIL_AWAKE), empty_reads.min(&EMPTY_READS_UNTIL_DROWSY));
        let ids = (self.f, self.next_xid, self.completed);
        let reader = (state, counts, self.phase, self.flag, self.notified);
        format!("{reader:?}{ids:?}{:?}{}", self.writers, self.unread)
    }

    fn xmin(&self) -> u64 {
        let open = self.writers.iter().filter_map(|writer| match writer {
            Writer::Drawn { xid, .. } | Writer::Ready { xid, .. } => Some(*xid),
            Writer::Idle { .. } | Writer::Looked { .. } => None,
        });
        // Without an open one it is the snapshot's xmax.
        open.min().unwrap_or(self.completed + 1)
    }

    fn draw(&mut self) -> u64 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    /// The next worlds by a step of one writer; a transaction may also be rolled back.
    fn write(&self, number: usize, mistake: Mistake) -> Vec<Self> {
        let mut next = self.clone();
        next.writers[number] = match self.writers[number] {
            Writer::Idle { left: 0 } => return Vec::new(),
            Writer::Idle { left } if mistake == Mistake::LooksBeforeDrawing => {
                Writer::Looked { left: left - 1, notifies: !self.flag }
            }
            Writer::Idle { left } => Writer::Drawn { left: left - 1, xid: next.draw() },
            Writer::Looked { left, notifies } => Writer::Ready { left, xid: next.draw(), notifies },
            Writer::Drawn { left, xid } => Writer::Ready { left, xid, notifies: !self.flag },
            Writer::Ready { left, xid, notifies } => {
                next.writers[number] = Writer::Idle { left };
                next.completed = next.completed.max(xid);
                let rolled_back = next.clone();
                next.unread += 1;
                next.notified |= notifies;
                return vec![next, rolled_back];
            }
        };
        vec![next]
    }

    /// The next world by a step of the reader, if it is not asleep.
    fn read(&self, mistake: Mistake) -> Option<Self> {
        let mut next = self.clone();
        next.phase = match self.phase {
            Phase::Sleeping if !self.notified => return None,
            Phase::Sleeping | Phase::Polling => {
                next.notified = false;
                Phase::Reading
            }
            Phase::Reading => {
                let found = std::mem::take(&mut next.unread);
                let action = match found {
                    0 => next.machine.found_nothing(self.xmin(), self.flag),
                    _ => next.machine.found(found, true),
                };
                match action {
                    Action::ReadNow | Action::Pause(_) => Phase::Reading,
                    Action::SetAwake => Phase::Setting,
                    Action::SetAsleep if mistake == Mistake::DrawsBeforeClearing => Phase::Drawing,
                    Action::SetAsleep => Phase::Clearing,
                    Action::Wait(BACKSTOP) => Phase::Sleeping,
                    Action::Wait(_) => Phase::Polling,
                }
            }
            Phase::Setting => {
                next.flag = true;
                Phase::Reading
            }
            Phase::Clearing => {
                next.flag = false;
                if mistake == Mistake::DrawsBeforeClearing {
                    next.machine.drew(self.f);
                    Phase::Reading
                } else {
                    Phase::Drawing
                }
            }
            Phase::Drawing => {
                if mistake == Mistake::XmaxForF {
                    next.f = self.completed + 1;
                } else {
                    // Its transaction ends at once.
                    next.f = next.draw();
                    next.completed = next.f;
                }
                match mistake {
                    Mistake::DrawsBeforeClearing => Phase::Clearing,
                    Mistake::NoReadAfterF => {
                        next.machine.state = State::Asleep;
                        Phase::Sleeping
                    }
                    _ => {
                        next.machine.drew(next.f);
                        Phase::Reading
                    }
                }
            }
        };
        Some(next)
    }

    fn is_lost(&self) -> bool {
        let done = self.writers.iter().all(|writer| matches!(writer, Writer::Idle { left: 0 }));
        done && self.phase == Phase::Sleeping && !self.notified && self.unread > 0
    }
}

/// How many worlds there are, and whether a wake-up is lost in one of them.
fn explore(mistake: Mistake) -> (usize, bool) {
    let starts =
        [(State::Unknown, false), (State::Unknown, true), (State::Awake, true), (State::Asleep, false)];
    let mut open: Vec<World> = starts.map(|(state, flag)| World::new(state, flag)).into();
    let mut known: HashSet<String> = open.iter().map(World::key).collect();
    let mut lost = false;
    while let Some(world) = open.pop() {
        lost |= world.is_lost();
        let writes = (0..WRITERS).flat_map(|number| world.write(number, mistake));
        for next in writes.chain(world.read(mistake)) {
            if known.insert(next.key()) {
                open.push(next);
            }
        }
    }
    (known.len(), lost)
}

#[test]
fn no_wake_up_is_lost_in_any_interleaving() {
    let (worlds, lost) = explore(Mistake::None);
    assert!(worlds > 10_000, "only {worlds} worlds");
    assert!(!lost);
}

#[test]
fn xmax_in_place_of_a_drawn_id_loses_wake_ups() {
    assert!(explore(Mistake::XmaxForF).1);
}

#[test]
fn drawing_before_clearing_loses_wake_ups() {
    assert!(explore(Mistake::DrawsBeforeClearing).1);
}

#[test]
fn sleeping_without_a_read_after_the_id_was_drawn_loses_wake_ups() {
    assert!(explore(Mistake::NoReadAfterF).1);
}

#[test]
fn looking_at_the_flag_before_drawing_an_id_loses_wake_ups() {
    assert!(explore(Mistake::LooksBeforeDrawing).1);
}
