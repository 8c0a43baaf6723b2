//! What can be broken on purpose, to see that the simulation and the model would notice.

use std::fmt;

/// One rule left out. Each is left out around the production machine, in the driver, the store or the row of this
/// crate; the machine itself has no such switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Break {
    /// The row accepts writes without comparing tokens.
    Fence,
    /// A new holder reads the row without sealing it; only its first write raises the row's token.
    Seal,
    /// The store renews without comparing terms: it writes down the caller's, whatever is there.
    ExactRenew,
    /// The store releases whatever the caller holds, not the term that is named.
    ExactRelease,
    /// The machine is asked for a request only when its answer is there, so trust counts from the answer.
    Anchor,
    /// The holder trusts its term for the whole time to live, though its clock may be slow.
    Margin,
    /// An answer that leaves open what the store did counts as "held".
    Unclear,
    /// The store forgets its last grant when it restarts, and issues the token again.
    TokenReuse,
    /// The server gives a silent client's session up after a quarter of the time to live.
    Patience,
}

impl Break {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Fence,
        Self::Seal,
        Self::ExactRenew,
        Self::ExactRelease,
        Self::Anchor,
        Self::Margin,
        Self::Unclear,
        Self::TokenReuse,
        Self::Patience,
    ];

    /// Whether the model has what it takes to show the harm: it knows no failures that a caller is told of, no restart
    /// of the store, and no server that loses patience.
    #[must_use]
    pub fn is_modelled(self) -> bool {
        !matches!(self, Self::Unclear | Self::TokenReuse | Self::Patience)
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fence => "fence",
            Self::Seal => "seal",
            Self::ExactRenew => "exact-renew",
            Self::ExactRelease => "exact-release",
            Self::Anchor => "anchor",
            Self::Margin => "margin",
            Self::Unclear => "unclear",
            Self::TokenReuse => "token-reuse",
            Self::Patience => "patience",
        })
    }
}
