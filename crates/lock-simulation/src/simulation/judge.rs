//! Keeps books of its own on what was granted, promised and written, and compares.

use std::fmt;

use dapper_lock::{FencingToken, HolderId};

use crate::RowRequest;

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
                write!(f, "foreign write: the row accepted token {token} from a holder that was never granted it")
            }
            Self::TokenOrder { token, before } => {
                write!(f, "token order: token {token} was granted after token {before}")
            }
            Self::NoProgress => write!(f, "no progress: nothing was written after the faults had stopped"),
        }
    }
}

/// The books on one resource.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    grants: Vec<Grant>,
    begun: Option<FencingToken>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    token: FencingToken,
    holder: HolderId,
    promised_until: u64,
    released: bool,
    /// Somebody ended its session while its holder was well, so it may overlap with its successor until that holder is
    /// told or its trust ends.
    forced: bool,
}

impl Book {
    pub(crate) fn granted(
        &mut self,
        token: FencingToken,
        holder: HolderId,
        promised_until: u64,
    ) -> Result<(), Violation> {
        let before = self.grants.last().map(|grant| grant.token);
        self.grants.push(Grant { token, holder, promised_until, released: false, forced: false });
        match before {
            Some(before) if token <= before => Err(Violation::TokenOrder { token, before }),
            _ => Ok(()),
        }
    }

    /// A renewal has reached the store. Only the last term, and only while it runs, is promised anything.
    pub(crate) fn asked_to_renew(&mut self, now: u64, token: FencingToken, promised_until: u64) {
        if let Some(last) = self.grants.last_mut()
            && last.token == token
            && !last.released
            && now < last.promised_until
        {
            last.promised_until = last.promised_until.max(promised_until);
        }
    }

    pub(crate) fn released(&mut self, token: FencingToken) {
        if let Some(grant) = self.grant_mut(token) {
            grant.released = true;
        }
    }

    pub(crate) fn forced(&mut self, token: FencingToken) {
        if let Some(grant) = self.grant_mut(token) {
            grant.forced = true;
        }
    }

    pub(crate) fn is_forced(&self, token: FencingToken) -> bool {
        self.grant(token).is_some_and(|grant| grant.forced)
    }

    /// Until when the store has promised the term; nothing for a term that it never granted.
    pub(crate) fn promised_until(&self, token: FencingToken) -> u64 {
        self.grant(token).map_or(0, |grant| grant.promised_until)
    }

    /// The row has accepted something.
    pub(crate) fn accepted(&mut self, holder: HolderId, request: RowRequest) -> Result<(), Violation> {
        let (RowRequest::TakeOver(token) | RowRequest::Write(token)) = request;
        if let Some(begun) = self.begun.filter(|begun| token < *begun) {
            return Err(Violation::StaleWrite { accepted: token, begun });
        }
        self.begun = Some(token);
        if self.grants.iter().any(|grant| grant.token == token && grant.holder == holder) {
            return Ok(());
        }
        Err(Violation::ForeignWrite { token })
    }

    fn grant(&self, token: FencingToken) -> Option<&Grant> {
        self.grants.iter().rev().find(|grant| grant.token == token)
    }

    fn grant_mut(&mut self, token: FencingToken) -> Option<&mut Grant> {
        self.grants.iter_mut().rev().find(|grant| grant.token == token)
    }
}
