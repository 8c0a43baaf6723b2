//! Transaction snapshots, as PostgreSQL writes them.

use std::fmt;
use std::str::FromStr;

/// A `pg_snapshot`: which transactions are seen as finished. Written `xmin:xmax:xip,…`; see "Transaction ID and
/// Snapshot Information Functions" in the PostgreSQL manual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Every transaction below is finished.
    pub(crate) xmin: u64,
    /// No transaction at or above is finished.
    pub(crate) xmax: u64,
    /// Those in between that are still open, ascending.
    pub(crate) xip: Vec<u64>,
}

/// The text is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no transaction snapshot (xmin:xmax:xip,…)")]
pub(crate) struct InvalidSnapshot {
    /// The text.
    pub(crate) text: String,
}

impl Snapshot {
    /// The snapshot that sees nothing: with it as the start, everything is unread. A new cursor row has it.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn beginning() -> Self {
        Self { xmin: 1, xmax: 1, xip: Vec::new() }
    }

    /// Whether it sees `xid` as finished (`pg_visible_in_snapshot`).
    #[must_use]
    pub(crate) fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// Whether it sees everything that `earlier` sees. Of two snapshots of one cluster one always does.
    #[must_use]
    pub(crate) fn includes(&self, earlier: &Self) -> bool {
        self.xmax >= earlier.xmax && self.xip.iter().all(|&xid| !earlier.sees(xid))
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let xmin: u64 = parts.next()?.parse().ok()?;
            let xmax: u64 = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let xip: Vec<u64> = if list.is_empty() {
                Vec::new()
            } else {
                list.split(',').map(|xid| xid.parse().ok()).collect::<Option<_>>()?
            };
            let ordered = xmin <= xmax
                && xip.windows(2).all(|pair| pair[0] < pair[1])
                && xip.iter().all(|xid| (xmin..xmax).contains(xid));
            ordered.then_some(Self { xmin, xmax, xip })
        };
        parse().ok_or_else(|| InvalidSnapshot { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.xip.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{xid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_manuals_example() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        assert_eq!(snapshot.to_string(), "10:20:10,14,15");
        assert!(snapshot.sees(9) && snapshot.sees(11) && snapshot.sees(19));
        assert!(!snapshot.sees(10) && !snapshot.sees(15) && !snapshot.sees(20));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1", "1:2", "2:1:", "1:3:2,2", "1:3:5", "a:b:", "1:3:2,"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(xmin in 1u64..1000, open in prop::collection::btree_set(0u64..500, 0..20)) {
            let xip: Vec<u64> = open.iter().map(|n| xmin + n).collect();
            let snapshot = Snapshot { xmin, xmax: xmin + 500, xip };
            prop_assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,40}") {
            let _ = text.parse::<Snapshot>();
        }
    }
}
