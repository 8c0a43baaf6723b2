//! From a change set to events.

use std::sync::Arc;

use dapper_core::{Event, Operation};
use dapper_payload::ChangeKind;

use crate::PostgresError;
use crate::reader::ChangeSet;

/// What every event of one holder has in common.
pub(crate) struct Stamp {
    pub(crate) trigger: Arc<str>,
    pub(crate) token: u64,
    pub(crate) operations: Vec<Operation>,
}

impl Stamp {
    /// Appends the events of a change set that are wanted, in order, and returns how many.
    pub(crate) fn events(
        &self,
        change_set: &ChangeSet,
        attempt: u32,
        into: &mut Vec<Event>,
    ) -> Result<usize, PostgresError> {
        let payload = dapper_payload::parse(&change_set.payload)
            .map_err(|source| PostgresError::ChangeSet { seq: change_set.seq, source })?;
        let operation = operation(payload.kind());
        if !self.operations.contains(&operation) {
            return Ok(0);
        }
        let location: Arc<str> = payload.location().into();
        let before = into.len();
        for (position, change) in payload.changes().enumerate() {
            let mut event =
                Event::new(Arc::clone(&location), operation, change.id(), Arc::clone(&self.trigger));
            event.event_id = Some(event_id(&change_set.id, position));
            event.attempt = Some(attempt);
            event.token = Some(self.token);
            event.key = change.key_json().map(Into::into);
            event.old = change.old_json().map(Into::into);
            event.new = change.new_json().map(Into::into);
            event.captured_at = Some(Arc::clone(&change_set.captured_at));
            into.push(event);
        }
        Ok(into.len() - before)
    }
}

/// The change set's id and the position in it.
fn event_id(change_set: &str, position: usize) -> String {
    let digits = position.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut text = String::with_capacity(change_set.len() + 1 + digits);
    text.push_str(change_set);
    text.push('/');
    for place in (0..digits as u32).rev() {
        text.push(char::from(b'0' + (position / 10_usize.pow(place) % 10) as u8));
    }
    text
}

fn operation(kind: ChangeKind) -> Operation {
    match kind {
        ChangeKind::Insert => Operation::Create,
        ChangeKind::Update => Operation::Update,
        ChangeKind::Delete => Operation::Delete,
        ChangeKind::Truncate => Operation::Truncate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_the_change_sets_and_a_number() {
        for position in [0, 1, 9, 10, 99, 100, 999, 1_000, 4_294_967_296] {
            assert_eq!(event_id("set", position), format!("set/{position}"));
        }
    }
}
