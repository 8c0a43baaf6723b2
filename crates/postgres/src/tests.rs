//! Against real PostgreSQL.

mod ancestor;
mod capture;
mod capture_errors;
mod cursor_rules;
mod full;
mod handle;
mod images;
mod install;
mod keys;
mod lock_stores;
mod matrix;
mod permissions;
mod schema_changes;
pub(crate) mod support;
mod zombie;
