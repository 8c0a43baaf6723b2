//! What one transaction writes to `parked` and `dead_letters`.

use std::collections::BTreeSet;

use dapper_core::{Event, Fate, Settle};

use super::handle::Sent;

/// Rows to be made, column by column.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) event_ids: Vec<String>,
    pub(crate) processes: Vec<String>,
    pub(crate) lanes: Vec<i64>,
    pub(crate) seqs: Vec<i64>,
    pub(crate) positions: Vec<i32>,
    pub(crate) locations: Vec<String>,
    pub(crate) ids: Vec<String>,
    pub(crate) events: Vec<String>,
    pub(crate) attempts: Vec<i32>,
    pub(crate) tries: Vec<i32>,
    pub(crate) errors: Vec<Option<String>>,
    pub(crate) suspicions: Vec<i16>,
    pub(crate) after_ms: Vec<i64>,
    pub(crate) crashes_left: Vec<i32>,
}

/// What is counted of a row.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) attempt: i32,
    pub(crate) tries: i32,
    pub(crate) crashes_left: i32,
}

/// Why a row is there, and when it may be tried.
#[derive(Default)]
pub(crate) struct Reason {
    pub(crate) error: Option<String>,
    pub(crate) suspect: bool,
    pub(crate) after_ms: i64,
}

/// Rows to be put back.
#[derive(Debug, Default)]
pub(crate) struct PutBack {
    pub(crate) numbers: Vec<i64>,
    pub(crate) tries: Vec<i32>,
    pub(crate) errors: Vec<String>,
    pub(crate) after_ms: Vec<i64>,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) park: Rows,
    /// Rows to be made unless the event is stored for one of these processes.
    pub(crate) joins: Vec<(Rows, Vec<String>)>,
    pub(crate) bury: Rows,
    pub(crate) put_back: PutBack,
    pub(crate) unclaim: Vec<i64>,
    pub(crate) remove: Vec<i64>,
    pub(crate) lanes: BTreeSet<i64>,
    /// Lanes that were marked as held for what is on its way here.
    pub(crate) marked: Vec<i64>,
    /// To be told once it is written.
    pub(crate) settle: Vec<Settle>,
    pub(crate) bytes: usize,
}

impl Rows {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Adds what a parcel says; a fate that says no more leaves the rest at nothing.
    fn push(&mut self, sent: &Sent) -> usize {
        let parcel = &sent.parcel;
        let event = &parcel.event;
        let told = event.attempt.unwrap_or(1);
        let (attempt, tries, error, suspect, after) = match &parcel.fate {
            Fate::Retry { tries, after, error } => (told, *tries, Some(error), false, Some(*after)),
            Fate::Dead { tries, error } => (told, *tries, Some(error), false, None),
            Fate::Untried { suspect } => (told.saturating_sub(1), 0, None, *suspect, None),
            Fate::Joined { .. } => (told.saturating_sub(1), 0, None, false, None),
        };
        self.add(
            event,
            &parcel.process,
            (sent.lane, sent.source.seq, sent.source.position),
            Counts {
                attempt: to_sql(attempt),
                tries: to_sql(tries),
                crashes_left: to_sql(parcel.max_crashes),
            },
            Reason {
                error: error.map(|text| storable(text)),
                suspect,
                after_ms: milliseconds(after.unwrap_or_default()),
            },
        )
    }

    /// Adds a row; returns the size of its event.
    pub(crate) fn add(
        &mut self,
        event: &Event,
        process: &str,
        (lane, seq, position): (i64, i64, i32),
        counts: Counts,
        reason: Reason,
    ) -> usize {
        let json = event.to_json();
        let bytes = json.len();
        self.event_ids.push(event.event_id.clone().unwrap_or_default());
        self.processes.push(process.to_owned());
        self.lanes.push(lane);
        self.seqs.push(seq);
        self.positions.push(position);
        self.locations.push(event.location.to_string());
        self.ids.push(event.id.clone());
        self.events.push(json);
        self.attempts.push(counts.attempt);
        self.tries.push(counts.tries);
        self.errors.push(reason.error);
        self.suspicions.push(reason.suspect.into());
        self.after_ms.push(reason.after_ms);
        self.crashes_left.push(counts.crashes_left);
        bytes
    }
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.unclaim.is_empty()
    }

    /// Adds a parcel that goes to the table now. A row that is put back or buried is in hand no more.
    pub(crate) fn add(&mut self, sent: Sent) {
        self.lanes.insert(sent.lane);
        if sent.marked {
            self.marked.push(sent.lane);
        }
        match (&sent.parcel.fate, sent.source.row) {
            (Fate::Retry { tries, after, error }, Some(number)) => {
                self.put_back.numbers.push(number);
                self.put_back.tries.push(to_sql(*tries));
                self.put_back.errors.push(storable(error));
                self.put_back.after_ms.push(milliseconds(*after));
            }
            (Fate::Dead { .. }, row) => {
                self.bytes += self.bury.push(&sent);
                self.remove.extend(row);
            }
            (Fate::Joined { unless }, _) => {
                let mut rows = Rows::default();
                self.bytes += rows.push(&sent);
                self.joins.push((rows, unless.clone()));
            }
            (Fate::Retry { .. } | Fate::Untried { .. }, _) => self.bytes += self.park.push(&sent),
        }
        self.settle.push(sent.parcel.settle);
    }

    /// Adds a row that is done.
    pub(crate) fn finish(&mut self, number: i64, lane: i64) {
        self.remove.push(number);
        self.lanes.insert(lane);
    }
}

/// No text of PostgreSQL can hold NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn to_sql(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn milliseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
