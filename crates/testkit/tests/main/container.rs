//! The script that runs in a container, with stand-ins for the image's programs: the engine itself is not needed to
//! see that a container ends when nobody watches over it any more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("../../src/server/docker.sh");
/// Becomes a process that lasts, as the server does.
const ENTRYPOINT: &str = "#!/bin/sh\n[ \"$1 $2 $3\" = \"postgres -c a=b\" ] && exec sleep 60\n";
/// Answers with the number of the guard's sessions.
const PSQL: &str = "#!/bin/sh\ncase \"$*\" in *the-guard*) cat \"$SESSIONS\" ;; esac\n";

#[test]
fn a_container_ends_with_its_guards_session_and_not_while_the_server_is_silent() {
    let folder = std::env::temp_dir().join(format!("dapper-container-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in [("docker-entrypoint.sh", ENTRYPOINT), ("psql", PSQL)] {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let sessions = folder.join("sessions");
    fs::write(&sessions, "1\n").unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut container = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "dapper-guarded", "the-guard", "-c", "a=b"])
        .envs([
            ("PATH", path.as_str()),
            ("POSTGRES_USER", "dapper"),
            ("SESSIONS", sessions.to_str().unwrap()),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Guarded; then no answer at all, as from a server that recovers: both for longer than an absence is borne.
    for answer in ["1\n", ""] {
        fs::write(&sessions, answer).unwrap();
        assert!(!ended_within(&mut container, Duration::from_millis(4_500)), "{answer:?}");
    }
    fs::write(&sessions, "0\n").unwrap();
    let ended = ended_within(&mut container, Duration::from_secs(20));
    let _ = container.kill();
    fs::remove_dir_all(&folder).unwrap();
    assert!(ended);
}

fn ended_within(child: &mut Child, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
