//! What a replica says over HTTP: `/live`, `/ready`, `/metrics`, `/status`, and a live page.
//!
//! A [`Watch`] looks at the inputs of a pipeline again and again: at their databases, through a [`Source`] that whoever
//! runs the pipeline brings along, and at what the libraries count, through a [`Registry`] that takes part in the
//! `metrics` facade. A [`Server`] answers from what it saw.
//!
//! It contains no database client and runs no pipeline. It answers HTTP/1.1 without TLS, and shows everybody who reaches
//! it the graph, its figures, keys and error texts: put it on a loopback address, or behind something that knows its
//! users. Whoever acts must know a token. It is assumed that error texts hold no secret, as for logs.
//!
//! ```
//! use std::sync::Arc;
//! # use dapper_http::*;
//! # struct Nothing;
//! # #[async_trait::async_trait]
//! # impl Source for Nothing {
//! #     async fn observe(&self, _: &str) -> Result<Option<Observation>, SourceError> { Ok(None) }
//! #     async fn letters(&self, _: &str, _: u32) -> Result<(Vec<Letter>, Vec<Letter>), SourceError> { Ok(Default::default()) }
//! #     async fn act(&self, _: Action, _: Kind, _: &str, _: i64) -> Result<u64, SourceError> { Ok(0) }
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let options = ServerOptions { address: "127.0.0.1:0".parse()?, token: None, hosts: Vec::new() };
//! let server = Server::bind(options).await?;
//! println!("http://{}/", server.address());
//! let stop = dapper_core::CancellationToken::new();
//! let watch = Watch::new(Graph::default(), Registry::default(), Arc::new(Nothing), stop.clone());
//! # stop.cancel();
//! server.serve(watch, stop).await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod guard;
mod history;
mod page;
mod ready;
mod registry;
mod routes;
mod server;
mod source;
mod watch;

pub use guard::SHORTEST_TOKEN;
pub use ready::Role;
pub use registry::Registry;
pub use routes::MOST_BODY_BYTES;
pub use server::{HEADER_LIMIT, MOST_CONNECTIONS, Server, ServerError, ServerOptions};
pub use source::{Action, Graph, Kind, Letter, Observation, Source, SourceError};
pub use watch::Watch;
