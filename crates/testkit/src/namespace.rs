//! A network of its own for a process, with a link that can be cut.

use std::ffi::OsStr;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Everything here is in this network, which is set aside for measuring (RFC 2544).
const NETWORK: [u8; 2] = [198, 18];
/// Each namespace has four addresses of it.
const NAMESPACES: u16 = 1 << 14;
const TRIES: u32 = 100;

/// A network namespace that is joined to this machine by one link. Cutting the link is silence: nothing is ended,
/// nothing reset, no address is unknown, and nobody answers.
///
/// Needs Linux, root (or what it takes to make namespaces), and the programs `ip`, `unshare` and `nsenter`. It goes when
/// it is dropped, and when this process ends in whatever way, as soon as nothing runs in it any more: it belongs to a
/// process that waits for the end of this one.
#[derive(Debug)]
pub struct Namespace {
    keeper: Keeper,
    number: u16,
}

/// The process that the namespace lives in. It reads a pipe of which we hold the only other end, so it ends with us.
#[derive(Debug)]
struct Keeper(Child);

impl Namespace {
    /// The addresses that namespaces have, for a server that is to be reached from them.
    pub const ADDRESSES: &str = "198.18.0.0/16";

    /// Makes one.
    ///
    /// # Errors
    /// When this process may not, or one of the programs is missing or fails.
    pub fn create() -> io::Result<Self> {
        let mut command = Command::new("unshare");
        // `cat` says that it runs, and so that the namespace is there, by echoing a line.
        command.args(["--net", "--", "cat"]).process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut keeper = Keeper(child);
        keeper.wait_until_ready()?;
        let pid = keeper.0.id().to_string();
        for _ in 0..TRIES {
            let number = fastrand::u16(0..NAMESPACES);
            let (outside, inside) = (link(number), format!("{}i", link(number)));
            // The name of the link is the lock on its addresses: somebody else's makes this fail.
            let made = ip(["link", "add", &outside, "type", "veth", "peer", "name", &inside, "netns", &pid]);
            match made {
                Err(error) if error.to_string().contains("File exists") => continue,
                other => other?,
            }
            let namespace = Self { keeper, number };
            ip(["addr", "add", &format!("{}/30", namespace.outside()), "dev", &outside])?;
            ip(["link", "set", &outside, "up"])?;
            namespace.inside(["ip", "addr", "add", &format!("{}/30", address(number, 2)), "dev", &inside])?;
            namespace.inside(["ip", "link", "set", &inside, "up"])?;
            namespace.inside(["ip", "link", "set", "lo", "up"])?;
            return Ok(namespace);
        }
        Err(io::Error::other("no addresses are left for a network namespace"))
    }

    /// This machine's address as what runs inside sees it.
    #[must_use]
    pub fn outside(&self) -> Ipv4Addr {
        address(self.number, 1)
    }

    /// What to put before a command line so that it runs inside, under the process id it is started with.
    #[must_use]
    pub fn launcher(&self) -> Vec<String> {
        let pid = self.keeper.0.id().to_string();
        ["nsenter", "--target", &pid, "--net", "--"].map(str::to_owned).into()
    }

    /// Cuts the link.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self) -> io::Result<()> {
        ip(["link", "set", &link(self.number), "down"])
    }

    /// Joins it again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn heal(&self) -> io::Result<()> {
        ip(["link", "set", &link(self.number), "up"])
    }

    fn inside<const N: usize>(&self, command: [&str; N]) -> io::Result<()> {
        let launcher = self.launcher();
        run(launcher.iter().map(String::as_str).chain(command))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Ends the other end with it, and does not wait for the last process inside.
        let _ = ip(["link", "del", &link(self.number)]);
    }
}

impl Keeper {
    fn wait_until_ready(&mut self) -> io::Result<()> {
        use std::io::{Read, Write};
        let (Some(stdin), Some(stdout)) = (self.0.stdin.as_mut(), self.0.stdout.as_mut()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let refused = |_| io::Error::other("no network namespace can be made (unshare --net): is this root?");
        // Nobody reads what is written if it has ended already.
        stdin.write_all(b"\n").map_err(refused)?;
        stdout.read_exact(&mut [0]).map_err(refused)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn link(number: u16) -> String {
    format!("dapper{number}")
}

fn address(number: u16, host: u16) -> Ipv4Addr {
    let [high, low] = (number * 4 + host).to_be_bytes();
    Ipv4Addr::new(NETWORK[0], NETWORK[1], high, low)
}

fn ip<const N: usize>(arguments: [&str; N]) -> io::Result<()> {
    run(std::iter::once("ip").chain(arguments))
}

fn run<'a>(mut command: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let program = command.next().unwrap_or_default();
    let arguments: Vec<&OsStr> = command.map(OsStr::new).collect();
    let output = Command::new(program).args(&arguments).stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {arguments:?}: {said}")))
}
