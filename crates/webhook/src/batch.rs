//! Puts events that run at the same time into one call.
//!
//! The events of a batch share one future, which waits, closes the batch, and makes the call. Whichever of them is polled
//! drives it; when one is dropped, the others go on, and the event goes with them only if the batch was closed before. When
//! all are dropped, so is the call. Nothing is spawned, and nothing is left behind.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dapper_core::Event;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use ring::digest::{SHA256, digest};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::WebhookError;
use crate::caller::{Answer, Caller, Message};
use crate::settings::Batch;

/// A batch is closed before its body becomes larger, unless one event alone makes it so.
const MAX_BATCH_BYTES: usize = 1 << 20;

type Outcome = Result<Answer, Arc<WebhookError>>;
type Call = Shared<BoxFuture<'static, (usize, Outcome)>>;

/// Collects events and makes calls with several of them.
pub(crate) struct Batcher {
    caller: Arc<Caller>,
    batch: Batch,
    /// The batch that takes in events, if there is one.
    forming: Mutex<Option<Forming>>,
}

struct Forming {
    members: Arc<Members>,
    /// Gone when all of the batch's events were dropped.
    call: WeakShared<BoxFuture<'static, (usize, Outcome)>>,
}

/// The events of a batch.
#[derive(Default)]
struct Members {
    state: Mutex<State>,
    /// Told when no more fits.
    full: Notify,
}

#[derive(Default)]
struct State {
    events: Vec<Member>,
    bytes: usize,
    closed: bool,
}

/// An event that is to be sent unless its run was dropped.
struct Member {
    message: Message,
    trigger: Arc<str>,
    wanted: Arc<AtomicBool>,
}

/// Takes an event out of a batch that is not closed yet.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Batcher {
    pub(crate) fn new(caller: Arc<Caller>, batch: Batch) -> Self {
        Self { caller, batch, forming: Mutex::new(None) }
    }

    /// Sends the event with others, or alone when it may be a repeat.
    pub(crate) async fn call(&self, event: &Event) -> Result<Answer, WebhookError> {
        let wanted = Arc::new(AtomicBool::new(true));
        let member = Member {
            message: Message::of(event),
            trigger: Arc::clone(&event.trigger),
            wanted: Arc::clone(&wanted),
        };
        let call = if event.attempt.is_some_and(|attempt| attempt > 1) {
            let alone = Members::default();
            alone
                .join(member, Batch { most: 1, ..self.batch })
                .map_err(drop)
                .expect("an empty batch takes any event");
            self.start(Arc::new(alone))
        } else {
            self.join(member)
        };
        let _wanted = Wanted(wanted);
        match call.await {
            (1, Ok(answer)) => Ok(answer),
            (events, Ok(Answer::Refused(said))) => {
                Ok(Answer::Refused(format!("a call with {events} events failed: {said}")))
            }
            (_, Ok(Answer::Handled)) => Ok(Answer::Handled),
            (events, Err(source)) => Err(WebhookError::Batch { events, source }),
        }
    }

    /// Adds the event to the batch that takes in events, or begins one.
    fn join(&self, mut member: Member) -> Call {
        let mut forming = lock(&self.forming);
        if let Some(Forming { members, call }) = &*forming
            && let Some(call) = call.upgrade()
        {
            match members.join(member, self.batch) {
                Ok(()) => return call,
                Err(refused) => member = refused,
            }
        }
        let members = Arc::new(Members::default());
        members.join(member, self.batch).map_err(drop).expect("an empty batch takes any event");
        let call = self.start(Arc::clone(&members));
        *forming = call.downgrade().map(|call| Forming { members, call });
        call
    }

    fn start(&self, members: Arc<Members>) -> Call {
        let (caller, linger) = (Arc::clone(&self.caller), self.batch.linger);
        let call = async move {
            tokio::select! {
                () = sleep(linger) => {}
                () = members.full.notified() => {}
            }
            // It takes in further events while it waits for its turn.
            let _turn = caller.turn().await;
            let events = members.close();
            (events.len(), caller.call(together(events)).await.map_err(Arc::new))
        };
        call.boxed().shared()
    }
}

impl Members {
    /// Adds an event, or gives it back when it does not fit any more.
    fn join(&self, member: Member, batch: Batch) -> Result<(), Member> {
        let mut state = lock(&self.state);
        let bytes = member.message.body.len();
        let fits = state.events.is_empty()
            || (state.events.len() < batch.most && state.bytes + bytes <= MAX_BATCH_BYTES);
        if state.closed || !fits {
            return Err(member);
        }
        state.bytes += bytes;
        state.events.push(member);
        if state.events.len() >= batch.most || state.bytes >= MAX_BATCH_BYTES {
            self.full.notify_one();
        }
        Ok(())
    }

    /// From now on it takes in nothing. Gives out those that are still wanted.
    fn close(&self) -> Vec<Member> {
        let mut state = lock(&self.state);
        state.closed = true;
        let mut events = std::mem::take(&mut state.events);
        events.retain(|member| member.wanted.load(Ordering::Acquire));
        events
    }
}

/// One message of all these events.
fn together(events: Vec<Member>) -> Message {
    let attempt = events.iter().filter_map(|member| member.message.attempt).max();
    let of = |member: &Member| (member.message.token, Arc::clone(&member.trigger));
    let first = events.first().map(of);
    let token = first.filter(|first| events.iter().all(|member| of(member) == *first));
    let id = id(&events);
    let bodies: Vec<String> = events.into_iter().map(|member| member.message.body).collect();
    let body = format!("[{}]", bodies.join(","));
    Message { body, id, attempt, token: token.and_then(|(token, _)| token), traceparent: None }
}

/// The id of a call with exactly these events, in whatever order; none when one of them has none.
fn id(events: &[Member]) -> Option<String> {
    let mut ids: Vec<&str> =
        events.iter().map(|member| member.message.id.as_deref()).collect::<Option<Vec<_>>>()?;
    ids.sort_unstable();
    let digest = digest(&SHA256, ids.join("\n").as_bytes());
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    Some(format!("batch_{}", hex.collect::<String>()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("batch", &self.batch).finish_non_exhaustive()
    }
}
