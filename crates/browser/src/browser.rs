//! Chromium over a pipe: one command after the other, each with its answer.

use std::cell::RefCell;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The names that Chromium goes by.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// No command takes longer, not even on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Messages end with NUL on the pipe, which Chromium reads as its descriptor 3 and writes as its 4.
const LAUNCH: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
/// Notes what the page's own policy kept from happening.
const NOTE_VIOLATIONS: &str = "window.violations = []; document.addEventListener('securitypolicyviolation', \
    (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));";

/// A Chromium of its own, ended when this is dropped.
pub struct Browser {
    wire: RefCell<Wire>,
    _profile: TempDir,
}

struct Wire {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    last: u64,
    /// What pages complained of: uncaught errors, and entries of their logs that are errors.
    complaints: Vec<String>,
}

/// A page that is open.
pub struct Page<'b> {
    browser: &'b Browser,
    session: String,
}

/// How a page is looked at.
#[derive(Clone, Debug)]
pub struct View {
    /// In pixels of the page.
    pub width: u32,
    /// In pixels of the page.
    pub height: u32,
    /// Pixels of a picture for each of the page.
    pub scale: f64,
    /// Whether it is for a dark room.
    pub dark: bool,
    /// Whether nothing is to move.
    pub still: bool,
}

impl Default for View {
    fn default() -> Self {
        Self { width: 1280, height: 900, scale: 1.5, dark: false, still: false }
    }
}

impl Browser {
    /// Starts one.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn start() -> Result<Self> {
        let profile = tempfile::tempdir().context("cannot make a folder for the browser's profile")?;
        let mut child = Command::new("sh")
            .args(["-c", LAUNCH])
            .arg(program()?)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--mute-audio"])
            .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start Chromium")?;
        let (to, out) = (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        let (sender, from) = channel();
        thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|count| count > 0) {
                let parsed = serde_json::from_slice(message.strip_suffix(&[0]).unwrap_or(&message));
                if sender.send(parsed.unwrap_or(Value::Null)).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let wire = Wire { child, to, from, last: 0, complaints: Vec::new() };
        Ok(Self { wire: RefCell::new(wire), _profile: profile })
    }

    /// Opens a page and waits until it is there.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn open(&self, url: &str, view: &View) -> Result<Page<'_>> {
        // In a window of its own: a tab behind another one is hidden, and the page then asks for nothing.
        let new = json!({ "url": "about:blank", "newWindow": true });
        let target = self.call(None, "Target.createTarget", &new)?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", &attach)?;
        let session = attached["sessionId"].as_str().context("no session")?.to_owned();
        let page = Page { browser: self, session };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, &json!({}))?;
        }
        page.look(view)?;
        page.call("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": NOTE_VIOLATIONS }))?;
        page.call("Page.navigate", &json!({ "url": url }))?;
        page.wait_for("document.readyState === 'complete'", Duration::from_secs(30))?;
        Ok(page)
    }

    /// What the pages complained of so far.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.wire.borrow().complaints.clone()
    }

    fn call(&self, session: Option<&str>, method: &str, parameters: &Value) -> Result<Value> {
        let mut wire = self.wire.borrow_mut();
        wire.last += 1;
        let id = wire.last;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        wire.to.write_all(&text).and_then(|()| wire.to.flush()).context("Chromium has ended")?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = match wire.from.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => bail!("{method}: Chromium did not answer"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: Chromium has ended"),
            };
            if message["id"] == id {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(message["result"].clone());
            }
            wire.hear(&message);
        }
    }
}

impl Wire {
    fn hear(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(parameters["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.complaints.push(parameters["entry"]["text"].to_string());
            }
            _ => {}
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Its children end with it: they lose their pipe.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page<'_> {
    /// Looks at it in another way.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn look(&self, view: &View) -> Result<()> {
        let View { width, height, scale, dark, still } = view;
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": *width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", &metrics)?;
        let feature = |name: &str, value: &str| json!({ "name": name, "value": value });
        let features = [
            feature("prefers-color-scheme", if *dark { "dark" } else { "light" }),
            feature("prefers-reduced-motion", if *still { "reduce" } else { "no-preference" }),
        ];
        self.call("Emulation.setEmulatedMedia", &json!({ "features": features })).map(drop)
    }

    /// What an expression comes to in the page, as JSON; a promise is waited for.
    ///
    /// # Errors
    /// When it throws.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", &parameters)?;
        if let Some(thrown) = result.get("exceptionDetails") {
            bail!("the page threw: {thrown}");
        }
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait_for(&self, expression: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.evaluate(expression)? != Value::Bool(true) {
            if Instant::now() >= deadline {
                let shown = self.evaluate("document.body.innerText").unwrap_or_default();
                bail!("never true: {expression}; the page says:\n{}", shown.as_str().unwrap_or(""));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Presses a key such as `Tab` or `Enter`.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn press(&self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            other => bail!("no such key here: {other}"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Writes text where the focus is.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn write(&self, text: &str) -> Result<()> {
        self.call("Input.insertText", &json!({ "text": text })).map(drop)
    }

    /// Loads what the page's own policy would keep out, such as a checker's styles.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn set_policy_aside(&self) -> Result<()> {
        self.call("Page.setBypassCSP", &json!({ "enabled": true })).map(drop)
    }

    /// A picture of the whole page as PNG.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn picture(&self) -> Result<Vec<u8>> {
        let size =
            self.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")?;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.call("Page.captureScreenshot", &parameters)?;
        from_base64(picture["data"].as_str().unwrap_or_default())
    }

    fn call(&self, method: &str, parameters: &Value) -> Result<Value> {
        self.browser.call(Some(&self.session), method, parameters)
    }
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Browser")
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("session", &self.session).finish()
    }
}

fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("DAPPER_TEST_CHROMIUM").filter(|path| !path.is_empty()) {
        return Ok(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let all = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = all.into_iter().find(|program| program.is_file());
    found.context("there is no Chromium here; install it, or name it in DAPPER_TEST_CHROMIUM")
}

fn from_base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("no base64"),
        };
        (bits, held) = ((bits << 6) | u32::from(six), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(from_base64("ZGFwcGVy").unwrap(), b"dapper");
        assert_eq!(from_base64("ZGFwcGU=").unwrap(), b"dappe");
        assert!(from_base64("!").is_err());
    }
}
