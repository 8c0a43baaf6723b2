//! The page in a real browser, before real replicas.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use dapper_browser::{Browser, Page, Stage, TOKEN, View, program};
use dapper_testkit::{Database, Server, ServerOptions};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
/// Within so long a fault must show.
const SHOWS_WITHIN: Duration = Duration::from_secs(5);
/// The whole page is there: its figures, its graph, its plots and its letters.
const COMPLETE: &str = "document.querySelectorAll('.node').length === 5 && document.querySelectorAll('.series').length > 2 \
    && letters.children.length > 0";
/// Names each rule that is broken, and where.
const AXE: &str = "axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations.map((rule) => \
    `${rule.id}: ${rule.help}: ${rule.nodes.map((node) => node.html).join(' ; ')}`))";

async fn stage(replicas: usize) -> Stage {
    Stage::set(program().unwrap(), Database::create().await.unwrap(), replicas).await.unwrap()
}

fn axe() -> String {
    let path =
        std::env::var("DAPPER_TEST_AXE").expect("DAPPER_TEST_AXE names axe.min.js; cargo xtask test sets it");
    std::fs::read_to_string(path).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

fn assert_accessible(browser: &Browser, url: &str, view: &View, when: &str) {
    let page = browser.open(url, view).unwrap();
    page.wait_for(when, LIMIT).unwrap();
    page.set_policy_aside().unwrap();
    page.evaluate(&axe()).unwrap();
    let passes = page.evaluate("axe.run().then((found) => found.passes.length)").unwrap();
    assert!(passes.as_u64().unwrap() >= 20, "only {passes} rules had something to look at");
    let violations = page.evaluate(AXE).unwrap();
    assert_eq!(texts(&violations), Vec::<&str>::new(), "{view:?}");
}

/// Types the token and sends it, by the keyboard alone.
fn unlock(page: &Page<'_>) {
    page.wait_for("!unlock.hidden", LIMIT).unwrap();
    page.evaluate("token.focus()").unwrap();
    page.write(TOKEN).unwrap();
    page.press("Enter").unwrap();
    page.wait_for("unlock.hidden", LIMIT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_no_violation_whatever_the_page_shows() {
    let mut stage = stage(2).await;
    let browser = Browser::start().unwrap();
    stage.refuse(false);
    stage.write().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let wide = View { still: true, ..View::default() };
    let dark = View { dark: true, ..wide.clone() };
    let narrow = View { width: 390, height: 844, ..wide.clone() };
    let letters = format!("{COMPLETE} && document.querySelectorAll('tbody th').length > 0");
    for view in [&wide, &dark, &narrow] {
        assert_accessible(&browser, stage.leading().unwrap(), view, &letters);
    }
    assert_accessible(
        &browser,
        stage.standing_by().unwrap(),
        &wide,
        &format!("{COMPLETE} && headline.textContent === 'Standing by'"),
    );
    stage.take_over().await.unwrap();
    stage.refuse(true);
    let failing = format!("{COMPLETE} && headline.textContent === 'Not ready'");
    for view in [&wide, &dark] {
        assert_accessible(&browser, stage.leading().unwrap(), view, &failing);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_keeps_its_own_policy_and_asks_nobody_else() {
    let stage = stage(1).await;
    stage.write().await.unwrap();
    let browser = Browser::start().unwrap();
    let url = stage.leading().unwrap();
    let page = browser.open(url, &View::default()).unwrap();
    page.wait_for(COMPLETE, LIMIT).unwrap();
    let asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)").unwrap();
    let asked = texts(&asked);
    assert!(asked.len() >= 8, "{asked:?}");
    assert!(asked.iter().all(|name| name.starts_with(url)), "{asked:?}");
    assert_eq!(texts(&page.evaluate("window.violations").unwrap()), Vec::<&str>::new());
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The policy is there: what it forbids does not happen.
    page.evaluate("document.body.setAttribute('style', 'color: red')").unwrap();
    page.wait_for("window.violations.length > 0", LIMIT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_retried_by_keyboard_alone_and_only_with_the_token() {
    let stage = stage(1).await;
    stage.refuse(false);
    stage.write().await.unwrap();
    let browser = Browser::start().unwrap();
    let page = browser.open(stage.leading().unwrap(), &View::default()).unwrap();
    page.press("Tab").unwrap();
    assert_eq!(
        page.evaluate("document.activeElement.className").unwrap(),
        "skip",
        "the first stop skips to the content"
    );
    page.wait_for("document.querySelector('tbody th') !== null", LIMIT * 2).unwrap();
    assert_eq!(page.evaluate("document.querySelector('#letters button')").unwrap(), Value::Null);
    unlock(&page);
    let button = "document.querySelector('#letters button.first')";
    page.wait_for(&format!("{button} !== null"), LIMIT).unwrap();
    let name = page.evaluate(&format!("{button}.getAttribute('aria-label')")).unwrap();
    assert!(name.as_str().is_some_and(|name| name.starts_with("Retry")), "{name}");
    stage.accept();
    page.evaluate(&format!("{button}.focus()")).unwrap();
    page.press("Enter").unwrap();
    page.wait_for("result.textContent.endsWith(': done.')", LIMIT).unwrap();
    let stored =
        page.evaluate("[localStorage.length, sessionStorage.length, document.cookie.length]").unwrap();
    assert_eq!(stored, serde_json::json!([0, 0, 0]), "the token is kept nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_said_to_be_wrong() {
    let stage = stage(1).await;
    stage.refuse(false);
    stage.write().await.unwrap();
    let browser = Browser::start().unwrap();
    let page = browser.open(stage.leading().unwrap(), &View::default()).unwrap();
    page.wait_for("document.querySelector('tbody th') !== null && !unlock.hidden", LIMIT * 2).unwrap();
    page.evaluate("token.focus()").unwrap();
    page.write("not-the-right-token").unwrap();
    page.press("Enter").unwrap();
    page.wait_for("document.querySelector('#letters button.first') !== null", LIMIT).unwrap();
    page.evaluate("document.querySelector('#letters button.first').click()").unwrap();
    page.wait_for("!unlock.hidden && document.querySelector('#letters button') === null", LIMIT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_faults_within_five_seconds_and_their_end() {
    let server = Server::start(&ServerOptions::default()).unwrap();
    let database = Database::create_on(&server).await.unwrap();
    let stage = Stage::set(program().unwrap(), database, 2).await.unwrap();
    stage.write().await.unwrap();
    let browser = Browser::start().unwrap();
    let leading = browser.open(stage.leading().unwrap(), &View::default()).unwrap();
    let standing_by = browser.open(stage.standing_by().unwrap(), &View::default()).unwrap();
    leading.wait_for("headline.textContent === 'Leading'", LIMIT).unwrap();
    standing_by.wait_for("headline.textContent === 'Standing by'", LIMIT).unwrap();
    let shows = |page: &Page<'_>, since: Instant, text: &str| {
        let when = format!("headline.textContent === 'Not ready' && reason.textContent.includes({text:?})");
        page.wait_for(&when, LIMIT).unwrap();
        assert!(since.elapsed() <= SHOWS_WITHIN, "{text:?} only after {:?}", since.elapsed());
    };

    stage.refuse(true);
    shows(&leading, Instant::now(), "handles nothing");
    stage.accept();
    leading.wait_for("headline.textContent === 'Leading'", LIMIT * 3).unwrap();

    let frozen = server.freeze().unwrap();
    let since = Instant::now();
    shows(&leading, since, "has not answered");
    shows(&standing_by, since, "has not answered");
    drop(frozen);
    for page in [&leading, &standing_by] {
        page.wait_for("['Leading', 'Standing by'].includes(headline.textContent)", LIMIT * 2).unwrap();
    }
}
