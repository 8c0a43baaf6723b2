//! What is going to happen, in the order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use dapper_lock::FencingToken;

use crate::driver::{Answer, Ask, CallId};
use crate::store::{Caller, SessionId};
use super::world::Waiter;
use crate::RowRequest;

/// One driver of one start of a node's process. What is sent to an earlier start reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) seat: usize,
    pub(crate) start: u32,
}

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A driver's timer fires.
    Wake(usize),
    /// The user of a driver has an idea.
    Idea(Address),
    /// A call arrives at the store.
    Call { from: Address, call: CallId, caller: Caller, ask: Ask },
    /// The store's answer arrives.
    Answer { to: Address, session: Option<SessionId>, call: CallId, answer: Answer },
    /// The store's own time limit of a wait is over.
    WaitOver(Waiter),
    /// A request arrives at the row.
    RowCall { from: Address, call: CallId, caller: Caller, request: RowRequest },
    /// The row's answer arrives.
    RowAnswer { to: Address, call: CallId, accepted: bool },
    /// The client hears that its session, and with it the term, is over.
    TermEnded { to: Address, session: SessionId, token: FencingToken },
    /// The store hears that a session's client is gone.
    Goodbye(SessionId),
    /// The store's patience with a silent node is over, unless it was heard of since.
    Patience { node: usize, silence: u32 },
    /// The next fault.
    Fault,
    /// A frozen or suspended node goes on.
    Resume(usize),
    /// A killed process starts again.
    Boot(usize),
    /// All directions of a node's network work again.
    Mend(usize),
    /// The store is back.
    StoreUp,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    order: u64,
    happening: Happening,
}

/// All that is going to happen.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, happening: Happening) {
        self.pushed += 1;
        self.entries.push(Reverse(Entry { at, order: self.pushed, happening }));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Happening)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.happening))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
