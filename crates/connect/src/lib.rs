//! Connections to PostgreSQL from a connection string, as libpq reads it: TLS in all its modes, several hosts, `PG*`
//! variables, password and service files.
//!
//! [`ConnectionString::parse`] takes a URL or a key=value string that says everything by itself. What a person expects
//! besides (`PG*` variables, `~/.pgpass`, a service) is put in beforehand by [`complete`], from an [`Environment`] that
//! the caller passes: this crate never reads variables of the process. Files that a string names (certificates, keys,
//! the password file) are read anew by each [`connect`](ConnectionString::connect), so that replacing them needs no
//! restart.
//!
//! What it does not do: pool connections, or know anything of what they are for. Whatever it does not support is refused
//! by name ([`PARAMETERS`]), never passed over. No password is ever part of an error, of `Debug` or of `Display`.
//!
//! ```
//! use dapper_connect::ConnectionString;
//!
//! # fn main() -> Result<(), dapper_connect::ConnectionStringError> {
//! let text = "postgresql://app:secret@db-1,db-2/shop?sslmode=verify-full&sslrootcert=/etc/ca.pem";
//! let connection = ConnectionString::parse(&text.to_owned().into())?;
//! assert_eq!(connection.to_string(), "db-1:5432,db-2:5432, database \"shop\", user \"app\"");
//! # Ok(())
//! # }
//! ```

mod connect;
mod connection_string;
mod environment;
mod error;
mod parameters;
mod parse;
mod password_file;
mod service_file;
mod tls;
mod verify;

pub use connect::Driver;
pub use connection_string::ConnectionString;
pub use environment::{Environment, complete};
pub use error::{ConnectError, ConnectionStringError};
pub use parameters::{PARAMETERS, Parameter, Support};
