//! One caller of the crash test: what it has sent, what was acknowledged, what it must send again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use cameo_tests::http::{Connection, Request, Response};
use cameo_tests::random::Random;
use cameo_tests::server::Server;
use cameo_tests::xml;
use serde_json::{Value, json};

use crate::common::{BULK_V2, VISITS, complete, fetch, status_path};

/// Visitors of one caller.
const VISITORS: u64 = 6;
/// Visits in an array.
const ARRAY: u64 = 20;
/// Rows of a bulk file.
const FILE_ROWS: u64 = 40;

/// A bulk file that was sent at least once.
struct File {
    key: String,
    body: String,
}

/// What one visitor must look like.
#[derive(Clone, Debug, Default)]
struct Visitor {
    /// Visits that were answered with success.
    acknowledged: u64,
    /// The last value of `seq` that was acknowledged, and the last that was sent.
    seq_acknowledged: u64,
    seq_sent: u64,
}

/// A caller: one thread, one connection, visitors of its own, so that what it knows of them is all there is to know.
pub(crate) struct Caller {
    number: u64,
    random: Random,
    visitors: BTreeMap<String, Visitor>,
    /// Sent, but neither acknowledged nor refused: each call is a list of visits.
    unanswered: Vec<Vec<Value>>,
    files: Vec<File>,
    next_event: u64,
}

impl Caller {
    pub(crate) fn new(number: u64, seed: u64) -> Self {
        let visitors = (0..VISITORS).map(|v| (format!("crash-{number}-{v}"), Visitor::default())).collect();
        Self { number, random: Random::new(seed), visitors, unanswered: Vec::new(), files: Vec::new(), next_event: 0 }
    }

    /// Visits acknowledged over all rounds.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.visitors.values().map(|v| v.acknowledged).sum()
    }

    /// Sends without a pause until the server is gone.
    pub(crate) fn work_until_the_end(&mut self, server: SocketAddr) {
        let Ok(mut connection) = Connection::open(server) else { return };
        // One file a round: they are the slow part.
        let mut file_sent = false;
        loop {
            let alive = match self.random.below(20) {
                0..=13 => self.send_visits(&mut connection, 1),
                14..=16 => self.send_visits(&mut connection, ARRAY),
                17 | 18 => self.send_update(&mut connection),
                _ if file_sent => true,
                _ => {
                    file_sent = true;
                    self.send_file(&mut connection)
                }
            };
            if !alive {
                return;
            }
        }
    }

    fn any_visitor(&mut self) -> String {
        format!("crash-{}-{}", self.number, self.random.below(VISITORS))
    }

    fn send_visits(&mut self, connection: &mut Connection, count: u64) -> bool {
        let mut call = Vec::new();
        for _ in 0..count {
            self.next_event += 1;
            let event = format!("e-{}-{}", self.number, self.next_event);
            call.push(json!({"eventId": event, "sessionId": "s", "ids": {"tntId": self.any_visitor()}}));
        }
        match connection.send(&request_of(&call)) {
            Ok(response) => {
                self.settle(&call, &response);
                true
            }
            Err(_) => {
                self.unanswered.push(call);
                false
            }
        }
    }

    /// Counts the visits of an answered call. A 503 promises nothing either way: it is sent again.
    fn settle(&mut self, call: &[Value], response: &Response) {
        if response.status == 503 || response.status == 429 {
            self.unanswered.push(call.to_vec());
            return;
        }
        assert_eq!(response.status, 200, "{}", response.text());
        if call.len() > 1 {
            assert_eq!(response.json()["accepted"], call.len(), "{}", response.text());
        }
        for visit in call {
            let id = visit["ids"]["tntId"].as_str().expect("a tntId");
            self.visitors.get_mut(id).expect("a visitor of mine").acknowledged += 1;
        }
    }

    fn send_update(&mut self, connection: &mut Connection) -> bool {
        let id = self.any_visitor();
        let visitor = self.visitors.get_mut(&id).expect("a visitor of mine");
        if visitor.acknowledged == 0 {
            return true;
        }
        visitor.seq_sent += 1;
        let seq = visitor.seq_sent;
        let request = Request::get(&format!("/m2/demo/profile/update?mboxPC={id}&profile.seq={seq}"));
        match connection.send(&request) {
            Ok(response) if response.status == 200 => {
                visitor.seq_acknowledged = seq;
                true
            }
            Ok(response) => {
                assert!(matches!(response.status, 429 | 503), "{} {}", response.status, response.text());
                true
            }
            Err(_) => false,
        }
    }

    fn send_file(&mut self, connection: &mut Connection) -> bool {
        let key = format!("file-{}-{}", self.number, self.files.len());
        let mut body = String::from("batch=pcId,a\n");
        for row in 0..FILE_ROWS {
            let _ = writeln!(body, "{key}-{row},{row}");
        }
        let file = File { key, body };
        let sent = connection.send(&file.request()).is_ok();
        self.files.push(file);
        sent
    }

    /// Sends again what was not answered; the server is up, so it is answered now.
    pub(crate) fn retry(&mut self, server: &Server) {
        for call in std::mem::take(&mut self.unanswered) {
            let response = server.send(&request_of(&call)).expect(200);
            self.settle(&call, &response);
        }
    }

    /// Between what was acknowledged and what was sent, before anything is sent again.
    pub(crate) fn check_bounds(&self, server: &Server, round: u32) {
        for (id, visitor) in &self.visitors {
            let unanswered =
                self.unanswered.iter().flatten().filter(|v| v["ids"]["tntId"] == id.as_str()).count() as u64;
            let (visits, seq) = read(server, id);
            let (least, most) = (visitor.acknowledged, visitor.acknowledged + unanswered);
            assert!((least..=most).contains(&visits), "round {round}: {id} has {visits} visits, not {least} to {most}");
            let (least, most) = (visitor.seq_acknowledged, visitor.seq_sent);
            assert!((least..=most).contains(&seq), "round {round}: {id} has seq {seq}, not {least} to {most}");
        }
    }

    /// Exactly what was acknowledged, once nothing is unanswered.
    pub(crate) fn check_exact(&self, server: &Server, round: u32) {
        assert!(self.unanswered.is_empty());
        for (id, visitor) in &self.visitors {
            let (visits, _) = read(server, id);
            assert_eq!(visits, visitor.acknowledged, "round {round}: visits of {id}");
        }
    }

    /// Sends every bulk file once more with its key: each is complete then, and no row was counted twice.
    pub(crate) fn check_files(&self, server: &Server) {
        for file in &self.files {
            let reply = server.send(&file.request()).expect(200);
            let status = complete(server, &status_path(server, &reply));
            for (tag, expected) in
                [("batchSize", FILE_ROWS), ("consumedCount", FILE_ROWS), ("successfulUpdates", FILE_ROWS)]
            {
                assert_eq!(xml::number(&status, tag), expected, "{}: {tag}: {status}", file.key);
            }
        }
    }
}

impl File {
    fn request(&self) -> Request {
        Request::post(BULK_V2, "text/csv", self.body.as_str()).header("Idempotency-Key", &self.key)
    }
}

fn request_of(call: &[Value]) -> Request {
    let body = if let [one] = call { one.to_string() } else { Value::from(call.to_vec()).to_string() };
    Request::post(VISITS, "application/json", body)
}

/// Visits and `seq` of a visitor; zeros without a profile.
fn read(server: &Server, id: &str) -> (u64, u64) {
    let reply = fetch(server, id);
    if reply.status == 404 {
        return (0, 0);
    }
    let profile = reply.expect(200).json();
    let number =
        |name: &str| profile["profileAttributes"][name]["value"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
    (number("visitCount"), number("seq"))
}
