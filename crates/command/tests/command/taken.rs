//! What a program is given.

use dapper_core::{Event, Process, ProcessStatus};

use crate::support::{Logged, event, folder, process, read, script};

/// Writes down what came, each in a file of its own.
const TAKE: &str = "cat > stdin; printf %s \"${PIPELINE_EVENT-absent}\" > variable";

/// As large as a variable can be, name and end included.
const MAX_EVENT_BYTES: usize = 128 * 1024 - "PIPELINE_EVENT=\0".len();

fn of_size(bytes: usize) -> Event {
    let mut event = event();
    event.id = "x".repeat(bytes - (event.to_json().len() - event.id.len()));
    assert_eq!(event.to_json().len(), bytes);
    event
}

#[tokio::test]
async fn the_event_is_on_standard_input_and_in_a_variable() {
    let folder = folder();
    let process = script(&folder, TAKE, &[]);
    let mut odd = event();
    odd.id = "a'b\"c$HOME`x`\n\u{0}ä".into();
    for event in [event(), odd, of_size(MAX_EVENT_BYTES)] {
        assert_eq!(process.run(&event).await.unwrap(), ProcessStatus::success("run"));
        assert_eq!(read(&folder, "stdin"), event.to_json() + "\n");
        assert_eq!(read(&folder, "variable"), event.to_json());
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_for_a_variable_is_on_standard_input_alone() {
    let folder = folder();
    let process = script(&folder, TAKE, &[]);
    for event in [of_size(MAX_EVENT_BYTES + 1), of_size(4 << 20)] {
        assert_eq!(process.run(&event).await.unwrap(), ProcessStatus::success("run"));
        assert_eq!(read(&folder, "stdin"), event.to_json() + "\n");
        assert_eq!(read(&folder, "variable"), "absent");
    }
}

#[tokio::test]
async fn the_environment_is_what_the_file_says() {
    let folder = folder();
    let names = || {
        let mut names: Vec<String> = read(&folder, "env")
            .split('\0')
            .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
            // What the shell itself adds.
            .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()))
            .collect();
        names.sort();
        names
    };
    script(&folder, "env -0 > env", &[]).run(&event()).await.unwrap();
    assert_eq!(names(), ["PATH", "PIPELINE_EVENT"]);
    let more = [("keep_env", "PATH CARGO_MANIFEST_DIR NOT_SET_HERE"), ("env.MINE", "1 2")];
    script(&folder, "env -0 > env", &more).run(&event()).await.unwrap();
    assert_eq!(names(), ["CARGO_MANIFEST_DIR", "MINE", "PATH", "PIPELINE_EVENT"]);
    assert!(read(&folder, "env").contains("MINE=1 2\0"));
}

#[tokio::test]
async fn without_the_shell_nothing_is_expanded() {
    let (logged, _guard) = Logged::start();
    process(&[("command", "/bin/echo $HOME * 'a  b' \"$(date)\"; rm x")]).run(&event()).await.unwrap();
    assert!(logged.text().contains("$HOME * a  b $(date); rm x process="), "{}", logged.text());
}
