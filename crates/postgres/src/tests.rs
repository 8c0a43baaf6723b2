//! Against real PostgreSQL.

mod ancestor;
mod capture;
mod cursor_rules;
mod handle;
mod install;
pub(crate) mod support;
