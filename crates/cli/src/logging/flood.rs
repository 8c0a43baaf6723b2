//! Keeps warnings and errors from becoming a flood: of one kind so many are logged in a minute, the others counted, and the
//! count is logged.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// So many of one kind are logged within a [`PERIOD`].
const LIMIT: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// How often it is looked whether a period has passed.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So many kinds are told apart; those beyond share one limit.
const MAX_KINDS: usize = 512;
/// So much of a message tells its kind.
const MAX_KIND_BYTES: usize = 400;
/// What sums up is not to be summed up.
const TARGET: &str = "dapper::repeated";

/// How often each kind was logged of late.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    kinds: Mutex<HashMap<String, Kind>>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    logged: u32,
    left_out: u64,
}

/// Writes what is no flood. It is the last to see a line, so that whatever else looks at events sees all of them.
pub(crate) struct Gate<F> {
    pub(crate) format: F,
    pub(crate) flood: Arc<Flood>,
}

impl<S, N, F> FormatEvent<S, N> for Gate<F>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.flood.admits_event(event) { self.format.format_event(context, writer, event) } else { Ok(()) }
    }
}

impl Flood {
    fn admits_event(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let mut kind = Text(format!("{} ", metadata.target()));
        event.record(&mut kind);
        self.admits(kind.0, Instant::now())
    }

    fn admits(&self, mut kind: String, now: Instant) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind) {
            // One whose period is over without anything left out says nothing any more.
            kinds.retain(|_, kind| kind.left_out > 0 || now.saturating_duration_since(kind.since) < PERIOD);
            if kinds.len() >= MAX_KINDS {
                "other messages".clone_into(&mut kind);
            }
        }
        let kind = kinds.entry(kind).or_insert(Kind { since: now, logged: 0, left_out: 0 });
        if kind.left_out == 0 && now.saturating_duration_since(kind.since) >= PERIOD {
            *kind = Kind { since: now, logged: 0, left_out: 0 };
        }
        if kind.logged < LIMIT {
            kind.logged += 1;
            return true;
        }
        kind.left_out += 1;
        false
    }

    /// Logs what was left out in the periods that are over.
    pub(crate) fn sum_up(&self, now: Instant) {
        self.say(|kind| now.saturating_duration_since(kind.since) >= PERIOD, now);
    }

    /// Logs what was left out, period or not.
    pub(crate) fn finish(&self) {
        self.say(|_| true, Instant::now());
    }

    fn say(&self, is_over: impl Fn(&Kind) -> bool, now: Instant) {
        // Not while the map is locked: logging looks into it.
        for (text, count, seconds) in self.take(is_over, now) {
            tracing::warn!(target: TARGET, left_out = count, "{count} more like this within {seconds} s: {text}");
        }
    }

    fn take(&self, is_over: impl Fn(&Kind) -> bool, now: Instant) -> Vec<(String, u64, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for (text, kind) in kinds.iter_mut().filter(|(_, kind)| kind.left_out > 0 && is_over(kind)) {
            let seconds = now.saturating_duration_since(kind.since).as_secs();
            taken.push((text.clone(), mem::take(&mut kind.left_out), seconds));
            (kind.since, kind.logged) = (now, 0);
        }
        taken
    }
}

/// The message and fields of an event, with numbers and ids taken out: like messages differ in these.
struct Text(String);

impl Text {
    fn push(&mut self, text: &str) {
        for word in text.split_inclusive(char::is_whitespace) {
            if self.0.len() + word.len() > MAX_KIND_BYTES {
                return;
            }
            if word.contains(|c: char| c.is_ascii_digit()) {
                self.0.push_str("# ");
            } else {
                self.0.push_str(word);
            }
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            let _ = write!(self.0, "{}=", field.name());
        }
        self.push(value);
        self.0.push(' ');
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io;

    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn of_one_kind_so_many_are_logged_in_a_period_and_the_rest_counted() {
        let flood = Flood::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let admitted = (0..1_000).filter(|_| flood.admits("a".into(), start)).count();
        assert_eq!(admitted, LIMIT as usize);
        assert!(flood.admits("b".into(), start), "another kind is not held up");
        assert_eq!(flood.take(|kind| at(59) - kind.since >= PERIOD, at(59)), []);
        assert_eq!(flood.take(|kind| at(60) - kind.since >= PERIOD, at(60)), [("a".to_owned(), 990, 60)]);
        assert!(flood.admits("a".into(), at(60)), "a new period starts over");
        assert!((0..LIMIT * 2).filter(|_| flood.admits("b".into(), at(200))).count() == LIMIT as usize);
    }

    #[test]
    fn kinds_are_bounded() {
        let flood = Flood::default();
        let now = Instant::now();
        let admitted = (0..MAX_KINDS * 3).filter(|n| flood.admits(format!("kind {n}"), now)).count();
        assert_eq!(admitted, MAX_KINDS + LIMIT as usize);
        assert!(flood.kinds.lock().unwrap().len() <= MAX_KINDS + 1);
        assert!(flood.admits("new".into(), now + PERIOD), "kinds that are over make room");
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn messages_that_differ_in_numbers_alone_are_one_kind_and_infos_pass() {
        let kept = Kept::default();
        let flood = Arc::new(Flood::default());
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let layer = layer.map_event_format(|format| Gate { format, flood: Arc::clone(&flood) });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for number in 0..100 {
                tracing::warn!(input = "orders", id = %format!("{number}/0"), "event {number} failed");
                tracing::info!("event {number} done");
            }
            flood.finish();
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let count = |level: &str| text.lines().filter(|line| line.contains(level)).count();
        assert_eq!((count(" WARN "), count(" INFO ")), (LIMIT as usize + 1, 100), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains("90 more like this within") && last.contains("input=orders"), "{last}");
    }
}
