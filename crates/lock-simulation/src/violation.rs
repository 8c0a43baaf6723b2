//! What must never be.

use std::fmt;

use dapper_lock::FencingToken;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two holders of one resource were valid at the same time.
    TwoHolders {
        /// The one whose term began.
        new: FencingToken,
        /// The one that still trusted its own.
        old: FencingToken,
    },
    /// A holder trusted its term for longer than the store had promised it.
    Trust {
        /// Whose term it is.
        token: FencingToken,
    },
    /// The row accepted something of a lower token after a holder of a higher one had begun with it.
    StaleWrite {
        /// What it accepted.
        accepted: FencingToken,
        /// The token of the one that had begun.
        begun: FencingToken,
    },
    /// The row accepted something from a holder that was never granted the token it named.
    ForeignWrite {
        /// The token.
        token: FencingToken,
    },
    /// A grant's token was not above the one before.
    TokenOrder {
        /// The token.
        token: FencingToken,
        /// The one before.
        before: FencingToken,
    },
    /// Nothing was written in the time after the last fault in which it should have been.
    NoProgress,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoHolders { new, old } => {
                write!(f, "two holders: token {new} begins to be valid while token {old} still is")
            }
            Self::Trust { token } => {
                write!(f, "trust: the holder of token {token} trusts it longer than the store promised")
            }
            Self::StaleWrite { accepted, begun } => write!(
                f,
                "stale write: the row accepted token {accepted} after the holder of token {begun} had begun"
            ),
            Self::ForeignWrite { token } => {
                write!(
                    f,
                    "foreign write: the row accepted token {token} from a holder that was never granted it"
                )
            }
            Self::TokenOrder { token, before } => {
                write!(f, "token order: token {token} was granted after token {before}")
            }
            Self::NoProgress => write!(f, "no progress: nothing was written after the faults had stopped"),
        }
    }
}
