//! What running a server as a child process takes.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

const LOG_TAIL_BYTES: usize = 2_000;

/// A port of this machine that nobody listened on a moment ago.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The end of what a program said.
pub(crate) fn tail(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let start = text.len().saturating_sub(LOG_TAIL_BYTES);
    let start = (start..text.len()).find(|&index| text.is_char_boundary(index)).unwrap_or(text.len());
    text[start..].trim().to_owned()
}

pub(crate) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    signal::kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_cut_at_a_character() {
        let text = "ä".repeat(LOG_TAIL_BYTES);
        let end = tail(text.as_bytes());
        assert!(end.len() <= LOG_TAIL_BYTES && end.chars().all(|c| c == 'ä'));
        assert_eq!(tail(b" short \n"), "short");
    }
}
