//! Nothing that a process starts survives it, in whatever way it ends.
//!
//! Each test runs this very test binary again as the process that is to die.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dapper_testkit::{EtcdOptions, EtcdServer, Namespace, Server, ServerOptions};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

const VICTIM: &str = "DAPPER_TESTKIT_VICTIM";

/// The process that is to die; a test only when run by the others.
#[test]
fn victim() {
    let Ok(role) = std::env::var(VICTIM) else { return };
    if role == "during-initdb" {
        // Says nothing: whoever runs it kills it at some moment of the start.
        Server::start(&ServerOptions::default()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    if role == "namespace" {
        let namespace = Namespace::create().unwrap();
        println!("\nserver 0 {}", namespace.outside());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    if role == "replica" {
        let folder = std::env::temp_dir().join(format!("dapper-script-victim-{}", std::process::id()));
        let cluster = crate::cluster::start_for_ever(&folder);
        println!(
            "\nserver {} {}",
            cluster.replicas()[0].pid(),
            cluster.pipeline().parent().unwrap().display()
        );
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    if role == "etcd" {
        let etcd = EtcdServer::start(&EtcdOptions::default()).unwrap();
        println!("\nserver {} {}", etcd.pid().unwrap(), etcd.directory().display());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let server = Server::start(&ServerOptions::default()).unwrap();
    println!("\nserver {} {}", server.pid().unwrap(), server.directory().unwrap().display());
    match role.as_str() {
        "panic" => panic!("as asked"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        _ => std::thread::sleep(Duration::from_secs(60)),
    }
}

#[test]
fn a_panic_leaves_nothing() {
    dies(|_| {}, "panic");
}

#[test]
fn an_exit_without_destructors_leaves_nothing() {
    dies(|_| {}, "exit");
}

#[test]
fn an_abort_leaves_nothing() {
    dies(|_| {}, "abort");
}

#[test]
fn kill_9_leaves_nothing() {
    dies(|pid| kill(pid, Signal::SIGKILL).unwrap(), "wait");
}

#[test]
fn ctrl_c_leaves_nothing() {
    dies(|group| killpg(group, Signal::SIGINT).unwrap(), "wait");
}

#[test]
fn kill_9_leaves_no_replica() {
    let pid = dies(|pid| kill(pid, Signal::SIGKILL).unwrap(), "replica");
    std::fs::remove_dir_all(std::env::temp_dir().join(format!("dapper-script-victim-{pid}"))).unwrap();
}

#[cfg(feature = "etcd")]
#[test]
fn kill_9_leaves_no_etcd() {
    dies(|pid| kill(pid, Signal::SIGKILL).unwrap(), "etcd");
}

#[test]
fn kill_9_leaves_no_namespace() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("kill_9_leaves_no_namespace is left out: only root makes namespaces");
        return;
    }
    let mut child = victim_process("namespace");
    let address = announced(&mut child);
    let addresses = || Command::new("ip").args(["-oneline", "addr"]).output().unwrap().stdout;
    let there = || String::from_utf8_lossy(&addresses()).contains(&format!("{address}/30"));
    assert!(there());
    kill(pid_of(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    soon("no link left", || !there());
}

#[test]
fn kill_9_at_any_moment_of_the_start_leaves_nothing() {
    for wait_ms in [0, 30, 100, 200, 300, 500, 700] {
        let mut child = victim_process("during-initdb");
        std::thread::sleep(Duration::from_millis(wait_ms));
        kill(pid_of(&child), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        let prefix = std::env::temp_dir().join(format!("dapper-test-{}-", child.id()));
        let prefix = prefix.to_str().unwrap();
        let left = || {
            let folders = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
            folders
                .map(|entry| entry.path())
                .find(|path| path.to_str().is_some_and(|text| text.starts_with(prefix)))
        };
        soon(&format!("nothing left of a start killed after {wait_ms} ms"), || {
            left().is_none() && processes_naming(Path::new(prefix)).is_empty()
        });
    }
}

/// Runs a victim, ends it, and waits until nothing is left of what it started; returns its process id.
fn dies(end: impl FnOnce(Pid), role: &str) -> u32 {
    let mut child = victim_process(role);
    let directory = PathBuf::from(announced(&mut child));
    end(pid_of(&child));
    child.wait().unwrap();
    soon("no process and no directory left", || {
        !directory.exists() && processes_naming(&directory).is_empty()
    });
    child.id()
}

/// What the victim says it made, after a process id.
fn announced(child: &mut Child) -> String {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("server ").map(str::to_owned)).unwrap();
    line.split_once(' ').unwrap().1.to_owned()
}

fn victim_process(role: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["survivors::victim", "--exact", "--nocapture"]).env(VICTIM, role).process_group(0);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

pub(crate) fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < deadline, "not within 15 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes, other than guardians, whose command line names the path or, where that can be asked, which work in it.
pub(crate) fn processes_naming(path: &Path) -> Vec<u32> {
    let text = path.to_str().unwrap();
    let output = Command::new("ps").args(["-ww", "-eo", "pid=,args="]).output();
    let output = output.expect("this test needs the program ps (on Debian: apt-get install procps)");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found = Vec::new();
    for line in output.lines().filter(|line| !line.contains("dapper-guardian")) {
        let Some((pid, arguments)) = line.trim_start().split_once(' ') else { continue };
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        if arguments.contains(text) || folder.to_str().is_some_and(|folder| folder.starts_with(text)) {
            found.extend(pid.parse::<u32>());
        }
    }
    found
}
