//! Reads and writes what the database says about changed rows: the ancestor's notification, which speaks of one row,
//! and our change set, which speaks of as many as one statement touched.
//!
//! Text in, [`Payload`] or positioned [`ParseError`] out. This crate does no I/O, needs no runtime, and panics on no
//! input. It assumes nothing of the text but that it is UTF-8. Values are borrowed from the text and handed on as they
//! were written, so that no number loses a digit; the text must therefore outlive the payload.
//!
//! # Two forms
//! - The notification, `{"tbl": "orders", "id": 42, "op": "INSERT"}`: `id` is a string, a number, `true`, `false` or
//!   `null`, or is left out.
//! - The change set. `schema` may be left out and means `public` then. `key` names the key columns and may be left out
//!   for a table without a key. `ids` holds one element per changed row: with one key column its value, whatever JSON
//!   it is; with several an array of exactly as many values; with none `null`. `old` and `new`, when present, hold one
//!   row image per changed row, a JSON object or `null`.
//!
//! In both, `op` is one of [`ChangeKind`] in any case. `TRUNCATE` goes without rows and counts as one change without
//! id. An optional field that is `null` counts as left out; fields of other names are ignored, so that a newer writer
//! can add some.
//!
//! ```
//! use dapper_payload::{ChangeKind, parse};
//!
//! let payload = parse(
//!     r#"{"schema": "audit", "tbl": "orders", "op": "UPDATE", "key": ["region", "nr"],
//!         "ids": [["eu", 1], ["us", 2]], "new": [{"total": 10.50}, null]}"#,
//! )?;
//! assert_eq!(payload.location(), "audit.orders");
//! assert_eq!(payload.kind(), ChangeKind::Update);
//!
//! let changes: Vec<_> = payload.changes().collect();
//! assert_eq!(changes[0].id(), r#"["eu",1]"#);
//! assert_eq!(changes[0].key_json().unwrap().get(), r#"{"region":"eu","nr":1}"#);
//! assert_eq!(changes[0].new().unwrap().get(), r#"{"total": 10.50}"#);
//! assert!(changes[1].new().is_none());
//!
//! let error = parse(r#"{"tbl": "orders", "id": 42, "op": "EXPLODE"}"#).unwrap_err();
//! assert_eq!((error.offset(), error.offending()), (34, "\"EXPLODE\""));
//! # Ok::<(), dapper_payload::ParseError>(())
//! ```

mod compact;
mod error;
mod fields;
mod kind;
mod parse;
mod payload;
mod write;

pub use error::{MAX_OFFENDING_CHARS, ParseError};
pub use kind::ChangeKind;
pub use parse::{MAX_KEY_COLUMNS, MAX_PAYLOAD_BYTES, parse};
pub use payload::{Change, Changes, Payload};
