//! Against real PostgreSQL.

mod ancestor;
mod capture;
mod cursor_rules;
mod full;
mod handle;
mod install;
mod lock_stores;
mod permissions;
mod schema_changes;
mod server_faults;
pub(crate) mod support;
mod zombie;
