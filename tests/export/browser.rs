//! A headless browser, driven through the pipe of its debugging protocol.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox::tools::SearchPaths;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::DEADLINE;

/// Without network, GPU and processes that need privileges.
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--in-process-gpu",
    "--use-gl=disabled",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
];

/// A page in a browser of its own.
pub(crate) struct Browser {
    _child: Child,
    home: TempDir,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    events: VecDeque<Value>,
}

impl Browser {
    /// `None`, with a message, on a machine without npm: `deploy/install-tools.sh --browser` needs it.
    pub(crate) async fn start() -> Option<Self> {
        let program = match SearchPaths::from_environment().executable("chromium") {
            Ok(program) => program,
            Err(_) if Command::new("npm").arg("--version").output().await.is_err() => {
                eprintln!("not tested in a browser, because npm is not installed");
                return None;
            }
            Err(error) => panic!("run ./deploy/install-tools.sh --browser: {error}"),
        };
        let home = tempfile::tempdir().unwrap();
        // The browser reads commands from its descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .arg("about:blank")
            .env("HOME", home.path())
            .env("XDG_CACHE_HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (session, events) = (None, VecDeque::new());
        let mut browser = Self { _child: child, home, commands, answers, session, last: 0, events };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        let downloads = json!({ "behavior": "allow", "downloadPath": browser.downloads(), "eventsEnabled": true });
        browser.call("Browser.setDownloadBehavior", downloads).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.resize(1600, 900).await;
        Some(browser)
    }

    fn downloads(&self) -> String {
        self.home.path().to_str().unwrap().to_owned()
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.commands.write_all(&bytes).await.unwrap();
        loop {
            let mut answer = self.next().await;
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
            self.events.push_back(answer);
        }
    }

    async fn next(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(DEADLINE, self.answers.read_until(0, &mut bytes)).await;
        assert!(read.expect("the browser does not answer").unwrap() > 0, "the browser has ended");
        serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap()
    }

    /// The first event with this name for which `is` is true.
    async fn event(&mut self, method: &str, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.next().await,
            };
            self.check(&event);
            if event["method"] == method && is(&event["params"]) {
                return event["params"].clone();
            }
        }
    }

    /// A page has no errors in its console: neither exceptions nor what its content security policy refuses.
    fn check(&self, event: &Value) {
        let is_error = event["method"] == "Runtime.exceptionThrown"
            || (event["method"] == "Log.entryAdded" && event["params"]["entry"]["level"] == "error");
        assert!(!is_error, "{event}");
    }

    /// Fails if the page has reported an error since it was opened.
    pub(crate) async fn assert_no_errors(&mut self) {
        self.evaluate("0").await;
        self.events.iter().for_each(|event| self.check(event));
    }

    /// Opens a file and waits until it is loaded.
    pub(crate) async fn open(&mut self, path: &Path) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": format!("file://{}", path.display()) })).await;
        self.event("Page.loadEventFired", |_| true).await;
    }

    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// The value of an expression, or what its promise resolves to.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits for the next frame and evaluates: what a filter changes is applied with the frame.
    pub(crate) async fn shown(&mut self, expression: &str) -> Value {
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))").await;
        self.evaluate(expression).await
    }

    /// Clicks with the mouse on the first element that a selector finds.
    pub(crate) async fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const found = document.querySelector({}); found.scrollIntoView({{ block: 'center' }});
                const {{ x, y, width, height }} = found.getBoundingClientRect(); return [x + width / 2, y + height / 2]; }})()",
            json!(selector)
        );
        let place = self.evaluate(&place).await;
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", button).await;
        }
    }

    /// Presses a key: a character, or one with a name such as `Escape`.
    pub(crate) async fn press(&mut self, key: &str) {
        let mut down = json!({ "type": "keyDown", "key": key });
        if key.chars().count() == 1 {
            down["text"] = json!(key);
        }
        self.call("Input.dispatchKeyEvent", down).await;
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key })).await;
    }

    pub(crate) async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Chooses a file in a file input.
    pub(crate) async fn choose_file(&mut self, selector: &str, path: &Path) {
        let document = self.call("DOM.getDocument", json!({})).await;
        let query = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let found = self.call("DOM.querySelector", query).await;
        let files = json!({ "nodeId": found["nodeId"], "files": [path] });
        self.call("DOM.setFileInputFiles", files).await;
    }

    /// The bytes of the next download.
    pub(crate) async fn downloaded(&mut self) -> Vec<u8> {
        let begun = self.event("Browser.downloadWillBegin", |_| true).await;
        self.event("Browser.downloadProgress", |progress| progress["state"] == "completed").await;
        std::fs::read(self.home.path().join(begun["suggestedFilename"].as_str().unwrap())).unwrap()
    }

    /// What the window shows, as PNG.
    pub(crate) async fn screenshot(&mut self) -> Vec<u8> {
        let taken = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()
    }

    /// Scrolls through the page, and returns the milliseconds between the frames.
    pub(crate) async fn frame_times(&mut self, pixels_per_frame: u32, most: Duration) -> Vec<f64> {
        let scroll = format!(
            "new Promise((done) => {{
                const times = [];
                const start = performance.now();
                let last = start;
                scrollTo(0, 0);
                const frame = (now) => {{
                    times.push(now - last);
                    last = now;
                    scrollBy(0, {pixels_per_frame});
                    const atEnd = scrollY + innerHeight >= document.documentElement.scrollHeight - 1;
                    if (atEnd || now - start > {}) done(times.slice(1));
                    else requestAnimationFrame(frame);
                }};
                requestAnimationFrame(frame);
            }})",
            most.as_millis()
        );
        let times = self.evaluate(&scroll).await;
        times.as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect()
    }
}
