//! Containers that run, and what is left of them: nothing.

use dapper_container::{ContainerError, probe};
use dapper_core::{Event, Process, ProcessError, ProcessStatus};
use futures::FutureExt;

use crate::support::{Engine, IMAGE, Logged, config, event, script, whole_chain};

fn cause(error: &ProcessError) -> &ContainerError {
    let ProcessError::Failed { source, .. } = error else { panic!("{error}") };
    source.downcast_ref().expect("the cause is the process's own error")
}

fn with_token(token: u64) -> Event {
    let mut event = event();
    event.token = Some(token);
    event
}

#[tokio::test]
async fn only_exit_code_0_is_handled_and_the_container_is_removed() {
    let Some(engine) = Engine::for_test("only_exit_code_0_is_handled_and_the_container_is_removed").await
    else {
        return;
    };
    let (logged, _guard) = Logged::start();
    let status = script("codes", "echo to-out; echo to-err >&2", &[]).run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::success("codes"));
    for wanted in [r#"to-out process="codes" stream="stdout""#, r#"to-err process="codes" stream="stderr""#] {
        assert!(logged.text().contains(wanted), "{}", logged.text());
    }
    let failing = script("codes", "echo one >&2; echo two; echo three >&2; exit 3", &[]);
    let status = failing.run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::fail("codes", format!("{IMAGE} exited with code 3: one | three")));
    assert!(engine.states("codes").await.is_empty());
}

#[tokio::test]
async fn the_event_and_the_variables_of_the_file_are_in_the_environment() {
    let Some(_) = Engine::for_test("the_event_and_the_variables_of_the_file_are_in_the_environment").await
    else {
        return;
    };
    let mut event = event();
    event.id = "a'b\"c$HOME`x`\nä".repeat(100);
    let same = r#"test "$PIPELINE_EVENT" = "$EXPECTED" && test "$OTHER" = "x y""#;
    let json = event.to_json();
    let more = [("env.EXPECTED", &*json), ("env.OTHER", "x y")];
    assert_eq!(script("given", same, &more).run(&event).await.unwrap(), ProcessStatus::success("given"));

    event.id = "x".repeat(128 * 1024);
    let error = script("given", same, &[]).run(&event).await.unwrap_err();
    let bytes = event.to_json().len();
    assert!(matches!(cause(&error), ContainerError::EventTooLarge { bytes: b } if *b == bytes), "{error:?}");
}

#[tokio::test]
async fn when_the_time_is_up_it_is_removed() {
    let Some(engine) = Engine::for_test("when_the_time_is_up_it_is_removed").await else { return };
    let slow = script("slow", "echo before >&2; sleep 1000", &[("timeout", "5s")]);
    let error = slow.run(&event()).await.unwrap_err();
    assert!(matches!(cause(&error), ContainerError::Timeout { timeout, .. } if timeout.as_secs() == 5));
    let text = whole_chain(&error);
    assert!(text.contains("was removed, since it took longer than 5s: before"), "{text}");
    engine.wait_for("slow", &[]).await;
}

#[tokio::test]
async fn when_the_call_is_dropped_it_is_removed() {
    let Some(engine) = Engine::for_test("when_the_call_is_dropped_it_is_removed").await else { return };
    let process = script("dropped", "sleep 1000", &[]);
    let event = event();
    let mut run = process.run(&event);
    tokio::select! {
        ended = &mut run => panic!("{ended:?}"),
        () = engine.wait_for("dropped", &["running"]) => {}
    }
    drop(run);
    engine.wait_for("dropped", &[]).await;
}

#[tokio::test]
async fn what_a_replica_left_behind_is_removed_by_its_successor_alone() {
    let Some(engine) = Engine::for_test("what_a_replica_left_behind_is_removed_by_its_successor_alone").await
    else {
        return;
    };
    let text = "test -z \"$(echo $PIPELINE_EVENT | /bin/grep attempt)\" || sleep 1000";
    let replica = || script("crashed", text, &[]);
    let (first, mut left) = (replica(), with_token(7));
    left.attempt = Some(1);
    let mut run = first.run(&left);
    tokio::select! {
        ended = &mut run => panic!("{ended:?}"),
        () = engine.wait_for("crashed", &["running"]) => {}
    }
    // As when the replica is killed: nobody removes anything.
    std::mem::forget(run);

    let mut other = with_token(8);
    other.trigger = "other_input".into();
    for event in [with_token(7), with_token(6), other] {
        assert_eq!(replica().run(&event).await.unwrap(), ProcessStatus::success("crashed"));
        assert_eq!(engine.states("crashed").await, ["running"], "{event:?}");
    }
    // One that has swept before sweeps again for a new token.
    let second = replica();
    second.run(&with_token(7)).await.unwrap();
    second.run(&with_token(8)).await.unwrap();
    assert!(engine.states("crashed").await.is_empty());
}

#[tokio::test]
async fn an_image_is_pulled_as_the_file_says() {
    let Some(engine) = Engine::for_test("an_image_is_pulled_as_the_file_says").await else { return };
    let run = async |context: &[(&str, &str)]| {
        let context = [&[("network", "none"), ("command", "/bin/sh -c true")], context].concat();
        let process = dapper_container::ContainerProcess::new(config("pulled", &context)).unwrap();
        process.run(&event()).await.map_err(|error| whole_chain(&error))
    };
    for pull in ["missing", "never"] {
        assert!(run(&[("image", IMAGE), ("pull", pull)]).await.is_ok(), "{pull}: it is there");
    }
    // No registry has these: whoever tries to pull them fails.
    let nowhere = ("image", "registry.invalid/nowhere:1");
    let refused = run(&[nowhere, ("pull", "never")]).await.unwrap_err();
    assert!(refused.contains("refused to make a container: No such image"), "{refused}");
    for context in [&[nowhere][..], &[nowhere, ("pull", "always")]] {
        let refused = run(context).await.unwrap_err();
        assert!(refused.contains("refused to pull the image: "), "{refused}");
    }
    assert!(engine.states("pulled").await.is_empty());

    let looked_at = probe(&config("pulled", &[("image", IMAGE), ("pull", "never")])).await.unwrap();
    assert!(looked_at.starts_with("Docker Engine ") && looked_at.ends_with("/docker.sock"), "{looked_at}");
    let error = probe(&config("pulled", &[nowhere, ("pull", "never")])).await.unwrap_err();
    assert!(matches!(error, ContainerError::Refused { status: 404, .. }), "{error:?}");
}

#[tokio::test]
async fn a_program_that_the_image_does_not_have_is_an_error() {
    let Some(engine) = Engine::for_test("a_program_that_the_image_does_not_have_is_an_error").await else {
        return;
    };
    let context = [("image", IMAGE), ("command", "no-such-program"), ("network", "none")];
    let process = dapper_container::ContainerProcess::new(config("absent", &context)).unwrap();
    let error = process.run(&event()).await.unwrap_err();
    assert!(matches!(cause(&error), ContainerError::Refused { task: "start a container", .. }), "{error:?}");
    engine.wait_for("absent", &[]).await;
}

#[tokio::test]
async fn a_flood_of_output_does_not_fill_the_log() {
    let Some(_) = Engine::for_test("a_flood_of_output_does_not_fill_the_log").await else { return };
    let (logged, _guard) = Logged::start();
    let text = "i=0; while test $i -lt 20000; do echo line $i; echo line $i >&2; i=$((i+1)); done";
    let status = script("flood", text, &[]).run(&event()).await.unwrap();
    assert_eq!(status, ProcessStatus::success("flood"));
    let lines = logged.text().lines().count();
    assert!((100..5_000).contains(&lines), "{lines}");
}

#[tokio::test]
async fn variables_of_the_file_are_shown_nowhere() {
    let Some(_) = Engine::for_test("variables_of_the_file_are_shown_nowhere").await else { return };
    let (logged, _guard) = Logged::start();
    let text = "echo with $API_KEY; echo no $API_KEY >&2; exit 1";
    let process = script("secret", text, &[("env.API_KEY", "canary-1")]);
    let status = process.run(&event()).await.unwrap();
    assert_eq!(status.logs, [format!("{IMAGE} exited with code 1: no ***")]);
    let shown = format!("{}{process:?}", logged.text());
    assert!(shown.contains("with ***") && !shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn containers_of_several_events_run_at_the_same_time() {
    let Some(engine) = Engine::for_test("containers_of_several_events_run_at_the_same_time").await else {
        return;
    };
    let process = script("several", "sleep 1000", &[]);
    let event = event();
    let runs = futures::future::join_all((0..3).map(|_| process.run(&event)));
    let mut runs = Box::pin(runs);
    tokio::select! {
        ended = &mut runs => panic!("{ended:?}"),
        () = engine.wait_for("several", &["running"; 3]) => {}
    }
    assert!((&mut runs).now_or_never().is_none());
    drop(runs);
    engine.wait_for("several", &[]).await;
}
