//! Properties of the machine under arbitrary histories, alone and several against a model of a store.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(100);

fn config() -> LeaseConfig {
    LeaseConfig::new(STEP * 100, STEP * 30, STEP * 10).unwrap()
}

/// What a driver knows of one machine: what it was told last, and what it asked for.
struct Driven {
    machine: Machine,
    holder: HolderId,
    belief: Option<(FencingToken, Timestamp)>,
    last_token: Option<FencingToken>,
    lost: bool,
}

impl Driven {
    fn new() -> Self {
        let holder = HolderId::random();
        let machine = Machine::new(config(), holder, None);
        Self { machine, holder, belief: None, last_token: None, lost: false }
    }

    /// Starts over after a loss, as the manager does.
    fn restart(&mut self) {
        let (highest, requests) = (self.machine.highest(), self.machine.requests);
        self.machine = Machine::new(config(), self.holder, highest);
        // Answers to the last machine's requests are still on their way and must not pass for answers to this one's.
        self.machine.requests = requests;
        self.belief = None;
        self.lost = false;
    }

    fn valid(&self, now: Timestamp) -> Option<FencingToken> {
        self.belief.filter(|(_, until)| now < *until).map(|(token, _)| token)
    }

    fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Held { token, valid_until } => {
                    assert!(!self.lost, "held after it was lost");
                    assert!(self.last_token <= Some(*token), "the token went back");
                    self.last_token = Some(*token);
                    self.belief = Some((*token, *valid_until));
                }
                Action::Lost { .. } | Action::GiveUp(_) => {
                    self.belief = None;
                    self.lost = true;
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u32),
    /// Time passes and no timer fires: the machine is suspended, or starved.
    PassUnnoticed(u32),
    Grant(u64),
    Held {
        own: bool,
        token: u64,
        remaining: u32,
    },
    TryFails(LockErrorKind),
    Waited(bool),
    Renewed,
    NotHolder,
    RenewFails(LockErrorKind),
    OldReply,
    TermEnded,
}

fn kinds() -> impl Strategy<Value = LockErrorKind> {
    use LockErrorKind::{Inconsistent, Refused, SessionLost, Timeout, Unavailable};
    prop::sample::select(vec![Unavailable, Timeout, SessionLost, Refused, Inconsistent])
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..120_u32).prop_map(Event::Pass),
        2 => (0..120_u32).prop_map(Event::PassUnnoticed),
        3 => (1..30_u64).prop_map(Event::Grant),
        1 => (any::<bool>(), 1..30_u64, 0..100_u32)
            .prop_map(|(own, token, remaining)| Event::Held { own, token, remaining }),
        1 => kinds().prop_map(Event::TryFails),
        1 => any::<bool>().prop_map(Event::Waited),
        4 => Just(Event::Renewed),
        1 => Just(Event::NotHolder),
        1 => kinds().prop_map(Event::RenewFails),
        1 => Just(Event::OldReply),
        1 => Just(Event::TermEnded),
    ];
    prop::collection::vec(event, 1..120)
}

/// The requests as the test saw them: which are open, and when each was sent.
#[derive(Default)]
struct Sends {
    try_open: Option<(RequestId, Timestamp)>,
    renew_open: Option<(RequestId, Timestamp)>,
    /// When the latest request was sent that was answered with "yes".
    confirmed: Option<Timestamp>,
}

fn number(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

fn to_input(event: &Event, driven: &Driven, sends: &mut Sends) -> Option<Input> {
    Some(match event {
        Event::Pass(_) => Input::Tick,
        Event::PassUnnoticed(_) => return None,
        Event::Grant(token) => {
            let (request, sent) = sends.try_open.take()?;
            sends.confirmed = Some(sent);
            Input::Tried { request, reply: Ok(TryAcquire::Granted(number(*token))) }
        }
        Event::Held { own, token, remaining } => {
            let (request, _) = sends.try_open.take()?;
            let holder = if *own { driven.holder } else { HolderId::random() };
            let held_by = HeldBy { holder, token: number(*token), remaining: STEP * *remaining };
            Input::Tried { request, reply: Ok(TryAcquire::Held(held_by)) }
        }
        Event::TryFails(kind) => Input::Tried { request: sends.try_open.take()?.0, reply: Err(*kind) },
        Event::Waited(ok) => Input::Waited(if *ok { Ok(()) } else { Err(LockErrorKind::Unavailable) }),
        Event::Renewed => {
            let (request, sent) = sends.renew_open.take()?;
            sends.confirmed = sends.confirmed.max(Some(sent));
            Input::Renewed { request, reply: Ok(Renewal::Renewed) }
        }
        Event::NotHolder => {
            Input::Renewed { request: sends.renew_open.take()?.0, reply: Ok(Renewal::NotHolder) }
        }
        Event::RenewFails(kind) => Input::Renewed { request: sends.renew_open.take()?.0, reply: Err(*kind) },
        Event::OldReply => Input::Renewed { request: RequestId(0), reply: Ok(Renewal::Renewed) },
        Event::TermEnded => Input::TermEnded,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: valid only within `sent + ttl − margin` of a confirmed request, over after a clear no, and
    /// never valid again after that; tokens only grow.
    #[test]
    fn trust_never_outlives_a_confirmed_request(history in events()) {
        let mut now = Timestamp::from_origin(Duration::from_secs(1));
        let mut driven = Driven::new();
        let mut sends = Sends::default();
        for event in history {
            if let Event::Pass(steps) | Event::PassUnnoticed(steps) = event {
                now = now.after(STEP * steps);
            }
            let valid_before = driven.valid(now).is_some();
            let held_before = driven.belief.is_some();
            let Some(input) = to_input(&event, &driven, &mut sends) else { continue };
            let is_no = matches!(event, Event::NotHolder | Event::TermEnded)
                || matches!((&event, &input), (Event::RenewFails(LockErrorKind::SessionLost), Input::Renewed { .. }));
            let actions = driven.machine.handle(now, input);
            for action in &actions {
                match action {
                    Action::Try { request } => sends.try_open = Some((*request, now)),
                    Action::Renew { request, .. } => sends.renew_open = Some((*request, now)),
                    _ => {}
                }
            }
            driven.note(&actions);
            if driven.valid(now).is_some() {
                let confirmed = sends.confirmed.expect("valid without any confirmed request");
                prop_assert!(now < confirmed.after(config().trust()), "trusted past its end");
                let revived = held_before && !valid_before;
                prop_assert!(!revived, "revived");
            }
            if is_no {
                prop_assert!(driven.valid(now).is_none(), "valid after a clear no");
            }
            if driven.lost {
                prop_assert!(driven.machine.next_tick().is_none());
                driven.restart();
                sends = Sends::default();
            }
        }
    }

    /// A store that answers within half the time of trust keeps its holder for ever.
    #[test]
    fn a_store_that_answers_keeps_the_holder(delays in prop::collection::vec(0..45_u32, 1..100)) {
        let mut now = Timestamp::from_origin(Duration::from_secs(1));
        let mut driven = Driven::new();
        let mut actions = driven.machine.handle(now, Input::Tick);
        for delay in delays {
            driven.note(&actions);
            let input = match actions.first() {
                Some(Action::Try { request }) => {
                    now = now.after(STEP * delay);
                    Input::Tried { request: *request, reply: Ok(TryAcquire::Granted(FencingToken::FIRST)) }
                }
                Some(Action::Renew { request, .. }) => {
                    now = now.after(STEP * delay);
                    Input::Renewed { request: *request, reply: Ok(Renewal::Renewed) }
                }
                _ => {
                    now = now.max(driven.machine.next_tick().expect("it waits for nothing"));
                    Input::Tick
                }
            };
            actions = driven.machine.handle(now, input);
        }
        driven.note(&actions);
        prop_assert!(!driven.lost);
        prop_assert!(driven.valid(now).is_some() || driven.last_token.is_none());
    }
}

/// A store as it should be, and a network that delays, drops and reorders.
#[derive(Default)]
struct Model {
    token: u64,
    holder: Option<HolderId>,
    expires_at: Option<Timestamp>,
    messages: Vec<(usize, Message)>,
}

#[derive(Clone, Debug)]
enum Message {
    Try(RequestId),
    Renew(RequestId, FencingToken),
    Release(FencingToken),
    Reply(Input),
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u32),
    Deliver(prop::sample::Index),
    Drop(prop::sample::Index),
    /// A request of this machine fails at its client, whatever becomes of it.
    GiveUp(usize),
}

impl Model {
    fn running(&self, now: Timestamp) -> Option<HolderId> {
        self.holder.filter(|_| self.expires_at.is_some_and(|end| now < end))
    }

    /// Handles a request and queues the answer.
    fn serve(&mut self, now: Timestamp, from: usize, holder: HolderId, message: &Message) {
        let ttl = config().ttl();
        match message {
            Message::Try(request) => {
                let reply = if let Some(other) = self.running(now) {
                    let remaining = self.expires_at.map_or(Duration::ZERO, |end| end.since(now));
                    TryAcquire::Held(HeldBy { holder: other, token: number(self.token), remaining })
                } else {
                    self.token += 1;
                    self.holder = Some(holder);
                    self.expires_at = Some(now.after(ttl));
                    TryAcquire::Granted(number(self.token))
                };
                self.messages
                    .push((from, Message::Reply(Input::Tried { request: *request, reply: Ok(reply) })));
            }
            Message::Renew(request, token) => {
                let ours = self.running(now) == Some(holder) && self.token == token.get();
                if ours {
                    self.expires_at = Some(now.after(ttl));
                }
                let reply = Ok(if ours { Renewal::Renewed } else { Renewal::NotHolder });
                self.messages.push((from, Message::Reply(Input::Renewed { request: *request, reply })));
            }
            Message::Release(token) => {
                if self.holder == Some(holder) && self.token == token.get() {
                    self.holder = None;
                }
            }
            Message::Reply(_) => unreachable!("replies go to machines"),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..60_u32).prop_map(Step::Pass),
        8 => any::<prop::sample::Index>().prop_map(Step::Deliver),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (0..3_usize).prop_map(Step::GiveUp),
    ];
    prop::collection::vec(step, 1..300)
}

/// Feeds one machine and sends what it asks for.
fn feed(model: &mut Model, machines: &mut [Driven], index: usize, now: Timestamp, input: Input) {
    let driven = &mut machines[index];
    let actions = driven.machine.handle(now, input);
    driven.note(&actions);
    for action in actions {
        match action {
            Action::Try { request } => model.messages.push((index, Message::Try(request))),
            Action::Renew { request, token } => model.messages.push((index, Message::Renew(request, token))),
            Action::Discard { token } => model.messages.push((index, Message::Release(token))),
            Action::Wait { .. } | Action::Held { .. } | Action::Lost { .. } | Action::GiveUp(_) => {}
        }
    }
    if driven.lost {
        driven.restart();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Three machines, one store, a hostile network: never two that may act at the same time.
    #[test]
    fn never_two_holders(history in steps()) {
        let mut now = Timestamp::from_origin(Duration::from_secs(1));
        let mut model = Model::default();
        let mut machines = [Driven::new(), Driven::new(), Driven::new()];
        for step in history {
            match step {
                Step::Pass(steps) => now = now.after(STEP * steps),
                Step::Deliver(which) if !model.messages.is_empty() => {
                    let (index, message) = model.messages.remove(which.index(model.messages.len()));
                    match message {
                        Message::Reply(input) => feed(&mut model, &mut machines, index, now, input),
                        request => model.serve(now, index, machines[index].holder, &request),
                    }
                }
                Step::Drop(which) if !model.messages.is_empty() => {
                    model.messages.remove(which.index(model.messages.len()));
                }
                Step::GiveUp(index) => {
                    let request = RequestId(machines[index].machine.requests);
                    let failed = LockErrorKind::Timeout;
                    feed(&mut model, &mut machines, index, now, Input::Tried { request, reply: Err(failed) });
                    feed(&mut model, &mut machines, index, now, Input::Renewed { request, reply: Err(failed) });
                }
                Step::Deliver(_) | Step::Drop(_) => {}
            }
            for index in 0..machines.len() {
                if machines[index].machine.next_tick().is_some_and(|at| at <= now) {
                    feed(&mut model, &mut machines, index, now, Input::Tick);
                }
            }
            let valid: Vec<FencingToken> = machines.iter().filter_map(|driven| driven.valid(now)).collect();
            prop_assert!(valid.len() <= 1, "two holders: {valid:?}");
            prop_assert!(valid.iter().all(|token| token.get() == model.token), "a stale holder");
        }
    }
}
