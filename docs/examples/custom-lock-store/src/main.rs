//! `dapper` with one lock backend more: `backend = "file"`.

use std::process::ExitCode;
use std::sync::Arc;

use custom_lock_store::FileStore;
use dapper_orchestrator_cli::{App, LockBackend};

fn main() -> ExitCode {
    let file = LockBackend::new(&["directory"], |config| {
        let directory = config.required_text("directory")?;
        Ok(Arc::new(FileStore::new(directory)))
    });
    App::new().lock_backend("file", file).main()
}
