//! Runs one [`Machine`](crate::machine::Machine) against a store: the task behind a lease.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::lease::{EndOnDrop, ReleaseReply, Shared, nanos};
use crate::machine::{Action, Cause, Input, Machine, RequestId, WAIT_GRACE};
use crate::worker::Pulse;
use crate::{
    Clock, FencingToken, HolderId, Lease, LeaseConfig, LockError, LockErrorKind, LockStore, LossReason,
    Resource, Term, Timestamp, TryAcquire,
};

/// The longest time that the store has to confirm a release.
const MAX_RELEASE: Duration = Duration::from_secs(5);

pub(crate) type Reply = oneshot::Sender<Result<Lease, LockError>>;

pub(crate) struct Driver {
    store: Arc<dyn LockStore>,
    clock: Arc<dyn Clock>,
    config: LeaseConfig,
    resource: Resource,
    holder: HolderId,
    /// The runtime of whoever wants the lease.
    owner: Handle,
    machine: Machine,
    pending: Option<Pending>,
    last_error: Option<LockError>,
}

/// A request on its way. Dropping the future gives the request up.
struct Pending {
    is_try: bool,
    answer: BoxFuture<'static, (Input, Option<LockError>)>,
}

struct Grant {
    token: FencingToken,
    valid_until: Timestamp,
}

impl Driver {
    pub(crate) fn new(
        store: Arc<dyn LockStore>,
        clock: Arc<dyn Clock>,
        config: LeaseConfig,
        resource: Resource,
        holder: HolderId,
        owner: Handle,
        highest: Option<FencingToken>,
    ) -> Self {
        let machine = Machine::new(config, holder, highest);
        Self { store, clock, config, resource, holder, owner, machine, pending: None, last_error: None }
    }

    /// Acquires the resource, hands the lease over, keeps it and releases it in the end. Returns the highest token
    /// that was seen.
    pub(crate) async fn run(mut self, mut reply: Reply) -> Option<FencingToken> {
        match self.acquire(&mut reply).await {
            None => {}
            Some(Err(error)) => {
                // Nobody listens any more: nobody is told.
                let _ = reply.send(Err(error));
            }
            Some(Ok(grant)) => {
                let term = self.term(grant.token);
                let (now, until) = (nanos(self.clock.now()), nanos(grant.valid_until));
                tracing::info!(
                    resource = %term.resource, token = term.token.get(), at_ns = now, valid_until_ns = until,
                    "lease granted"
                );
                let shared = Shared::new(&term, Arc::clone(&self.clock), grant.valid_until);
                let guard = EndOnDrop(Arc::clone(&shared));
                let pulse = Pulse::of(&self.owner, Arc::clone(&self.clock), Arc::clone(&shared));
                let (release, released) = oneshot::channel();
                // When nobody listens any more, the lease is dropped here, which releases it below.
                let _ = reply.send(Ok(Lease::new(term.clone(), Arc::clone(&shared), release)));
                self.keep(&term, &shared, &pulse).await;
                self.release(&term, &shared, released.await.ok()).await;
                drop(guard);
            }
        }
        self.machine.highest()
    }

    /// Tries until the resource is granted, the machine gives up, or nobody wants it any more (`None`).
    async fn acquire(&mut self, reply: &mut Reply) -> Option<Result<Grant, LockError>> {
        let mut input = Input::Tick;
        loop {
            for action in self.machine.handle(self.clock.now(), input) {
                match action {
                    Action::Try { request } => self.send_try(request),
                    Action::Wait { limit } => self.send_wait(limit),
                    Action::Discard { token } => self.discard(token).await,
                    Action::Held { token, valid_until } => return Some(Ok(Grant { token, valid_until })),
                    Action::GiveUp(cause) => return Some(Err(self.give_up(cause))),
                    Action::Renew { .. } | Action::Lost { .. } => {}
                }
            }
            input = tokio::select! {
                biased;
                () = reply.closed() => {
                    self.abandon_acquire().await;
                    return None;
                }
                input = self.next_input() => input,
            };
        }
    }

    /// Nobody waits for the lease any more. A try that is on its way is waited for, so that its grant is not left
    /// behind.
    async fn abandon_acquire(&mut self) {
        let Some(pending) = self.pending.take().filter(|pending| pending.is_try) else { return };
        if let (Input::Tried { reply: Ok(TryAcquire::Granted(token)), .. }, _) = pending.answer.await {
            self.discard(token).await;
        }
    }

    /// Renews until the lease is over, for whatever reason.
    async fn keep(&mut self, term: &Term, shared: &Shared, pulse: &Pulse) {
        let store = Arc::clone(&self.store);
        let mut ended = store.ended(term);
        loop {
            let input = tokio::select! {
                biased;
                _ = shared.over() => return,
                () = &mut ended => Input::TermEnded,
                input = self.next_input() => input,
            };
            for action in self.machine.handle(self.clock.now(), input) {
                match action {
                    Action::Renew { request, .. } => self.send_renew(request, term.clone(), pulse),
                    Action::Held { valid_until, .. } => {
                        if !shared.extend(valid_until) {
                            return;
                        }
                        let (now, until) = (nanos(self.clock.now()), nanos(valid_until));
                        tracing::debug!(
                            resource = %term.resource, token = term.token.get(), at_ns = now, valid_until_ns = until,
                            "lease renewed"
                        );
                    }
                    Action::Lost { reason } => {
                        shared.end(reason);
                        return;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Gives the term back to the store, once the holder has let go of the lease.
    async fn release(&mut self, term: &Term, shared: &Shared, reply: Option<ReleaseReply>) {
        let limit = self.config.ttl().min(MAX_RELEASE);
        let store = Arc::clone(&self.store);
        let pending = self.pending.take();
        let mut failure = None;
        let released = async {
            if shared.over().await == LossReason::NotHolder {
                return Ok(());
            }
            if let Some(pending) = pending {
                // A store may have to give up a session whose request is dropped, and needs it for the release.
                pending.answer.await;
            }
            // A store that is just being restarted keeps a term that nobody gives back, for a whole time to live.
            let mut backoff = Backoff::new(term.token.get());
            loop {
                match store.release(term).await {
                    Err(error) if error.is_transient() => failure = Some(error),
                    other => return other,
                }
                sleep(backoff.next_delay()).await;
            }
        };
        let result = timeout(limit, released).await;
        let result = result.unwrap_or_else(|_| Err(failure.unwrap_or_else(|| timed_out("release", limit))));
        let (resource, token) = (&term.resource, term.token.get());
        match &result {
            Ok(()) => tracing::info!(%resource, token, "lease released"),
            Err(error) => tracing::warn!(
                %resource, token, error = error as &dyn std::error::Error,
                "lease not released; it ends with its time to live"
            ),
        }
        if let Some(reply) = reply {
            let _ = reply.send(result);
        }
    }

    /// The next thing that happens: an answer, or the time of the next tick. Cancel-safe.
    async fn next_input(&mut self) -> Input {
        // Timers stand still while the machine is suspended; short ones notice sooner that time has passed.
        let longest = self.config.margin().max(Duration::from_millis(10));
        let pause = self.machine.next_tick().map(|at| at.since(self.clock.now()).min(longest));
        let tick = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let Some(pending) = &mut self.pending else {
            tick.await;
            return Input::Tick;
        };
        tokio::select! {
            biased;
            (input, error) = &mut pending.answer => {
                self.pending = None;
                if error.is_some() {
                    self.last_error = error;
                }
                input
            }
            () = tick => Input::Tick,
        }
    }

    fn send_try(&mut self, request: RequestId) {
        let (store, resource, holder) = (Arc::clone(&self.store), self.resource.clone(), self.holder);
        let ttl = self.config.ttl();
        let answer = Box::pin(async move {
            let answer = timeout(ttl, store.try_acquire(&resource, &holder, ttl)).await;
            let (reply, error) = split(answer.unwrap_or_else(|_| Err(timed_out("acquire", ttl))));
            (Input::Tried { request, reply }, error)
        });
        self.pending = Some(Pending { is_try: true, answer });
    }

    fn send_wait(&mut self, limit: Duration) {
        let (store, resource, holder) = (Arc::clone(&self.store), self.resource.clone(), self.holder);
        let answer = Box::pin(async move {
            // A store that waits longer than it was asked to is not waited for.
            let answer = timeout(limit + WAIT_GRACE, store.wait(&resource, &holder, limit)).await;
            let (reply, error) = split(answer.unwrap_or(Ok(())));
            (Input::Waited(reply), error)
        });
        self.pending = Some(Pending { is_try: false, answer });
    }

    fn send_renew(&mut self, request: RequestId, term: Term, pulse: &Pulse) {
        let (store, ttl) = (Arc::clone(&self.store), self.config.ttl());
        let felt = pulse.felt(self.clock.now(), ttl);
        // No timeout: the machine stops trusting in time, whether or not there is an answer.
        let answer = Box::pin(async move {
            felt.await;
            reach!(BeforeRenew);
            let (reply, error) = split(store.renew(&term, ttl).await);
            reach!(AfterRenew);
            if let Some(error) = &error {
                tracing::warn!(
                    resource = %term.resource, token = term.token.get(), error = error as &dyn std::error::Error,
                    "lease not renewed"
                );
            }
            (Input::Renewed { request, reply }, error)
        });
        self.pending = Some(Pending { is_try: false, answer });
    }

    /// Releases a grant that nobody acts on. Best effort: its time to live ends it in any case.
    async fn discard(&mut self, token: FencingToken) {
        let term = self.term(token);
        let limit = self.config.ttl().min(MAX_RELEASE);
        let released = matches!(timeout(limit, self.store.release(&term)).await, Ok(Ok(())));
        tracing::debug!(resource = %term.resource, token = token.get(), released, "unused grant discarded");
    }

    fn give_up(&mut self, cause: Cause) -> LockError {
        match cause {
            Cause::Failed => self
                .last_error
                .take()
                .unwrap_or_else(|| LockError::new("manager", LockErrorKind::Unavailable)),
            Cause::TooSlow => {
                let text = "the store grants, but its answers come after their trust has ended";
                LockError::with_source("manager", LockErrorKind::Timeout, text)
            }
            Cause::TokenWentBack { granted, seen } => {
                let text = format!("it granted token {granted} after token {seen} had been seen");
                LockError::with_source("manager", LockErrorKind::Inconsistent, text)
            }
        }
    }

    fn term(&self, token: FencingToken) -> Term {
        Term { resource: self.resource.clone(), holder: self.holder, token }
    }
}

/// The reply as the machine wants it, and the error as people want it.
fn split<T>(answer: Result<T, LockError>) -> (Result<T, LockErrorKind>, Option<LockError>) {
    match answer {
        Ok(reply) => (Ok(reply), None),
        Err(error) => (Err(error.kind), Some(error)),
    }
}

fn timed_out(what: &str, limit: Duration) -> LockError {
    LockError::with_source("manager", LockErrorKind::Timeout, format!("no answer to {what} within {limit:?}"))
}
