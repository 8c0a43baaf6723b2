//! Drives a headless Chromium, for the tests and the pictures of dapper's page. Not published.
//!
//! [`Browser`] speaks the DevTools protocol over a pipe; [`Stage`] runs a real pipeline with real replicas, whose pages it
//! looks at. It contains no browser: Chromium must be there, by one of its usual names or where `DAPPER_TEST_CHROMIUM`
//! says; `cargo xtask` sees to that. It assumes `sh`.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let browser = dapper_browser::Browser::start()?;
//! let mut page = browser.open("http://127.0.0.1:9090/", &dapper_browser::View::default())?;
//! println!("{}", page.evaluate("document.title")?);
//! # Ok(())
//! # }
//! ```

mod browser;
mod stage;

pub use browser::{Browser, Page, View};
pub use stage::{Stage, TOKEN, program};
