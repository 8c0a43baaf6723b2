//! Network namespaces, where this may make them: as root, with the programs they need.

use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dapper_testkit::Namespace;

/// Sends a line every 20 ms from inside to the address and port given as arguments.
const SENDER: &str = "exec 3<>/dev/tcp/$1/$2; while echo tick >&3; do sleep 0.02; done";

/// A namespace; none, which is said, where this is not root. As root, its absence is an error.
fn namespace(test: &str) -> Option<Namespace> {
    match Namespace::create() {
        Ok(namespace) => Some(namespace),
        Err(error) if !nix::unistd::geteuid().is_root() => {
            eprintln!("{test} is left out: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn run_inside(namespace: &Namespace, script: &str, arguments: &[String]) -> Child {
    let launcher = namespace.launcher();
    let mut command = Command::new(&launcher[0]);
    command.args(&launcher[1..]).args(["bash", "-c", script, "sender"]).args(arguments);
    command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_cut_link_is_silence_and_a_joined_one_goes_on() {
    let Some(namespace) = namespace("a_cut_link_is_silence_and_a_joined_one_goes_on") else { return };
    let listener = TcpListener::bind((IpAddr::from(namespace.outside()), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sender = run_inside(&namespace, SENDER, &[namespace.outside().to_string(), port.to_string()]);
    let (mut connection, peer) = listener.accept().unwrap();
    assert_ne!(peer.ip(), IpAddr::from(namespace.outside()));
    let mut line = [0; 5];
    connection.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"tick\n");
    namespace.cut().unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // What had arrived before comes first, then nothing: no end and no reset.
    let error = std::iter::repeat_with(|| connection.read_exact(&mut line)).find_map(Result::err).unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    namespace.heal().unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    connection.read_exact(&mut [0; 1]).unwrap();
    sender.kill().unwrap();
    sender.wait().unwrap();
}

#[test]
fn the_process_id_is_kept_and_nothing_is_left() {
    let Some(namespace) = namespace("the_process_id_is_kept_and_nothing_is_left") else { return };
    let link = format!("{}/30", namespace.outside());
    let addresses = || {
        let output = Command::new("ip").args(["-oneline", "addr"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(addresses().contains(&link));
    let child = run_inside(&namespace, "test $$ = $PPID || exec sleep 60", &[]);
    let mut child = child;
    let comm = || std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default();
    crate::survivors::soon("the program runs under the id of its launcher", || comm() == "sleep\n");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(namespace);
    assert!(!addresses().contains(&link), "{}", addresses());
}
