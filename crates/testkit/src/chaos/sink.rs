//! What the receivers were sent, in few bytes for each event. One [`Link`] for each link of the pipeline.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::ledger::{CYCLE, Table};
use crate::history::Operation;

/// Findings in words that are kept of each kind.
const FINDINGS: usize = 20;
const OPERATION_BITS: u32 = 2;

/// The history of one link.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: Mutex<State>,
}

/// How a receiver behaves at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Mood {
    #[default]
    Fine,
    /// Answers after a while.
    Slow,
    /// Answers 500 for some keys.
    Failing,
    /// Takes some events and answers so late that nobody waits any more.
    Hanging,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) after: Duration,
}

/// Numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests.
    pub(super) arrivals: u64,
    /// Different events that were taken.
    pub(super) events: u64,
    pub(super) repeats_marked: u64,
    pub(super) repeats_unmarked: u64,
    /// Events taken before an earlier change of their key, by the time of capture.
    pub(super) out_of_order: u64,
    /// Requests refused because a higher token had been seen.
    pub(super) stale_refused: u64,
    pub(super) malformed: u64,
    /// The highest token seen.
    pub(super) token: u64,
}

/// What came of one key, first deliveries only.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Key {
    /// The operations of the first ones, two bits each, the first in the lowest.
    operations: u64,
    /// How many.
    pub(super) count: u32,
    /// The latest time of capture, in microseconds.
    captured: i64,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    last_event: Option<Instant>,
    mood: Mood,
    /// For each change set and each 64 positions in it, which came at all and which were taken.
    seen: HashMap<(u128, u32), (u64, u64)>,
    keys: HashMap<(Table, u64), Key>,
    findings: Vec<String>,
}

struct Arrival {
    id: u128,
    position: u32,
    token: u64,
    attempt: u64,
    key: (Table, u64),
    operation: Operation,
    captured: i64,
}

impl Link {
    /// Takes in one request, and says how to answer.
    pub(super) fn arrive(&self, body: &[u8]) -> Answer {
        let parsed = serde_json::from_slice(body).ok().as_ref().and_then(Arrival::read);
        let mut state = self.lock();
        state.counts.arrivals += 1;
        let Some(arrival) = parsed else {
            state.counts.malformed += 1;
            state.find(|| format!("malformed: {}", String::from_utf8_lossy(body)));
            return Answer::OK;
        };
        // What the documentation tells a process to do.
        if arrival.token < state.counts.token {
            state.counts.stale_refused += 1;
            return Answer { status: 409, after: Duration::ZERO };
        }
        state.counts.token = arrival.token;
        let answer = state.mood.answer(&arrival);
        state.record(&arrival, answer.status == 200);
        answer
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// How long ago the last event came that had not come before.
    pub(super) fn quiet_for(&self) -> Duration {
        self.lock().last_event.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// All keys, as they are now.
    pub(super) fn keys(&self) -> HashMap<(Table, u64), Key> {
        self.lock().keys.clone()
    }

    pub(super) fn findings(&self) -> Vec<String> {
        self.lock().findings.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    const OK: Self = Self { status: 200, after: Duration::ZERO };
}

impl Mood {
    fn answer(self, arrival: &Arrival) -> Answer {
        // One key is treated alike for as long as the mood lasts.
        let share = arrival.key.1.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        match self {
            Self::Fine => Answer::OK,
            Self::Slow => Answer { after: Duration::from_millis(5 + share * 4), ..Answer::OK },
            Self::Failing if share < 5 => Answer { status: 500, after: Duration::ZERO },
            Self::Hanging if share < 2 => Answer { after: super::HOOK_TIMEOUT * 2, ..Answer::OK },
            Self::Failing | Self::Hanging => Answer::OK,
        }
    }
}

impl State {
    fn record(&mut self, arrival: &Arrival, taken: bool) {
        let Arrival { id, position, attempt, token, key, operation, captured } = *arrival;
        let bit = 1_u64 << (position % 64);
        let (seen, was_taken) = self.seen.entry((id, position / 64)).or_default();
        let (repeat, first_taken) = (*seen & bit != 0, taken && *was_taken & bit == 0);
        *seen |= bit;
        if taken {
            *was_taken |= bit;
        }
        if repeat && attempt >= 2 {
            self.counts.repeats_marked += 1;
        } else if repeat {
            self.counts.repeats_unmarked += 1;
            self.find(|| {
                let id = uuid::Uuid::from_u128(id);
                format!("repeated unmarked: {id}/{position}, {} {}, token {token}", key.0.name(), key.1)
            });
        }
        if !first_taken {
            return;
        }
        self.counts.events += 1;
        self.last_event = Some(Instant::now());
        let record = self.keys.entry(key).or_default();
        let late = captured < record.captured;
        record.push(operation, captured);
        if late {
            self.counts.out_of_order += 1;
            self.find(|| {
                format!(
                    "out of order: {} {}: an earlier change after a later one, token {token}",
                    key.0.name(),
                    key.1
                )
            });
        }
    }

    fn find(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS {
            self.findings.push(finding());
        }
    }
}

impl Key {
    fn push(&mut self, operation: Operation, captured: i64) {
        if self.count < u64::BITS / OPERATION_BITS {
            let code = CYCLE.iter().position(|other| *other == operation).unwrap_or(3) as u64;
            self.operations |= code << (self.count * OPERATION_BITS);
        }
        self.count += 1;
        self.captured = self.captured.max(captured);
    }

    /// Its operations, as far as there is room for them.
    pub(super) fn operations(&self) -> Vec<Operation> {
        let kept = self.count.min(u64::BITS / OPERATION_BITS);
        let code = |index: u32| (self.operations >> (index * OPERATION_BITS)) & 3;
        let name =
            |code: u64| CYCLE.get(usize::try_from(code).unwrap_or(3)).copied().unwrap_or(Operation::Other);
        (0..kept).map(|index| name(code(index))).collect()
    }

    /// Whether they are the first ones of [`CYCLE`]; quick.
    pub(super) fn is_regular(&self) -> bool {
        let mut all = self.operations;
        (0..self.count.min(u64::BITS / OPERATION_BITS)).all(|index| {
            let code = all & 3;
            all >>= OPERATION_BITS;
            code == u64::from(index % 3)
        })
    }
}

impl Arrival {
    fn read(event: &Value) -> Option<Self> {
        let text = |member: &str| event.get(member)?.as_str();
        let (id, position) = text("event_id")?.rsplit_once('/')?;
        let table = Table::from_name(text("location")?)?;
        Some(Self {
            id: uuid::Uuid::parse_str(id).ok()?.as_u128(),
            position: position.parse().ok()?,
            token: event.get("token")?.as_u64()?,
            attempt: event.get("attempt")?.as_u64()?,
            key: (table, table.number(text("id")?)?),
            operation: Operation::from_word(text("operation")?),
            captured: text("captured_at")?.parse::<Timestamp>().ok()?.as_microsecond(),
        })
    }
}

/// An HTTP server that records in a link, until it is dropped.
#[derive(Debug)]
pub(super) struct Hook {
    address: std::net::SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Hook {
    pub(super) async fn start(link: Arc<Link>) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = axum::Router::new().fallback(receive).with_state(link);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                crate::say(&format!("the receiver stopped: {error}"));
            }
        });
        Ok(Self { address, server })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(
    axum::extract::State(link): axum::extract::State<Arc<Link>>,
    body: axum::body::Bytes,
) -> axum::http::StatusCode {
    let answer = link.arrive(&body);
    if !answer.after.is_zero() {
        tokio::time::sleep(answer.after).await;
    }
    axum::http::StatusCode::from_u16(answer.status).unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(position: u32, operation: &str, second: u32, token: u64, attempt: u64) -> Vec<u8> {
        format!(
            r#"{{"location":"orders","operation":"{operation}","id":"7","trigger":"chaos",
              "event_id":"6f0c6a52-0000-4000-8000-000000000000/{position}","attempt":{attempt},"token":{token},
              "captured_at":"2026-01-01T12:00:{second:02}.000000Z"}}"#
        )
        .into_bytes()
    }

    #[test]
    fn each_sin_is_counted_once() {
        let link = Link::default();
        for (position, operation, second, token, attempt) in [
            (0, "create", 1, 1, 1),
            (1, "update", 2, 2, 1),
            (0, "create", 1, 2, 2),
            (0, "create", 1, 2, 1),
            (3, "delete", 4, 1, 1),
            (3, "delete", 4, 2, 1),
            (2, "update", 3, 2, 1),
        ] {
            link.arrive(&event(position, operation, second, token, attempt));
        }
        link.arrive(b"nonsense");
        let counts = link.counts();
        let sins =
            (counts.repeats_marked, counts.repeats_unmarked, counts.out_of_order, counts.stale_refused);
        assert_eq!((counts.events, sins, counts.malformed), (4, (1, 1, 1, 1), 1));
        let key = link.keys()[&(Table::ORDERS, 7)];
        use Operation::{Create, Delete, Update};
        assert_eq!((key.operations(), key.is_regular()), (vec![Create, Update, Delete, Update], false));
    }

    #[test]
    fn what_was_not_taken_is_no_event_and_its_repeat_must_be_marked() {
        let link = Link::default();
        let send = |number: u32| {
            let body = String::from_utf8(event(number, "create", 1, 1, 1)).unwrap();
            link.arrive(body.replace("\"id\":\"7\"", &format!("\"id\":\"{number}\"")).as_bytes()).status
        };
        link.set_mood(Mood::Failing);
        let refused = (0..100).find(|&number| send(number) == 500).unwrap();
        assert!(!link.keys().contains_key(&(Table::ORDERS, refused.into())));
        link.set_mood(Mood::Fine);
        let before = link.counts();
        assert_eq!((send(refused), link.counts().events), (200, before.events + 1));
        assert_eq!((before.repeats_unmarked, link.counts().repeats_unmarked), (0, 1));
    }
}
