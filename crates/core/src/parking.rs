//! The seam between whoever runs processes and an input that can store what they can't handle now.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Event;

/// Where an input keeps, beyond the life of this program, events that a process can't handle now: they are *parked*,
/// tried again later in the order of their key, and at last *dead letters*.
///
/// An input that has such a place attaches it to its deliveries. One that has not leaves it out; then whoever runs the
/// processes holds a failing event, and those of its key behind it, in memory.
///
/// # What an implementer owes
/// - Neither method waits.
/// - From the return of [`store`](Self::store) until nothing of that key is parked at that process any more,
///   [`is_held`](Self::is_held) says true, whoever asks.
/// - Parcels of one key and process are stored in the order of the calls.
/// - A parcel's [`Settle`] is called once it can't be lost any more, and dropped when that can't be had.
pub trait Parking: Send + Sync {
    /// Whether something of this event's key is parked at the process, so that this event has to be stored behind it.
    /// May say true without need.
    fn is_held(&self, process: &str, event: &Event) -> bool;

    /// Takes over one event for one process.
    fn store(&self, parcel: Parcel);
}

/// One event that one process does not get now, and why.
#[derive(Debug)]
pub struct Parcel {
    /// The process's id.
    pub process: String,
    /// The event; its `attempt` is what the process was told, or is to be told at its first try.
    pub event: Event,
    /// Its place in the delivery that it came with.
    pub index: usize,
    /// How often a program may die of it, while it tries nothing else, before it is a dead letter.
    pub max_crashes: u32,
    /// What is to become of it.
    pub fate: Fate,
    /// To be told when it is stored.
    pub settle: Settle,
}

/// What is to become of a [`Parcel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process failed and is to try again.
    Retry {
        /// How often it has tried.
        tries: u32,
        /// How long it is to be left alone.
        after: Duration,
        /// How it failed.
        error: String,
    },
    /// The process has not tried.
    Untried {
        /// Whether it may be what kills the program: then it is tried while nothing else is but other suspects, and at
        /// last alone.
        suspect: bool,
    },
    /// The process was given it for the last time.
    Dead {
        /// How often it has tried.
        tries: u32,
        /// How it failed.
        error: String,
    },
    /// The process comes after several others. It has not tried, and is to once the event is done at the process that it
    /// was resumed at, unless it is parked or dead at one of `unless`: then whatever ends that lets it try.
    Joined {
        /// The ids of all processes on the way to it.
        unless: Vec<String>,
    },
}

/// Says that a [`Parcel`] is stored. Dropping it says that it is not, and will not be.
pub struct Settle(Box<dyn FnOnce() + Send>);

/// Where the events of a delivery enter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// At the processes that are linked to the input.
    #[default]
    Start,
    /// There, but none of them may be tried before it was stored: programs have died while they had these events.
    Isolated,
    /// At one process, where the event was parked.
    Resumed {
        /// The process's id.
        process: String,
        /// How often it has tried, this time included.
        tries: u32,
        /// Whether it may be what kills the program: then what comes after this process is to be stored first, too.
        suspect: bool,
    },
}

/// At which processes an event of a delivery is stored already, so that it must not be handed to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Place in the delivery and process id, in the order of the places.
    pub at: Vec<(usize, String)>,
}

impl Stored {
    /// The processes at which the event with that place is stored.
    pub fn of(&self, index: usize) -> impl Iterator<Item = &str> {
        let from = self.at.partition_point(|(at, _)| *at < index);
        self.at[from..].iter().take_while(move |(at, _)| *at == index).map(|(_, process)| process.as_str())
    }
}

/// A [`Parking`] shared by the events of a delivery.
pub(crate) type SharedParking = Arc<dyn Parking>;

impl Settle {
    /// Calls `stored` when the parcel is stored.
    pub fn new(stored: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(stored))
    }

    /// The parcel can't be lost any more.
    pub fn stored(self) {
        (self.0)();
    }
}

impl fmt::Debug for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_found_by_its_place() {
        let at = [(1, "a"), (1, "b"), (4, "a")].map(|(at, process)| (at, process.to_owned()));
        let stored = Stored { at: at.into() };
        let of = |index| stored.of(index).collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(4), of(5)), (vec![], vec!["a", "b"], vec!["a"], vec![]));
    }
}
