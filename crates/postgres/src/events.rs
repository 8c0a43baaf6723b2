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
            event.event_id = Some(format!("{}/{position}", change_set.id));
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

fn operation(kind: ChangeKind) -> Operation {
    match kind {
        ChangeKind::Insert => Operation::Create,
        ChangeKind::Update => Operation::Update,
        ChangeKind::Delete => Operation::Delete,
        ChangeKind::Truncate => Operation::Truncate,
    }
}
