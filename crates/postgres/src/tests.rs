//! Against real PostgreSQL.

mod ancestor;
mod capture;
mod cursor_rules;
mod handle;
mod install;
mod lock_stores;
pub(crate) mod support;
mod zombie;
