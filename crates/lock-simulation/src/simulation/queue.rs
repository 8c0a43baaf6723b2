//! What is going to happen, in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dapper_lock::FencingToken;

use super::world::Waiter;
use crate::RowRequest;
use crate::driver::{Answer, Ask, CallId};
use crate::store::{Caller, SessionId};

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

/// All that is going to happen.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// In one number the time, the order among those of one time, and where it is kept: what is moved about in the heap
    /// is small and soon compared.
    entries: BinaryHeap<Reverse<u128>>,
    kept: Vec<Option<Happening>>,
    free: Vec<u32>,
    pushed: u32,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, happening: Happening) {
        self.pushed += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.kept.push(None);
            self.kept.len() as u32 - 1
        });
        self.kept[index as usize] = Some(happening);
        let order = u64::from(self.pushed) << 32 | u64::from(index);
        self.entries.push(Reverse(u128::from(at) << 64 | u128::from(order)));
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Happening)> {
        let Reverse(entry) = self.entries.pop()?;
        let index = entry as u32;
        self.free.push(index);
        Some(((entry >> 64) as u64, self.kept[index as usize].take()?))
    }
}
