//! Against real PostgreSQL.

mod ancestor;
mod capture;
mod capture_errors;
mod cursor_rules;
mod full;
mod handle;
mod image_values;
mod images;
mod install;
mod keys;
mod lock_stores;
mod matrix;
pub(crate) mod parking;
mod permissions;
mod schema_changes;
mod server_faults;
mod status;
mod steering;
pub(crate) mod support;
mod zombie;
