//! Connections to a real PostgreSQL server that does TLS.

mod certificates;
mod clients;
mod documentation;
mod downgrade;
mod hosts;
mod modes;
mod support;
