//! For dapper's own tests: points in the program at which it is killed or stopped, and rules that it can be made to
//! break, so that a test shows that it would notice.
//!
//! The product's crates depend on this one only with their feature `failpoints`, which is off by default and must never
//! be on in a program that is used; without it neither a point nor a rule leaves a trace in them. It reads no environment:
//! the program's `main` does, and calls [`configure`]. State is the process's, so it assumes one program per process.
//!
//! ```
//! use dapper_failpoints::{Rule, configure, is_broken};
//!
//! configure("break=fence").unwrap();
//! assert!(is_broken(Rule::Fence) && !is_broken(Rule::Seal));
//! ```

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

/// How often the control file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const COUNT_BITS: u32 = 32;

/// Where the program can be killed or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The store granted the lease; nothing is done with it yet.
    AfterGrant,
    /// Before the cursor is sealed.
    BeforeSeal,
    /// The cursor is sealed, and nothing read yet.
    AfterSeal,
    /// A batch is read, and not claimed.
    AfterRead,
    /// Before a batch is claimed.
    BeforeClaim,
    /// A batch is claimed, and nothing of it handed out.
    AfterClaim,
    /// A batch is handed out.
    AfterHandOut,
    /// Before any write of the cursor row.
    BeforeAdvance,
    /// After any write of the cursor row.
    AfterAdvance,
    /// Before a process is called.
    BeforeCall,
    /// A process has handled an event, and nobody knows it yet.
    AfterCall,
    /// Before the lease is renewed.
    BeforeRenew,
    /// The lease is renewed, and the answer not looked at yet.
    AfterRenew,
    /// Before the lease is given back.
    BeforeRelease,
    /// Before anything of events that failed is written down.
    BeforePark,
    /// Something of events that failed is written down, and nobody knows it yet.
    AfterPark,
    /// Parked events are claimed, and nothing of them handed out.
    AfterResume,
}

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The cursor row is written only under its own token and version.
    Fence,
    /// A takeover writes its token, and counts the attempt, before it reads the row.
    Seal,
    /// The snapshot is that of the statement which reads.
    SameStatementSnapshot,
    /// The transaction that reads has no transaction id.
    NoXid,
    /// A batch is claimed before anything of it is delivered.
    ClaimBeforeDeliver,
    /// Only the very term that is named is renewed.
    ExactTermRenewal,
    /// Events of one key are delivered one after the other.
    PerKeyOrder,
}

/// What [`configure`] could not make sense of.
#[derive(Debug, thiserror::Error)]
#[error("{word:?} is not control=FILE or break=RULE; rules are {}", Rule::ALL.map(Rule::name).join(", "))]
pub struct ConfigureError {
    /// The part at fault.
    pub word: String,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AfterGrant,
        Self::BeforeSeal,
        Self::AfterSeal,
        Self::AfterRead,
        Self::BeforeClaim,
        Self::AfterClaim,
        Self::AfterHandOut,
        Self::BeforeAdvance,
        Self::AfterAdvance,
        Self::BeforeCall,
        Self::AfterCall,
        Self::BeforeRenew,
        Self::AfterRenew,
        Self::BeforeRelease,
        Self::BeforePark,
        Self::AfterPark,
        Self::AfterResume,
    ];

    /// As a control file names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfterGrant => "after-grant",
            Self::BeforeSeal => "before-seal",
            Self::AfterSeal => "after-seal",
            Self::AfterRead => "after-read",
            Self::BeforeClaim => "before-claim",
            Self::AfterClaim => "after-claim",
            Self::AfterHandOut => "after-hand-out",
            Self::BeforeAdvance => "before-advance",
            Self::AfterAdvance => "after-advance",
            Self::BeforeCall => "before-call",
            Self::AfterCall => "after-call",
            Self::BeforeRenew => "before-renew",
            Self::AfterRenew => "after-renew",
            Self::BeforeRelease => "before-release",
            Self::BeforePark => "before-park",
            Self::AfterPark => "after-park",
            Self::AfterResume => "after-resume",
        }
    }
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Fence,
        Self::Seal,
        Self::SameStatementSnapshot,
        Self::NoXid,
        Self::ClaimBeforeDeliver,
        Self::ExactTermRenewal,
        Self::PerKeyOrder,
    ];

    /// As `break=` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Seal => "seal",
            Self::SameStatementSnapshot => "same-statement-snapshot",
            Self::NoXid => "no-xid",
            Self::ClaimBeforeDeliver => "claim-before-deliver",
            Self::ExactTermRenewal => "exact-term-renewal",
            Self::PerKeyOrder => "per-key-order",
        }
    }
}

static BROKEN: AtomicU32 = AtomicU32::new(0);
/// Zero when nothing is to happen; else which action at which point, and in the low bits at which time it is reached.
static ARMED: AtomicU64 = AtomicU64::new(0);

/// Takes up words separated by `;`: `break=RULE`, and `control=FILE`, a file that is read again and again. A line in it such
/// as `after-claim kill 3` or `after-read stop 1` says that the process ends without a word, or stops until it is told to
/// go on, when it reaches that point for the third or the first time from then on. An empty or missing file disarms.
///
/// # Errors
/// For any other word.
pub fn configure(text: &str) -> Result<(), ConfigureError> {
    for word in text.split(';').map(str::trim).filter(|word| !word.is_empty()) {
        let wrong = || ConfigureError { word: word.to_owned() };
        match word.split_once('=').ok_or_else(wrong)? {
            ("break", name) => {
                let index = Rule::ALL.iter().position(|rule| rule.name() == name).ok_or_else(wrong)?;
                BROKEN.fetch_or(1 << index, Ordering::Relaxed);
            }
            ("control", file) => watch(file.into()),
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

/// Whether a rule is to be broken.
#[must_use]
pub fn is_broken(rule: Rule) -> bool {
    BROKEN.load(Ordering::Relaxed) & (1 << rule as u32) != 0
}

/// Does what is armed for this point.
pub fn reach(point: Point) {
    let armed = ARMED.load(Ordering::Relaxed);
    if armed == 0 || (armed >> (COUNT_BITS + 8)) != point as u64 {
        return;
    }
    let taken = ARMED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
        (now == armed).then(|| if armed & u64::from(u32::MAX) <= 1 { 0 } else { armed - 1 })
    });
    if taken.is_ok() && armed & u64::from(u32::MAX) <= 1 {
        let kill = (armed >> COUNT_BITS) & 0xff == 1;
        let _ = raise(if kill { Signal::SIGKILL } else { Signal::SIGSTOP });
    }
}

fn watch(file: PathBuf) {
    thread::spawn(move || {
        let mut last = String::new();
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text != last {
                ARMED.store(armed(&text).unwrap_or(0), Ordering::Relaxed);
                last = text;
            }
            thread::sleep(LOOK_EVERY);
        }
    });
}

fn armed(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let name = words.next()?;
    let point = Point::ALL.into_iter().find(|point| point.name() == name)? as u64;
    let action = match words.next()? {
        "kill" => 1,
        "stop" => 2,
        _ => return None,
    };
    let count: u32 = words.next()?.parse().ok()?;
    Some((point << (COUNT_BITS + 8)) | (action << COUNT_BITS) | u64::from(count.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arms_one_point() {
        let wanted = (3_u64 << 40) | (1 << 32) | 7;
        assert_eq!(armed("after-read kill 7\n"), Some(wanted));
        assert_eq!(armed("after-read"), None);
        assert_eq!(armed("after-lunch kill 7"), None);
    }

    #[test]
    fn names_are_in_the_order_of_their_numbers() {
        assert!(Point::ALL.iter().enumerate().all(|(index, &point)| point as usize == index));
        assert!(Rule::ALL.iter().enumerate().all(|(index, &rule)| rule as usize == index));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(configure("break=everything").is_err() && configure("fence").is_err());
    }
}
