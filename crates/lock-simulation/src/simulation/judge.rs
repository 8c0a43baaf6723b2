//! Keeps books of its own on what was granted, promised and written, and compares.

use dapper_lock::{FencingToken, HolderId};

use crate::{RowRequest, Violation};

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
