//! What goes wrong, and how it mends.

use super::queue::Happening;
use super::scenario::Fault;
use super::world::{Links, Run, World};
use crate::store::SessionId;

impl World {
    pub(super) fn next_fault(&mut self) {
        let at = self.now + self.rng.u64(0..=2 * self.scenario.fault_every);
        if at < self.scenario.calm_at {
            self.queue.push(at, Happening::Fault);
        }
    }

    pub(super) fn fault(&mut self) {
        self.next_fault();
        let fault = self.scenario.faults[self.rng.usize(0..self.scenario.faults.len())];
        let node = self.rng.usize(0..self.nodes.len());
        // Everything has mended when the calm begins.
        let until = (self.now + self.rng.u64(0..=3 * self.scenario.ttl)).min(self.scenario.calm_at);
        self.tally.faults += 1;
        match fault {
            Fault::Freeze if self.nodes[node].run == Run::Up => {
                self.nodes[node].run = Run::Frozen { until };
                self.queue.push(until, Happening::Resume(node));
            }
            Fault::Suspend if self.nodes[node].run == Run::Up => {
                self.nodes[node].run = Run::Suspended { until };
                self.queue.push(until, Happening::Resume(node));
            }
            Fault::Kill if self.nodes[node].run != Run::Down => self.kill(node, until),
            Fault::Cut => {
                let [to_store, from_store, to_row, from_row] = [(); 4].map(|()| self.rng.bool());
                self.nodes[node].links = Links { to_store, from_store, to_row, from_row };
                self.queue.push(until, Happening::Mend(node));
            }
            Fault::Restart if self.store_is_up => self.restart_store(until),
            Fault::EndSession => return self.end_some_session(),
            _ => return,
        }
        self.note(|_| format!("fault: {fault:?} of node {node} until {:.6}", until as f64 / 1e9));
        self.listen(node);
    }

    fn kill(&mut self, node: usize, until: u64) {
        // The kernel closes the sockets of a killed process, unless it stands still itself.
        let is_suspended = matches!(self.nodes[node].run, Run::Suspended { .. });
        self.renew_process(node);
        self.nodes[node].run = Run::Down;
        if !is_suspended {
            self.bury_sessions(node);
        }
        let boot_at = self.now + (until - self.now) / 3;
        self.queue.push(boot_at, Happening::Boot(node));
    }

    fn restart_store(&mut self, until: u64) {
        self.store_is_up = false;
        let back_at = self.now + (until - self.now) / 6;
        self.queue.push(back_at, Happening::StoreUp);
        for index in 0..self.resources.len() {
            self.resources[index].lease.restart();
            self.drop_waiters(index, |_| true);
        }
        for index in 0..self.sessions.len() {
            if std::mem::take(&mut self.sessions[index].is_alive) {
                let (owner, token) = (self.sessions[index].owner, self.sessions[index].token);
                self.tell_term_ended(owner, SessionId(index as u32), token);
            }
        }
    }

    /// Somebody ends a session whose client may be well. Until that hears of it, or its trust ends, it may overlap with
    /// its successor: the one limit that only the fence covers.
    fn end_some_session(&mut self) {
        let alive = (0..self.sessions.len()).filter(|index| self.sessions[*index].is_alive);
        let alive: Vec<usize> = alive.collect();
        let Some(index) = self.rng.choice(alive) else { return };
        let (owner, token) = (self.sessions[index].owner, self.sessions[index].token);
        if let Some(token) = token {
            self.resources[self.seats[owner.seat].resource].book.forced(token);
        }
        self.note(|_| format!("fault: session {index} is ended by force"));
        self.end_session(SessionId(index as u32));
    }

    pub(super) fn resume(&mut self, node: usize) {
        let is_due = match self.nodes[node].run {
            Run::Frozen { until } | Run::Suspended { until } => until == self.now,
            Run::Up | Run::Down => false,
        };
        if is_due {
            self.nodes[node].run = Run::Up;
            self.note(|_| format!("node {node} goes on"));
            self.listen(node);
        }
    }

    pub(super) fn boot(&mut self, node: usize) {
        if self.nodes[node].run == Run::Down {
            // What was left of the old process is noticed at the latest when the machine is back.
            self.nodes[node].run = Run::Up;
            self.bury_sessions(node);
            self.renew_process(node);
            self.note(|world| format!("node {node} starts for the {}th time", world.nodes[node].start));
            self.listen(node);
        }
    }

    pub(super) fn mend(&mut self, node: usize) {
        self.nodes[node].links = Links::UP;
        self.bury_sessions(node);
        self.note(|_| format!("the network of node {node} works"));
        self.listen(node);
    }

    /// The store hears that the sessions which no process uses any more are gone.
    fn bury_sessions(&mut self, node: usize) {
        for index in 0..self.sessions.len() {
            let session = SessionId(index as u32);
            let owner = self.sessions[index].owner;
            let seat = &self.seats[owner.seat];
            let is_used = owner == self.address(owner.seat) && seat.session == Some(session);
            if seat.node == node && self.sessions[index].is_alive && !is_used {
                self.say_goodbye(node, session);
            }
        }
    }

    /// Notes whether the store hears nothing of the node from now on, or hears of it again.
    fn listen(&mut self, node: usize) {
        let patience = self.patience();
        let extra = self.rng.u64(0..=self.scenario.ttl / 4);
        let node_state = &mut self.nodes[node];
        let links = node_state.links;
        let is_silent =
            !links.to_store || !links.from_store || matches!(node_state.run, Run::Suspended { .. });
        if !is_silent {
            node_state.silent_since = None;
        } else if node_state.silent_since.is_none() {
            node_state.silent_since = Some(self.now);
            node_state.silences += 1;
            let silence = node_state.silences;
            self.queue.push(self.now + patience + extra, Happening::Patience { node, silence });
        }
    }

    pub(super) fn patience_is_over(&mut self, node: usize, silence: u32) {
        let Some(since) = self.nodes[node].silent_since else { return };
        if self.nodes[node].silences != silence {
            return;
        }
        let patience = self.patience();
        let mut is_any_left = false;
        for index in 0..self.sessions.len() {
            let session = &self.sessions[index];
            if !session.is_alive
                || session.opened_at == u64::MAX
                || self.seats[session.owner.seat].node != node
            {
                continue;
            }
            if session.opened_at.max(since) + patience <= self.now {
                self.end_session(SessionId(index as u32));
            } else {
                is_any_left = true;
            }
        }
        if is_any_left {
            self.queue.push(self.now + patience, Happening::Patience { node, silence });
        }
    }
}
