//! A headless Chromium, driven by chromedriver over WebDriver (W3C) and its door to the DevTools protocol.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::http::{Connection, Request};
use crate::{port, wait};

/// A free port can be taken by somebody else between the look and the start.
const PORT_TRIES: usize = 5;
/// What WebDriver calls a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How wide a page is shown, and in which colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// 1280 × 900, light.
    Desktop,
    /// 1280 × 900, dark.
    Dark,
    /// 390 × 844, as a phone has it.
    Phone,
}

/// A browser with one page; ended on drop.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts chromedriver and a browser without any state.
    ///
    /// # Panics
    /// When either does not start.
    #[must_use]
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let (driver, address) = driver();
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let data = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            // The sandbox needs more rights than a container has; the pages are our own.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--window-size=1280,900",
            &data,
        ];
        let options = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let started = browser.call("POST", "/session", &options);
        browser.session = started["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        match self.try_call(method, path, body) {
            Ok(value) => value,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        // chromedriver answers to local names only.
        let mut request = Request::new(method, path).header("Host", &self.address.to_string());
        if method == "POST" {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let mut connection = Connection::open(self.address).map_err(|error| error.to_string())?;
        let answer = connection.send(&request).map_err(|error| error.to_string())?;
        let mut value = answer.json()["value"].take();
        if answer.status == 200 { Ok(value) } else { Err(value["message"].take().to_string()) }
    }

    fn on_page(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        self.try_call(method, &format!("/session/{}{path}", self.session), body)
    }

    /// A command of the DevTools protocol.
    ///
    /// # Panics
    /// When it is refused.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.on_page("POST", "/goog/cdp/execute", &body).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Shows pages so from now on.
    pub fn view(&self, view: View) {
        let (width, height, phone) = if view == View::Phone { (390, 844, true) } else { (1280, 900, false) };
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if view == View::Dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Panics
    /// When the browser cannot.
    pub fn open(&self, url: &str) {
        self.on_page("POST", "/url", &json!({"url": url})).unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Where it is.
    ///
    /// # Panics
    /// When the browser does not say.
    #[must_use]
    pub fn url(&self) -> String {
        let url = self.on_page("GET", "/url", &Value::Null).expect("the URL of the page");
        url.as_str().expect("a text").to_owned()
    }

    /// Runs a script in the page; `arguments` are its `arguments`, and what it returns (or resolves to) comes back.
    ///
    /// # Panics
    /// When it throws.
    pub fn script(&self, script: &str, arguments: &Value) -> Value {
        let body = json!({"script": script, "args": arguments});
        self.on_page("POST", "/execute/sync", &body).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Everything that the page shows as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.script("return document.body.innerText", &json!([])).as_str().unwrap_or_default().to_owned()
    }

    /// How many elements a CSS selector finds.
    #[must_use]
    pub fn count(&self, selector: &str) -> u64 {
        self.script("return document.querySelectorAll(arguments[0]).length", &json!([selector])).as_u64().unwrap_or(0)
    }

    /// Text of the first element that a CSS selector finds, as shown.
    ///
    /// # Panics
    /// When it finds none in time.
    #[must_use]
    pub fn text_of(&self, selector: &str) -> String {
        let element = self.find(selector);
        let text = self.on_page("GET", &format!("/element/{element}/text"), &Value::Null);
        text.unwrap_or_else(|error| panic!("{selector}: {error}")).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows a text.
    ///
    /// # Panics
    /// When it does not in time; the message shows the page.
    pub fn wait_for_text(&self, text: &str) {
        let shown = wait::within(wait::PATIENCE, || self.text().contains(text).then_some(()));
        assert!(shown.is_some(), "waited in vain for {text:?} on {}:\n{}", self.url(), self.text());
    }

    /// Clicks the first element that a CSS selector finds.
    ///
    /// # Panics
    /// When there is none, or something lies over it.
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        let clicked = self.on_page("POST", &format!("/element/{element}/click"), &json!({}));
        clicked.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Types into a field, after emptying it.
    ///
    /// # Panics
    /// When there is none.
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        for (path, body) in [("clear", json!({})), ("value", json!({"text": text}))] {
            let done = self.on_page("POST", &format!("/element/{element}/{path}"), &body);
            done.unwrap_or_else(|error| panic!("{selector}: {error}"));
        }
    }

    /// Chooses a file for a field.
    ///
    /// # Panics
    /// When there is no such field.
    pub fn attach(&self, selector: &str, file: &Path) {
        let element = self.find(selector);
        let body = json!({"text": file.to_str().expect("a path that is text")});
        let done = self.on_page("POST", &format!("/element/{element}/value"), &body);
        done.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Presses keys wherever the focus is, as a keyboard user does. `\u{e004}` is Tab, `\u{e007}` Enter.
    ///
    /// # Panics
    /// When the browser cannot.
    pub fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            [json!({"type": "keyDown", "value": key.to_string()}), json!({"type": "keyUp", "value": key.to_string()})]
        });
        let strokes: Vec<_> = strokes.collect();
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        self.on_page("POST", "/actions", &body).expect("keys are pressed");
    }

    /// What the page wrote to the console as an error since the last call.
    ///
    /// # Panics
    /// When the browser does not say.
    #[must_use]
    pub fn console_errors(&self) -> Vec<String> {
        let log = self.on_page("POST", "/se/log", &json!({"type": "browser"})).expect("the console");
        let entries = log.as_array().cloned().unwrap_or_default();
        let severe = entries.into_iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The whole page as a PNG file, also what lies below the fold.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn screenshot(&self, file: &Path) {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.devtools("Page.captureScreenshot", &parameters);
        let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    fn find(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let found = wait::within(wait::PATIENCE, || {
            let element = self.on_page("POST", "/element", &body).ok()?;
            Some(element[ELEMENT].as_str()?.to_owned())
        });
        found.unwrap_or_else(|| panic!("there is no {selector} on {}:\n{}", self.url(), self.text()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Lets the browser end by itself; chromedriver takes what is left with it.
        let _ = self.on_page("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn driver() -> (Child, SocketAddr) {
    for _ in 0..PORT_TRIES {
        let address = port::free();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", address.port())).stdin(Stdio::null()).stdout(Stdio::null());
        let mut driver = command.stderr(Stdio::null()).spawn().expect("chromedriver starts");
        let ready = wait::within(Duration::from_secs(20), || {
            let ended = driver.try_wait().expect("chromedriver can be waited for").is_some();
            let answer = Connection::open(address)
                .and_then(|mut c| c.send(&Request::get("/status").header("Host", &address.to_string())));
            (ended || answer.is_ok_and(|a| a.status == 200)).then_some(!ended)
        });
        if ready == Some(true) {
            return (driver, address);
        }
        let _ = driver.kill();
        let _ = driver.wait();
    }
    panic!("chromedriver does not start");
}
