//! How the demo says what it is doing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on a terminal, a line now and then elsewhere; and what happens, as it happens.
pub(crate) struct Progress {
    bar: ProgressBar,
    on_stderr: bool,
    total: Duration,
    line_every: Duration,
    next_line: Duration,
}

/// How things stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) committed: u64,
    pub(crate) received: usize,
    pub(crate) leader: Option<dapper_testkit::Leader>,
}

impl Progress {
    pub(crate) fn new(total: Duration, on_stderr: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(millis(total)), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {msg}") {
            bar.set_style(style);
        }
        let line_every = (total / 20).max(Duration::from_secs(1));
        Self { bar, on_stderr, total, line_every, next_line: Duration::ZERO }
    }

    /// Something happened.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| if self.on_stderr { eprintln!("{text}") } else { println!("{text}") });
    }

    /// Time has passed.
    pub(crate) fn show(&mut self, elapsed: Duration, standing: Standing) {
        let line = line(elapsed, self.total, standing);
        if !self.bar.is_hidden() {
            self.bar.set_position(millis(elapsed));
            self.bar.set_message(line);
        } else if elapsed >= self.next_line {
            self.say(&line);
            self.next_line = elapsed + self.line_every;
        }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn line(elapsed: Duration, total: Duration, standing: Standing) -> String {
    let leader = standing.leader.map_or_else(
        || "none".to_owned(),
        |leader| format!("replica {} (token {})", leader.replica, leader.token),
    );
    format!(
        "{:>3} of {} s   committed {:>6}   received {:>6}   leader {leader}",
        elapsed.min(total).as_secs(),
        total.as_secs(),
        standing.committed,
        standing.received,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_things_stand() {
        let leader = Some(dapper_testkit::Leader { replica: 1, token: 2 });
        let standing = Standing { committed: 1398, received: 1380, leader };
        assert_eq!(
            line(Duration::from_millis(7_200), Duration::from_secs(20), standing),
            "  7 of 20 s   committed   1398   received   1380   leader replica 1 (token 2)"
        );
    }
}
