//! When two states count as one.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use dapper_lock::{FencingToken, Timestamp};

use super::state::{Body, Message, Node, Rules, State, TICK, is_lazy};
use crate::RowRequest;
use crate::driver::{Answer, Ask, Stage, Worker};

/// What tells states apart that can go on differently: times count from now, tokens by their order, calls by whether
/// they are waited for, and nodes not by their number.
pub(super) fn fingerprint(rules: &Rules, state: &State, scratch: &mut Scratch) -> u128 {
    let Scratch { tokens, nodes, bytes } = scratch;
    collect_tokens(state, tokens);
    let rank = |token: Option<FencingToken>| match token {
        None => 0,
        Some(token) => tokens.partition_point(|other| *other < token) as u8 + 1,
    };
    nodes.clear();
    nodes.resize_with(state.nodes.len(), Vec::new);
    for (index, bytes) in nodes.iter_mut().enumerate() {
        encode_node(rules, state, index, &rank, bytes);
    }
    nodes.sort_unstable();
    bytes.clear();
    let now = Timestamp::from_origin(TICK * state.now);
    let remaining = state.lease.held(now).map_or(0, |held| ticks(held.expires_at.since(now)));
    bytes.extend([state.pauses, state.losses, state.restarts, remaining]);
    bytes.extend([state.lease.token(), state.row.token(), state.granted, state.begun].map(rank));
    for node in nodes {
        bytes.push(node.len() as u8);
        bytes.extend(&*node);
    }
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(salt);
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Memory that is used again for each state.
#[derive(Default)]
pub(super) struct Scratch {
    tokens: Vec<FencingToken>,
    nodes: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

fn collect_tokens(state: &State, tokens: &mut Vec<FencingToken>) {
    tokens.clear();
    tokens.extend([state.lease.token(), state.row.token(), state.granted, state.begun].into_iter().flatten());
    tokens.extend(state.messages.iter().filter_map(|message| message_token(&message.body)));
    tokens.extend(state.nodes.iter().filter_map(|node| match node.driver.stage() {
        Stage::Keeping { token, .. } | Stage::Releasing { token, .. } => Some(*token),
        _ => None,
    }));
    tokens.sort_unstable();
    tokens.dedup();
}

fn message_token(body: &Body) -> Option<FencingToken> {
    match body {
        Body::Call(_, Ask::Renew(token) | Ask::Release(token)) => Some(*token),
        Body::Answer(_, Answer::Tried(dapper_lock::TryAcquire::Granted(token))) => Some(*token),
        Body::Answer(_, Answer::Tried(dapper_lock::TryAcquire::Held(held))) => Some(held.token),
        Body::RowCall(_, RowRequest::TakeOver(token) | RowRequest::Write(token)) => Some(*token),
        _ => None,
    }
}

fn encode_node(
    rules: &Rules,
    state: &State,
    index: usize,
    rank: &dyn Fn(Option<FencingToken>) -> u8,
    bytes: &mut Vec<u8>,
) {
    let node = &state.nodes[index];
    bytes.extend([u8::from(node.paused), node.since_miss.map_or(0, |ticks| ticks.saturating_add(1))]);
    let now = Timestamp::from_origin(TICK * state.now);
    let held_by = state.lease.held(now).and_then(|held| {
        // Which of the node's starts the store takes for the holder.
        (0..=node.start).find(|start| rules.holder(index, *start) == held.holder)
    });
    bytes.push(held_by.map_or(0, |start| node.start - start + 1));
    encode_stage(rules, node, rank, bytes);
    let mut messages: Vec<[u8; 6]> = state
        .messages
        .iter()
        .filter(|message| usize::from(message.node) == index)
        .map(|message| encode_message(rules, node, message, rank))
        .collect();
    messages.sort_unstable();
    bytes.extend(messages.iter().flatten());
}

fn encode_stage(rules: &Rules, node: &Node, rank: &dyn Fn(Option<FencingToken>) -> u8, bytes: &mut Vec<u8>) {
    let Node { driver, local, .. } = node;
    let left = |at: Timestamp| ticks(at.since(*local));
    // A request older than a term could last does nothing but what one of that age does.
    let oldest = rules.configuration.ttl + 1;
    let age = driver.request().map_or(0, |request| 1 + ticks(local.since(request.sent)).min(oldest));
    match driver.stage() {
        _ if is_lazy(driver) => bytes.push(0),
        Stage::Idle => bytes.push(0),
        Stage::Acquiring { discarding: Some(discarding), .. } => bytes.extend([1, left(discarding.deadline)]),
        Stage::Acquiring { .. } => bytes.extend([2, age]),
        Stage::Keeping { token, until, worker } => {
            let tick = driver.machine_tick().map_or(0, left);
            let (worker, deadline) = match worker {
                Worker::TakingOver { deadline, .. } => (1, left(*deadline)),
                Worker::Ready => (2, 0),
                Worker::Writing { deadline, .. } => (3, left(*deadline)),
            };
            bytes.extend([3, rank(Some(*token)), left(*until), tick, age, worker, deadline]);
        }
        Stage::Releasing { token, call, deadline, .. } => {
            bytes.extend([4, rank(Some(*token)), u8::from(call.is_some()), left(*deadline)]);
        }
    }
}

fn encode_message(
    rules: &Rules,
    node: &Node,
    message: &Message,
    rank: &dyn Fn(Option<FencingToken>) -> u8,
) -> [u8; 6] {
    use dapper_lock::{Renewal, TryAcquire};
    let (kind, call) = match &message.body {
        Body::Call(call, Ask::Try) => (1, Some(*call)),
        Body::Call(call, Ask::Wait(_)) => (2, Some(*call)),
        Body::Call(call, Ask::Renew(_)) => (3, Some(*call)),
        Body::Call(call, Ask::Release(_)) => (4, Some(*call)),
        Body::Answer(call, Answer::Tried(TryAcquire::Granted(_))) => (5, Some(*call)),
        Body::Answer(call, Answer::Tried(TryAcquire::Held(held))) => {
            let is_own = held.holder == rules.holder(usize::from(message.node), node.start);
            (if is_own { 6 } else { 7 }, Some(*call))
        }
        Body::Answer(call, Answer::Renewed(Renewal::Renewed)) => (8, Some(*call)),
        Body::Answer(call, Answer::Renewed(Renewal::NotHolder)) => (9, Some(*call)),
        Body::Answer(call, Answer::Done | Answer::Failed(_)) => (10, Some(*call)),
        Body::RowCall(call, RowRequest::TakeOver(_)) => (11, Some(*call)),
        Body::RowCall(call, RowRequest::Write(_)) => (12, Some(*call)),
        Body::RowAnswer(call, accepted) => (if *accepted { 13 } else { 14 }, Some(*call)),
        Body::Goodbye => (15, None),
    };
    // A "held by another" makes the driver wait, whichever token it names.
    let token = if kind == 7 { 0 } else { rank(message_token(&message.body)) };
    let is_awaited = message.start == node.start && call.is_some_and(|call| node.driver.awaits(call));
    let starts_ago = node.start - message.start;
    [kind, token, starts_ago, u8::from(is_awaited), message.age, u8::from(message.late)]
}

/// Whole ticks, a part of one counting as one: nothing happens between two ticks.
fn ticks(time: Duration) -> u8 {
    u8::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u8::MAX)
}
