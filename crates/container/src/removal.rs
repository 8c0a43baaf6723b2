//! The duty to remove a container, however its run ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::ContainerError;

/// How long the engine may take to take up a request, or to answer it.
const LIMIT: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Removes a container when dropped, unless that was done.
pub(crate) struct Removal {
    socket: String,
    name: Option<String>,
}

impl Removal {
    pub(crate) fn new(engine: &Engine, name: &str) -> Self {
        Self { socket: engine.socket.clone(), name: Some(name.to_owned()) }
    }

    /// Removes it now.
    pub(crate) async fn now(mut self, engine: &Engine) -> Result<(), ContainerError> {
        if let Some(name) = &self.name {
            engine.remove(name).await?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Removal {
    /// Without the runtime, which may be ending: the request is written before this returns, so that it counts even if
    /// the program ends right then. The connection is kept until the engine has answered.
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return };
        let request = format!(
            "DELETE /containers/{name}?force=true&v=true HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.set_write_timeout(Some(LIMIT));
        if stream.write_all(request.as_bytes()).is_err() {
            return;
        }
        let _ = stream.set_read_timeout(Some(ANSWER_LIMIT));
        let _ = thread::Builder::new().name("dapper removal".to_owned()).spawn(move || {
            let _ = stream.read(&mut [0; 256]);
        });
    }
}
