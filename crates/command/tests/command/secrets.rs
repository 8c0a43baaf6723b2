//! No secret of the configuration is ever shown.

use dapper_core::Process;

use crate::support::{Logged, event, folder, script, whole_chain};

#[tokio::test]
async fn variables_of_the_file_are_shown_nowhere() {
    let (logged, _guard) = Logged::start();
    let folder = folder();
    let text =
        "printf 'with %s\\n' \"$API_KEY\"; printf 'no %s\\n' \"$API_KEY\" >&2; : canary-in-the-command; ";
    let more = [("env.API_KEY", "canary-1"), ("timeout", "300ms")];
    let failing = script(&folder, &format!("{text} exit 1"), &more);
    let status = failing.run(&event()).await.unwrap();
    assert_eq!(status.logs, ["/bin/sh exited with code 1: no ***"]);
    let slow = script(&folder, &format!("{text} sleep 1000"), &more);
    let error = slow.run(&event()).await.unwrap_err();
    let shown = format!("{}{failing:?}{status:?}{}", whole_chain(&error), logged.text());
    assert!(shown.contains("with ***") && shown.contains("no ***"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}
