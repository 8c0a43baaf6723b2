//! Two sessions that accept, repeat, commit, roll back and crash in random turns, compared with a model step by step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dapper_inbox::{Accepted, InboxError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::support::{LIMIT, Stage, event_id, pid, run, take};

const CASES: u32 = 24;
const EVENTS: u32 = 3;
const TOKENS: u64 = 3;

#[derive(Clone, Copy, Debug)]
enum Action {
    Accept {
        event: u32,
        token: u64,
    },
    Commit,
    Rollback,
    /// The session's connection is ended from outside, whatever it is doing.
    Crash,
}

fn turns() -> impl Strategy<Value = Vec<(usize, Action)>> {
    let action = prop_oneof![
        6 => (0..EVENTS, 1..=TOKENS).prop_map(|(event, token)| Action::Accept { event, token }),
        3 => Just(Action::Commit),
        1 => Just(Action::Rollback),
        1 => Just(Action::Crash),
    ];
    prop::collection::vec((0..2_usize, action), 1..40)
}

struct Session {
    client: Arc<Client>,
    pid: i32,
    call: Option<(u32, u64, Call)>,
    /// What the open transaction has found new, and the tokens that it has accepted.
    new: BTreeSet<u32>,
    tokens: BTreeSet<u64>,
    is_open: bool,
}

type Call = JoinHandle<Result<Accepted, InboxError>>;

struct Model<'s> {
    stage: &'s Stage,
    level: &'static str,
    sessions: [Session; 2],
    /// What committed transactions have accepted.
    committed: BTreeSet<u32>,
    token: u64,
}

impl Session {
    async fn open(stage: &Stage) -> Self {
        let client = stage.session().await;
        // So that a deadlock does not take a second.
        run(&client, "SET deadlock_timeout = '20ms'").await;
        let (new, tokens) = (BTreeSet::new(), BTreeSet::new());
        Self { pid: pid(&client).await, client: Arc::new(client), call: None, new, tokens, is_open: false }
    }

    fn forget(&mut self) {
        self.new.clear();
        self.tokens.clear();
        self.is_open = false;
    }
}

impl<'s> Model<'s> {
    async fn new(stage: &'s Stage, level: &'static str) -> Self {
        run(&stage.watcher, "TRUNCATE dapper_inbox.tokens, dapper_inbox.events, effects").await;
        let sessions = [Session::open(stage).await, Session::open(stage).await];
        Self { stage, level, sessions, committed: BTreeSet::new(), token: 0 }
    }

    async fn turn(&mut self, index: usize, action: Action) -> Result<(), TestCaseError> {
        let session = &mut self.sessions[index];
        match action {
            Action::Crash => {
                let terminate =
                    "SELECT count(pg_terminate_backend(pid)) = 0 FROM pg_stat_activity WHERE pid = $1";
                while !self
                    .stage
                    .watcher
                    .query_one(terminate, &[&session.pid])
                    .await
                    .unwrap()
                    .get::<_, bool>(0)
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if let Some((_, _, call)) = session.call.take() {
                    prop_assert!(call.await.unwrap().is_err());
                }
                *session = Session::open(self.stage).await;
            }
            // It waits for the other one.
            _ if session.call.is_some() => return Ok(()),
            Action::Accept { event, token } => {
                if !session.is_open {
                    // With a snapshot from now on, where there is one for the whole transaction.
                    run(&session.client, &format!("BEGIN ISOLATION LEVEL {}; SELECT 1", self.level)).await;
                    session.is_open = true;
                }
                let (inbox, client) = (self.stage.inbox.clone(), Arc::clone(&session.client));
                let call = tokio::spawn(async move { take(&inbox, &*client, &event_id(event), token).await });
                session.call = Some((event, token, call));
            }
            Action::Commit => {
                if session.is_open && session.client.batch_execute("COMMIT").await.is_ok() {
                    self.token = session.tokens.iter().copied().chain([self.token]).max().unwrap_or(0);
                    self.committed.append(&mut session.new);
                }
                session.forget();
            }
            Action::Rollback => {
                run(&session.client, "ROLLBACK").await;
                session.forget();
            }
        }
        self.settle().await
    }

    /// Waits until each call has its answer, or waits for the other session.
    async fn settle(&mut self) -> Result<(), TestCaseError> {
        let started = Instant::now();
        loop {
            let is_pending = |session: &Session| session.call.as_ref().is_some_and(|it| !it.2.is_finished());
            let pending: Vec<usize> = (0..2).filter(|index| is_pending(&self.sessions[*index])).collect();
            let mut blocked = 0;
            for index in &pending {
                blocked += usize::from(self.stage.is_blocked(self.sessions[*index].pid).await);
            }
            // Two that wait for each other are a deadlock, which the server ends.
            if pending.is_empty() || (pending.len(), blocked) == (1, 1) {
                if self.collect().await? {
                    continue;
                }
                // Something else, such as a vacuum, may be in the way for a moment; the other session stays.
                match pending.iter().try_for_each(|index| self.has_reason_to_wait(*index)) {
                    Err(error) if started.elapsed() > LIMIT => return Err(error),
                    Err(_) => {}
                    Ok(()) => return Ok(()),
                }
            }
            prop_assert!(started.elapsed() < LIMIT + LIMIT, "neither an answer nor a wait");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Judges the answers that are there; whether there were any.
    async fn collect(&mut self) -> Result<bool, TestCaseError> {
        let mut answers = Vec::new();
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if let Some((event, token, call)) = session.call.take_if(|(_, _, call)| call.is_finished()) {
                answers.push((index, event, token, call.await.unwrap()));
            }
        }
        // Of two, the one that failed was first: it let the other go on.
        answers.sort_by_key(|(_, _, _, answer)| answer.is_ok());
        let any = !answers.is_empty();
        for (index, event, token, answer) in answers {
            self.answered(index, event, token, answer).await?;
        }
        Ok(any)
    }

    /// Consumers wait only for the same event, and where a token changes.
    fn has_reason_to_wait(&self, index: usize) -> Result<(), TestCaseError> {
        let (session, other) = (&self.sessions[index], &self.sessions[1 - index]);
        let Some((event, token, call)) = &session.call else { return Ok(()) };
        let same_event = other.new.contains(event);
        let changing = other.tokens.iter().any(|theirs| theirs != token || *theirs > self.token);
        let has_reason = call.is_finished() || (other.is_open && (same_event || changing));
        prop_assert!(has_reason, "{event} with {token} waits for no reason");
        Ok(())
    }

    async fn answered(
        &mut self,
        index: usize,
        event: u32,
        token: u64,
        answer: Result<Accepted, InboxError>,
    ) -> Result<(), TestCaseError> {
        let is_strict = self.level == "READ COMMITTED";
        let other = &self.sessions[1 - index];
        let (others_new, others_tokens) = (other.new.clone(), other.tokens.clone());
        let session = &mut self.sessions[index];
        let highest = session.tokens.iter().copied().chain([self.token]).max().unwrap_or(0);
        match answer {
            Ok(accepted) => {
                // No stale one is let in, nor one beside another that is not settled yet.
                prop_assert!(token >= highest, "{token} was accepted after {highest}");
                prop_assert!(
                    others_tokens.iter().all(|theirs| *theirs == token),
                    "{token} and {others_tokens:?}"
                );
                let is_known = self.committed.contains(&event) || session.new.contains(&event);
                prop_assert_eq!(accepted == Accepted::Seen, is_known);
                prop_assert!(is_known || !others_new.contains(&event));
                session.tokens.insert(token);
                if accepted == Accepted::New {
                    session.new.insert(event);
                }
                return Ok(());
            }
            Err(InboxError::StaleToken { seen, token: refused, .. }) => {
                prop_assert_eq!(refused, token);
                prop_assert!(seen > token && seen <= highest, "{seen} was not seen, but {highest}");
                prop_assert!(!is_strict || seen == highest);
            }
            Err(InboxError::Conflict { source }) => {
                let is_deadlock = source.code().is_some_and(|code| code.code() == "40P01");
                prop_assert!(!is_strict || is_deadlock, "{source:?}");
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
        run(&session.client, "ROLLBACK").await;
        session.forget();
        Ok(())
    }

    /// What is left open is rolled back; what took effect is what was committed, each once.
    async fn end(mut self) -> Result<(), TestCaseError> {
        for index in 0..2 {
            self.turn(index, Action::Crash).await?;
        }
        let expected: Vec<String> = self.committed.iter().map(|event| event_id(*event)).collect();
        prop_assert_eq!(self.stage.effects().await, expected);
        Ok(())
    }
}

fn check(level: &'static str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::set());
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&turns(), |turns| {
        runtime.block_on(async {
            let mut model = Model::new(&stage, level).await;
            for (session, action) in turns {
                model.turn(session, action).await?;
            }
            model.end().await
        })
    });
    checked.unwrap_or_else(|error| panic!("{level}: {error}"));
}

#[test]
fn any_turns_agree_with_the_model_in_read_committed() {
    check("READ COMMITTED");
}

#[test]
fn any_turns_agree_with_the_model_in_repeatable_read() {
    check("REPEATABLE READ");
}

#[test]
fn any_turns_agree_with_the_model_in_serializable() {
    check("SERIALIZABLE");
}
