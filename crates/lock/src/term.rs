//! The names of a lease: its resource, its holder, its token, and the three together.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// What is locked: 1 to 200 bytes of text without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(Arc<str>);

/// Why a text can't be the name of a [`Resource`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// It is empty.
    #[error("the name of a resource is empty")]
    Empty,
    /// It is longer than [`Resource::MAX_BYTES`].
    #[error("the name of a resource has {bytes} bytes, more than {}", Resource::MAX_BYTES)]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It contains a control character.
    #[error("the name of a resource has a control character at byte {offset}")]
    ControlCharacter {
        /// Where, in bytes from the start.
        offset: usize,
    },
}

/// Who holds: random, drawn once per [`LockManager`](crate::LockManager), and never derived from a host name, so that
/// two processes on one machine, or one process before and after a restart, are never taken for each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(Uuid);

/// Which store issues the tokens: random, drawn once when a store is made, and kept with its tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(Uuid);

/// The number of a grant: above zero, issued by the store, greater than that of every earlier grant of the same
/// resource. Whoever protects something by a lease remembers the highest one it saw and refuses lower ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(NonZeroU64);

/// One exact grant. Renewing and releasing name it, so that neither can touch anybody else's, or a later one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// What is held.
    pub resource: Resource,
    /// Who holds it.
    pub holder: HolderId,
    /// Which grant it is.
    pub token: FencingToken,
}

impl Resource {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Takes a name.
    ///
    /// # Errors
    /// [`ResourceError`] when it is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES) or has control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, ResourceError> {
        let name = name.into();
        if name.is_empty() {
            return Err(ResourceError::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(ResourceError::TooLong { bytes: name.len() });
        }
        if let Some((offset, _)) = name.char_indices().find(|(_, character)| character.is_control()) {
            return Err(ResourceError::ControlCharacter { offset });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Resource {
    type Err = ResourceError;

    fn from_str(name: &str) -> Result<Self, ResourceError> {
        Self::new(name)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl HolderId {
    /// A new identity, unlike every other.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The identity as a number, for stores that keep it so and for seeding.
    #[must_use]
    pub fn as_u128(&self) -> u128 {
        self.0.as_u128()
    }
}

impl FromStr for HolderId {
    type Err = uuid::Error;

    /// Reads back what [`Display`](fmt::Display) wrote.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::from_str(text).map(Self)
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StoreId {
    /// The identity of every store that lives and dies with one process: its tokens mean nothing to the next process.
    pub const EPHEMERAL: Self = Self(Uuid::nil());

    /// A new identity, unlike every other.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for StoreId {
    type Err = uuid::Error;

    /// Reads back what [`Display`](fmt::Display) wrote.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::from_str(text).map(Self)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FencingToken {
    /// The token of a resource's first grant.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// Takes a number; `None` for zero, which is no token.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The token of the following grant; `None` when the numbers are used up.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_a_sensible_name() {
        assert_eq!(Resource::new("").unwrap_err(), ResourceError::Empty);
        assert_eq!(Resource::new("a\nb").unwrap_err(), ResourceError::ControlCharacter { offset: 1 });
        assert_eq!(Resource::new("a\0").unwrap_err(), ResourceError::ControlCharacter { offset: 1 });
        assert_eq!(Resource::new("ü".repeat(101)).unwrap_err(), ResourceError::TooLong { bytes: 202 });
        assert_eq!(Resource::new("ü".repeat(100)).unwrap().as_str().len(), 200);
        assert_eq!("it's \"odd\"".parse::<Resource>().unwrap().to_string(), "it's \"odd\"");
    }

    #[test]
    fn holders_differ_and_are_read_back() {
        let holder = HolderId::random();
        assert_ne!(holder, HolderId::random());
        assert_eq!(holder.to_string().parse::<HolderId>().unwrap(), holder);
    }

    #[test]
    fn stores_differ_and_are_read_back() {
        let store = StoreId::random();
        assert_ne!(store, StoreId::random());
        assert_ne!(store, StoreId::EPHEMERAL);
        assert_eq!(store.to_string().parse::<StoreId>().unwrap(), store);
    }

    #[test]
    fn tokens_start_above_zero_and_are_ordered_by_number() {
        assert_eq!(FencingToken::new(0), None);
        assert!(FencingToken::new(9).unwrap() < FencingToken::new(10).unwrap());
        assert_eq!(FencingToken::FIRST.next(), FencingToken::new(2));
        assert_eq!(FencingToken::new(u64::MAX).unwrap().next(), None);
        assert_eq!(FencingToken::new(7).unwrap().to_string(), "7");
    }
}
