//! The admin pages as people see them, in a headless Chromium: the whole story of the page that Cameo speaks of, what each
//! role sees, and that every page can be read by everybody.

use std::path::PathBuf;

use cameo_tests::admin::{self, ADMIN_PASSWORD, Admin};
use cameo_tests::browser::{Browser, View};
use cameo_tests::http::Request;
use cameo_tests::needs;
use cameo_tests::server::Server;
use cameo_tests::wait;
use serde_json::json;

const API: &str = "/admin/c/demo/profile-api";

fn sign_in(browser: &Browser, server: &Server, user: &str, password: &str) {
    browser.open(&format!("{}/admin", server.url()));
    browser.fill("#name", user);
    browser.fill("#password", password);
    browser.click("main button");
    browser.wait_for_text("Sign out");
}

fn fetch(server: &Server, token: Option<&str>) -> u16 {
    let mut request = Request::get("/rest/v1/profiles/a1?client=demo");
    if let Some(token) = token {
        request = request.header("Authorization", &format!("Bearer {token}"));
    }
    server.send(&request).status
}

fn visited(server: &Server) {
    server.post_json("/v1/demo/visits", &json!({"ids": {"tntId": "a1"}, "profile": {"country": "france"}})).expect(200);
}

/// A person with a device that left, and one that is hers still and brought a value that is not shown.
fn linked(server: &Server) {
    for (ids, profile) in [
        (json!({"tntId": "d1"}), json!({"tier": "bronze", "city": "Lyon"})),
        (
            json!({"thirdPartyId": "ann"}),
            json!({"tier": "gold", "a rather long name of an attribute": "x".repeat(200)}),
        ),
        (json!({"tntId": "d1", "ecid": "3".repeat(38), "thirdPartyId": "ann"}), json!({})),
        (json!({"tntId": "d2", "thirdPartyId": "ann"}), json!({"page": "/start"})),
        (json!({"tntId": "d2", "thirdPartyId": "bob"}), json!({"hobby": "chess"})),
    ] {
        let visit = json!({"ids": ids, "profile": profile, "categories": ["shoes"]});
        server.post_json("/v1/demo/visits", &visit).expect(200);
    }
}

const ANN: &str = "/admin/c/demo/profiles?kind=tp&id=ann";

#[test]
fn a_profile_shows_what_each_id_brought_and_a_device_is_unlinked() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    linked(&server);
    let browser = Browser::start();
    sign_in(&browser, &server, "admin", ADMIN_PASSWORD);
    browser.open(&format!("{}{ANN}", server.url()));
    let row = |id: &str| {
        let script = "return [...document.querySelectorAll('tr')].map((r) => r.innerText).find((t) => t.startsWith(arguments[0]))";
        browser.script(script, &json!([id])).as_str().unwrap_or_default().to_owned()
    };
    let device = row("tnt d1");
    for part in ["linked to ecid 333", "tier = bronze (not shown)", "city = Lyon"] {
        assert!(device.contains(part), "{part}: {device}");
    }
    assert!(row("tnt d2").contains("has left") && row("tnt d2").contains("page = /start"), "{}", row("tnt d2"));
    assert!(row("tp ann").contains("the profile lives here"), "{}", row("tp ann"));
    assert!(row("city").ends_with("tnt d1") && row("tier").ends_with("tp ann"), "{}{}", row("city"), row("tier"));
    assert!(!browser.text().contains("chess"), "what the device did for somebody else");
    // Neither the id it lives at nor one that has left.
    assert_eq!(browser.count("form[action$='/unlink']"), 2);

    browser.click("details:has(input[value=d1]) summary");
    browser.click("details:has(input[value=d1]) button");
    browser.wait_for_text("tnt d1 has a profile of its own now.");
    assert_eq!((row("tnt d1"), row("city")), (String::new(), String::new()));
    let device = server.get("/v1/demo/profiles/tnt/d1").expect(200).json();
    assert_eq!(
        (&device["profileAttributes"]["tier"]["value"], &device["ids"]),
        (&json!("bronze"), &json!({"tntId": ["d1"]}))
    );
    let audit = Admin::new(&server).get("/v1/demo/audit").expect(200).text();
    assert!(audit.contains("tnt:d1") && audit.contains("unlinked from tp:ann"), "{audit}");
    browser.open(&format!("{}/admin/c/demo/profiles?kind=tnt&id=d1", server.url()));
    assert_eq!(browser.count("form[action$='/unlink']"), 0, "a profile without links has no ids to unlink");
    assert_eq!(browser.console_errors(), Vec::<String>::new());
}

#[test]
fn the_secret_for_signatures_is_made_shown_once_and_replaced() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    let browser = Browser::start();
    sign_in(&browser, &server, "admin", ADMIN_PASSWORD);
    let settings = format!("{}/admin/c/demo/settings", server.url());
    browser.open(&settings);
    browser.wait_for_text("There is none yet.");
    let make = "form[action$='/identity-secret'] button";
    let mut secrets = Vec::new();
    for made in ["There is a new secret", "the one before is good for 1 day more"] {
        if browser.count("#grace") == 1 {
            browser.script("document.querySelector('#grace').value = '86400'", &json!([]));
        }
        browser.click(make);
        browser.wait_for_text(made);
        browser.wait_for_text("Confirmed");
        let secret = browser.script("return document.querySelector('#secret').value", &json!([]));
        secrets.push(secret.as_str().unwrap_or_default().to_owned());
    }
    assert!(secrets.iter().all(|secret| secret.len() > 40) && secrets[0] != secrets[1], "two secrets");
    browser.open(&settings);
    assert!(browser.text().contains("replaced, good until"), "{}", browser.text());
    let page = browser.script("return document.documentElement.outerHTML", &json!([])).to_string();
    assert!(secrets.iter().all(|secret| !page.contains(secret)), "shown once");
    let listed = Admin::new(&server).get("/v1/demo/identity-secret").expect(200).json();
    assert_eq!(listed["secrets"].as_array().map(Vec::len), Some(2), "{listed}");
}

#[test]
fn an_approver_switches_authentication_on_generates_copies_and_replaces_the_token() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    let admin = Admin::new(&server);
    admin.post("/v1/users", &json!({"name": "ada", "password": "seven blue bicycles", "roles": [{"client": "demo", "role": "approver"}]})).expect(201);
    visited(&server);
    assert_eq!(fetch(&server, None), 200, "open at first");

    let browser = Browser::start();
    sign_in(&browser, &server, "ada", "seven blue bicycles");
    assert!(browser.url().ends_with(API), "{}", browser.url());
    assert!(browser.text().contains("no token yet"));

    browser.click("button[role=switch]");
    browser.wait_for_text("Authentication is required now.");
    browser.wait_for_text("Confirmed");
    assert_eq!(fetch(&server, None), 401);

    let generate = format!("form[action='{API}/generate'] button");
    browser.click(&generate);
    browser.wait_for_text("There is a new profile authentication token.");
    browser.wait_for_text("Confirmed");
    assert!(browser.text().contains("standalone has reported it"), "{}", browser.text());
    assert!(browser.text().contains("30 days") || browser.text().contains("29 days 23 hours"), "{}", browser.text());
    let first = browser.script("return document.querySelector('#secret').value", &json!([]));
    let first = first.as_str().unwrap().to_owned();
    assert_eq!(fetch(&server, Some(&first)), 200);

    // The copy button really copies.
    let origin = server.url();
    browser.devtools(
        "Browser.grantPermissions",
        &json!({"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}),
    );
    browser.click("[data-copy]");
    browser.wait_for_text("Copied");
    let copied = browser.script("return navigator.clipboard.readText()", &json!([]));
    assert_eq!(copied.as_str(), Some(&*first));

    // Shown once: a reload neither repeats the change nor shows the secret.
    browser.open(&format!("{}{API}", server.url()));
    assert_eq!(browser.count("#secret"), 0);
    assert!(!browser.script("return document.documentElement.outerHTML", &json!([])).to_string().contains(&first));
    assert_eq!(fetch(&server, Some(&first)), 200);

    browser.click(&generate);
    browser.wait_for_text("Confirmed");
    let second = browser.script("return document.querySelector('#secret').value", &json!([]));
    assert_eq!(fetch(&server, Some(&first)), 401, "the old one is dead");
    assert_eq!(fetch(&server, second.as_str()), 200);

    browser.click("form[action='/admin/sign-out'] button");
    browser.wait_for_text("Password");
    browser.open(&format!("{}{API}", server.url()));
    browser.wait_for_text("Password");
    assert_eq!(browser.console_errors(), Vec::<String>::new());
}

#[test]
fn each_role_sees_the_buttons_that_would_work_and_no_others() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    let admin = Admin::new(&server);
    linked(&server);
    admin.post("/v1/demo/tokens", &json!({"name": "pos", "scopes": ["bulk:write"]})).expect(201);
    let expected = [
        // switch, generate, rotate, forms of settings (they and the secret), edit, erase, unlink, upload, users in the menu
        ("observer", [0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("editor", [0, 0, 0, 0, 1, 0, 2, 1, 0]),
        ("approver", [1, 1, 1, 2, 1, 1, 2, 1, 0]),
        ("admin", [1, 1, 1, 2, 1, 1, 2, 1, 1]),
    ];
    let browser = Browser::start();
    for (role, sees) in expected {
        let (name, password) = (format!("the-{role}"), "seven blue bicycles");
        admin
            .post("/v1/users", &json!({"name": name, "password": password, "roles": [{"client": "*", "role": role}]}))
            .expect(201);
        sign_in(&browser, &server, &name, password);
        let mut seen = vec![
            browser.count("button[role=switch]"),
            browser.count("form[action$='/generate']"),
            browser.count("form[action$='/rotate']"),
        ];
        browser.open(&format!("{}/admin/c/demo/settings", server.url()));
        seen.push(browser.count("main form"));
        browser.open(&format!("{}{ANN}", server.url()));
        assert!(browser.text().contains("Lyon"), "{}", browser.text());
        seen.push(browser.count("form[action$='/edit']"));
        seen.push(browser.count("form[action$='/erase']"));
        seen.push(browser.count("form[action$='/unlink']"));
        browser.open(&format!("{}/admin/c/demo/batches", server.url()));
        seen.push(browser.count("form[data-upload]"));
        seen.push(browser.count("nav a[href='/admin/users']"));
        assert_eq!(seen, sees, "{role}");
        browser.click("form[action='/admin/sign-out'] button");
        browser.wait_for_text("Password");
    }
}

#[test]
fn profiles_are_changed_and_erased_and_a_bulk_file_is_uploaded_and_watched() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    visited(&server);
    let browser = Browser::start();
    sign_in(&browser, &server, "admin", ADMIN_PASSWORD);
    // The pages need no token of the profile API.
    Admin::new(&server).patch("/v1/demo/settings", &json!({"enableProfileApiAuthentication": true})).expect(200);

    browser.open(&format!("{}/admin/c/demo/batches", server.url()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("batch.txt");
    std::fs::write(&file, "batch=pcId,tier\na1,gold\nb2,silver\nc3,x,too,many\n").unwrap();
    browser.attach("#file", &file);
    browser.click("input[name=dryRun]");
    browser.click("form[data-upload] button");
    browser.wait_for_text("3 rows: 2 to apply, 0 skipped, 1 would fail");
    browser.wait_for_text("There are none yet.");
    browser.click("input[name=dryRun]");
    browser.click("form[data-upload] button");
    browser.wait_for_text("Batch submitted for processing");
    // The list moves without a reload.
    browser.wait_for_text("3 of 3");
    wait::until("a complete batch", || (browser.count("[data-state=complete]") == 1).then_some(()));
    assert_eq!(browser.count("a[href$='/errors.csv']"), 1);

    browser.open(&format!("{}/admin/c/demo/profiles", server.url()));
    browser.fill("#id", "a1");
    browser.click(".search button");
    browser.wait_for_text("gold");
    assert!(browser.text().contains("Lifetime left") && browser.text().contains("days"));
    browser.click("main details summary");
    browser.fill("#name", "tier");
    browser.fill("#value", "<b>platinum</b>");
    browser.click("button[value=set]");
    browser.wait_for_text("<b>platinum</b>");
    browser.click("main details:last-of-type summary");
    browser.click("form[action$='/erase'] button");
    browser.wait_for_text("The profile is erased.");
    browser.wait_for_text("There is no profile of client demo with");
    assert_eq!(browser.console_errors(), Vec::<String>::new());
}

/// Every input has a name for screen readers, nothing is too pale, nothing is wider than the page, ids are single, and
/// headings and landmarks are there.
const CHECKS: &str = r#"
const found = [];
for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
  const named = field.labels?.length || field.getAttribute("aria-label");
  if (!named) found.push("no label: " + field.outerHTML);
}
for (const button of document.querySelectorAll("button, a, summary")) {
  if (!button.textContent.trim() && !button.getAttribute("aria-label")) found.push("no name: " + button.outerHTML);
}
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("id twice: " + id);
if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1) found.push("one main and one h1");
if (!document.documentElement.lang) found.push("no language");
if (document.documentElement.scrollWidth > window.innerWidth + 1) found.push("wider than the page: " + document.documentElement.scrollWidth);
for (const table of document.querySelectorAll(".table")) {
  if (window.innerWidth < 700 && table.scrollWidth > table.clientWidth + 1) found.push("a table is cut: " + table.innerText.slice(0, 80));
}
const channel = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.closest(".visually-hidden, .skip, thead")) continue;
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push("contrast " + ratio.toFixed(2) + ": " + e.outerHTML.slice(0, 120));
}
return found;
"#;

#[test]
fn every_page_can_be_read_in_light_and_dark_on_a_phone_and_by_a_screen_reader() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    let admin = Admin::new(&server);
    visited(&server);
    linked(&server);
    admin.post("/v1/clients", &json!({"code": "shop"})).expect(201);
    admin.post("/v1/demo/tokens", &json!({"name": "pos", "scopes": ["bulk:write", "profile:read"]})).expect(201);
    server
        .send(&Request::post("/m2/demo/v2/profile/batchUpdate", "text/plain", "batch=pcId,tier\na1,gold\nb,x,y\n"))
        .expect(200);
    let browser = Browser::start();
    browser.open(&format!("{}/admin/sign-in", server.url()));
    let shots = std::env::var_os("CAMEO_SHOTS").map(PathBuf::from);
    let look = |page: &str, view: View| {
        browser.view(view);
        let found = browser.script(CHECKS, &json!([]));
        assert_eq!(found, json!([]), "{page} {view:?}");
        if let Some(dir) = &shots {
            browser.screenshot(&dir.join(format!("{page}-{view:?}.png").to_lowercase()));
        }
    };
    let views = [View::Desktop, View::Dark, View::Phone];
    views.iter().for_each(|view| look("sign-in", *view));
    sign_in(&browser, &server, "admin", ADMIN_PASSWORD);
    browser.click(&format!("form[action='{API}/generate'] button"));
    browser.wait_for_text("Confirmed");
    views.iter().for_each(|view| look("generated", *view));
    browser.open(&format!("{}/admin/c/demo/settings", server.url()));
    browser.click("form[action$='/identity-secret'] button");
    browser.wait_for_text("Confirmed");
    views.iter().for_each(|view| look("secret", *view));
    for (page, path) in [
        ("profile-api", API),
        ("settings", "/admin/c/demo/settings"),
        ("profiles", "/admin/c/demo/profiles?kind=tnt&id=a1"),
        ("person", ANN),
        ("batches", "/admin/c/demo/batches"),
        ("cluster", "/admin/cluster"),
        ("audit", "/admin/audit"),
        ("clients", "/admin/clients"),
        ("users", "/admin/users"),
        ("account", "/admin/account"),
    ] {
        browser.open(&format!("{}{path}", server.url()));
        browser.script("document.querySelectorAll('details').forEach((d) => { d.open = true; })", &json!([]));
        views.iter().for_each(|view| look(page, *view));
    }
    assert_eq!(browser.console_errors(), Vec::<String>::new());
}

#[test]
fn the_keyboard_alone_signs_in_and_flips_the_switch() {
    if !needs::have(needs::BROWSER) {
        return;
    }
    let server = admin::server();
    let browser = Browser::start();
    browser.open(&format!("{}/admin", server.url()));
    // The first field has the focus.
    browser.press(&format!("admin\u{e004}{ADMIN_PASSWORD}\u{e007}"));
    browser.wait_for_text("Sign out");
    browser.script("document.querySelector('#main').focus()", &json!([]));
    browser.press("\u{e004}");
    let focused = browser.script("return document.activeElement.getAttribute('role')", &json!([]));
    assert_eq!(focused, "switch");
    browser.press(" ");
    browser.wait_for_text("Authentication is required now.");
}
