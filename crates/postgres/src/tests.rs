//! Against real PostgreSQL.

mod ancestor;
mod capture;
mod cursor_rules;
mod full;
mod handle;
mod install;
mod lock_stores;
mod parking;
mod permissions;
mod schema_changes;
pub(crate) mod support;
mod zombie;
