//! One step of a holder: a batch is read, claimed, and handed out in parts.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use dapper_core::{Delivery, Entry, Stored, Terms};
use futures::future::{Either, select};

use super::{Ahead, HANDED_OUT_AT_ONCE, Holder, ISOLATE_AFTER, LIMITS, MAX_OUTSTANDING_EVENTS, Outstanding};
use crate::PostgresError;
use crate::progress::{Chunk, Claimed, NextRead, Position};
use crate::reader::ChangeSet;
use crate::wake_up::Action;

impl Holder<'_> {
    /// Reads one batch, claims it and hands it out. While more is left, the next one is read behind the claim, and
    /// is there when this one is in the processes' hands.
    pub(super) async fn step(&mut self) -> Result<Action, PostgresError> {
        // An empty one says nothing of now.
        let Ahead { batch, attempt } = match self.ahead.take() {
            Some(ahead) if !ahead.batch.change_sets.is_empty() => ahead,
            _ => {
                let (next, inherited, attempt) = self.next_read();
                let events = self.max_unsettled / 2;
                let began = Instant::now();
                let batch = self.reader.read(self.client, &next, inherited.as_ref(), events).await?;
                self.meter.read(began);
                self.slot = batch.wake_up / 2;
                Ahead { batch, attempt }
            }
        };
        reach!(AfterRead);
        let awake_flag = batch.wake_up % 2 == 1;
        let snapshot = batch.snapshot;
        let xmin = snapshot.xmin;
        if batch.change_sets.is_empty() {
            self.progress.claim(Chunk { snapshot, last_seq: None, exhausted: batch.exhausted });
            // Only when nothing new is there is it worth a commit of its own to record what was handled. If a crash undoes
            // that, it comes again, marked.
            self.save(false).await?;
            return Ok(self.wake_up.found_nothing(xmin, awake_flag));
        }
        let (found, exhausted) = (batch.change_sets.len(), batch.exhausted);
        let parts = parts(batch.change_sets);
        for (place, part) in (1..).zip(&parts) {
            let last_seq = part.last().map(|last| last.seq);
            let exhausted = exhausted && place == parts.len();
            self.progress.claim(Chunk { snapshot: snapshot.clone(), last_seq, exhausted });
        }
        // The claim: fences, counts the attempt, and flushes everything that was read.
        reach!(BeforeClaim);
        if exhausted || is_large(&parts) {
            self.save(true).await?;
            reach!(AfterClaim);
            self.hand_out(parts, attempt).await?;
        } else {
            let (next, inherited, attempt_ahead) = self.next_read();
            let events = self.max_unsettled / 2;
            let began = Instant::now();
            let mut fetch = pin!(self.reader.fetch(self.client, &next, inherited.as_ref(), events));
            let fetched = {
                let save = pin!(self.save(true));
                match select(save, fetch.as_mut()).await {
                    Either::Left((saved, _)) => {
                        saved?;
                        None
                    }
                    Either::Right((fetched, save)) => {
                        save.await?;
                        Some(fetched)
                    }
                }
            };
            reach!(AfterClaim);
            self.hand_out(parts, attempt).await?;
            let fetched = match fetched {
                Some(fetched) => fetched?,
                None => fetch.await?,
            };
            self.meter.read(began);
            self.ahead = self.reader.take(fetched)?.map(|batch| Ahead { batch, attempt: attempt_ahead });
            if let Some(Ahead { batch, .. }) = &self.ahead {
                self.slot = batch.wake_up / 2;
            }
        }
        reach!(AfterHandOut);
        Ok(self.wake_up.found(found, exhausted))
    }

    /// Where to read next, what of it may be a repeat, and as which attempt that is to be delivered.
    fn next_read(&self) -> (NextRead, Option<Claimed>, u32) {
        let next = self.progress.next_read();
        match self.progress.inherited() {
            Some((claimed, attempt)) => (next, Some(claimed.clone()), attempt),
            None => (next, None, 1),
        }
    }

    async fn hand_out(&mut self, parts: Vec<Vec<ChangeSet>>, attempt: u32) -> Result<(), PostgresError> {
        for part in parts {
            self.hand_out_part(&part, attempt).await?;
        }
        Ok(())
    }

    async fn hand_out_part(&mut self, part: &[ChangeSet], attempt: u32) -> Result<(), PostgresError> {
        let mut events = Vec::with_capacity(part.iter().map(|change_set| change_set.changes).sum());
        let mut ends = Vec::with_capacity(part.len());
        let mut is_repeat = false;
        for change_set in part {
            let attempt = if change_set.claimed_before { attempt } else { 1 };
            is_repeat |= change_set.claimed_before;
            self.stamp.events(change_set, attempt, &mut events)?;
            ends.push((change_set.seq, events.len()));
        }
        let count = events.len();
        let bytes = bytes_of(part);
        // No more than so many were in a predecessor's hands, whatever the row says of a promoted server.
        let isolate = is_repeat && self.crashes >= ISOLATE_AFTER && self.isolated < MAX_OUTSTANDING_EVENTS;
        self.isolated += if isolate { count } else { 0 };
        let terms = Terms {
            validity: Some(Arc::clone(&self.validity)),
            parking: Some(self.parked.of_change_sets(&ends)),
            entry: if isolate { Entry::Isolated } else { Entry::Start },
            stored: if is_repeat {
                self.parked.stored(self.client, &events).await?
            } else {
                Stored::default()
            },
        };
        let (delivery, receipt) = Delivery::with_terms(events, terms);
        self.meter.handed_out(count, is_repeat);
        if !self.lease.is_valid() {
            return Err(PostgresError::LeaseLost {
                resource: self.options.names.schema.clone(),
                reason: "it ended before the hand-off".into(),
            });
        }
        let since = Instant::now();
        self.sink.send(delivery).await.map_err(|_| PostgresError::SinkClosed)?;
        self.outstanding.push_back(Outstanding { receipt, since, events: count, bytes, ends });
        Ok(())
    }

    /// Writes the cursor row if it says something else; `durable` when something is handed out after it.
    pub(super) async fn save(&mut self, durable: bool) -> Result<(), PostgresError> {
        if self.progress.is_dirty() {
            reach!(BeforeAdvance);
            let mut position = self.progress.position();
            if is_broken!(ClaimBeforeDeliver) {
                position = Position { claimed: None, attempt: 0, ..position };
            }
            self.count();
            let began = Instant::now();
            if durable {
                self.cursor.save(self.client, &position).await?;
            } else {
                self.cursor.leave(self.client, &position).await?;
            }
            self.meter.claimed(began);
            reach!(AfterAdvance);
            self.progress.saved();
        }
        Ok(())
    }
}

/// A batch, cut into what is handed out together.
fn parts(change_sets: Vec<ChangeSet>) -> Vec<Vec<ChangeSet>> {
    let mut parts: Vec<Vec<ChangeSet>> = Vec::new();
    let mut changes = HANDED_OUT_AT_ONCE;
    for change_set in change_sets {
        if changes >= HANDED_OUT_AT_ONCE {
            parts.push(Vec::new());
            changes = 0;
        }
        changes += change_set.changes;
        if let Some(part) = parts.last_mut() {
            part.push(change_set);
        }
    }
    parts
}

fn bytes_of(part: &[ChangeSet]) -> usize {
    part.iter().map(|change_set| change_set.payload.len()).sum()
}

/// Whether a batch is so large that no other one is to be in memory beside it.
fn is_large(parts: &[Vec<ChangeSet>]) -> bool {
    parts.iter().map(|part| bytes_of(part)).sum::<usize>() > 2 * LIMITS.bytes as usize
}
