//! What each case does. The list of all is in [`list`](crate::list).

pub(crate) mod cancellation;
pub(crate) mod exclusion;
pub(crate) mod identity;
pub(crate) mod names;
pub(crate) mod replies;
pub(crate) mod restored;
pub(crate) mod telling;
pub(crate) mod terms;
pub(crate) mod time;
pub(crate) mod tokens;
pub(crate) mod waiting;
