//! The protected row, fenced as the cursor row is.

use dapper_lock::FencingToken;

use crate::Break;

/// What a holder asks of the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowRequest {
    /// Seal the row with this token, and read it.
    TakeOver(FencingToken),
    /// Change the row under this token.
    Write(FencingToken),
}

/// A row that remembers the token of the holder that took it over last.
#[derive(Clone, Debug)]
pub struct Row {
    token: Option<FencingToken>,
    broken: Option<Break>,
}

impl Row {
    /// A row that nobody has taken over.
    #[must_use]
    pub fn new(broken: Option<Break>) -> Self {
        Self { token: None, broken }
    }

    /// The token that the row is sealed with.
    #[must_use]
    pub fn token(&self) -> Option<FencingToken> {
        self.token
    }

    /// Does what is asked, or refuses it.
    pub fn handle(&mut self, request: RowRequest) -> bool {
        match request {
            RowRequest::TakeOver(token) if self.broken == Some(Break::Seal) => self.token <= Some(token),
            RowRequest::TakeOver(token) => {
                let accepted = self.token < Some(token);
                if accepted {
                    self.token = Some(token);
                }
                accepted
            }
            RowRequest::Write(_) if self.broken == Some(Break::Fence) => true,
            RowRequest::Write(token) if self.broken == Some(Break::Seal) => {
                let accepted = self.token <= Some(token);
                if accepted {
                    self.token = Some(token);
                }
                accepted
            }
            RowRequest::Write(token) => self.token == Some(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    #[test]
    fn only_the_last_one_to_take_over_writes() {
        let mut row = Row::new(None);
        assert!(!row.handle(RowRequest::Write(token(1))));
        assert!(row.handle(RowRequest::TakeOver(token(1))) && row.handle(RowRequest::Write(token(1))));
        assert!(row.handle(RowRequest::TakeOver(token(3))));
        for request in
            [RowRequest::Write(token(1)), RowRequest::TakeOver(token(2)), RowRequest::TakeOver(token(3))]
        {
            assert!(!row.handle(request), "{request:?}");
        }
        assert!(row.handle(RowRequest::Write(token(3))));
    }
}
