//! Nothing is counted here.

pub(crate) fn count() -> u64 {
    0
}
