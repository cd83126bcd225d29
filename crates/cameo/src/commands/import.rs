//! `cameo visit import`: an access log becomes visits.
//!
//! A visitor is address + user agent. Every line carries an event id of its own, so that a second import of the same
//! file counts nothing twice, as long as the server remembers event ids: for an hour, and the last 262,144 of each
//! partition. Visitors are spread over a few lanes, each with one call under way at a time: a visitor's visits arrive in
//! the order of time, and the server's fsync is not waited for once a call. Memory: see [`access_log`].

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use cameo_client::{Client, Visit};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::task::JoinSet;

use super::access_log::{self, AccessLog, Entry};
use super::{Done, Target, print_json};
use crate::out::{remark, say};

/// Visits in one call; the server takes up to 10,000.
const BATCH: usize = 1000;
/// Calls under way at once.
const LANES: usize = 4;
/// Lines that are listed for people, malformed ones and refused ones.
const LISTED: usize = 50;

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    target: Target,
    /// The log, plain or .gz; `-` is standard input. Held in memory to be sorted: about 700 bytes a line, at most ten
    /// million lines
    file: PathBuf,
    /// Move all times so that the last line happens now
    #[arg(long)]
    shift_to_now: bool,
}

pub(crate) async fn run(args: ImportArgs) -> anyhow::Result<Done> {
    let began = Instant::now();
    let client = args.target.connect()?;
    let log = Arc::new(tokio::task::spawn_blocking(move || access_log::open(&args.file)).await??);
    let shift_ms = if args.shift_to_now { shift_to_now(&log.entries)? } else { 0 };
    let bar = progress(log.entries.len() as u64, args.target.json);
    let sent = send(&client, &log, shift_ms, &bar).await;
    bar.finish_and_clear();
    let sent = sent?;
    let mut visits_of = HashMap::new();
    for entry in &log.entries {
        *visits_of.entry(entry.visitor()).or_insert(0u64) += 1;
    }
    // Of several, the one with the smallest id, so that two runs say the same.
    let busiest = visits_of.iter().max_by_key(|(id, visits)| (**visits, std::cmp::Reverse(**id)));
    let seconds = began.elapsed().as_secs_f64();
    let named = |(line, reason): (&usize, &str)| json!({"line": line, "reason": reason});
    let report = json!({
        "lines": log.entries.len() as u64 + log.malformed_lines,
        "visits": sent.accepted + sent.spooled,
        "spooled": sent.spooled,
        "refused": sent.refused,
        "refusedLines": sent.reasons.iter().map(|(line, reason)| named((line, reason))).collect::<Vec<_>>(),
        "visitors": visits_of.len(),
        "malformedLines": log.malformed_lines,
        "malformed": log.malformed.iter().map(|(line, reason)| named((line, reason))).collect::<Vec<_>>(),
        "seconds": seconds,
        "visitsPerSecond": ((sent.accepted + sent.spooled) as f64 / seconds) as u64,
        "busiest": busiest.map(|(id, visits)| json!({"tntId": tnt_id(*id), "visits": visits})),
    });
    if args.target.json {
        print_json(&report)?;
    } else {
        print_report(&report, &log, &sent.reasons)?;
    }
    if log.entries.is_empty() && log.malformed_lines > 0 {
        remark!("error: not one line is in Combined Log Format");
        return Ok(Done::Failed);
    }
    Ok(if sent.refused > 0 { Done::InPart } else { Done::Whole })
}

fn shift_to_now(entries: &[Entry]) -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let last = entries.last().map_or(0, |entry| entry.line.time_ms);
    Ok(now.as_millis() as i64 - last as i64)
}

fn progress(visits: u64, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} visits, {per_sec}, {eta} left");
    ProgressBar::new(visits).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[derive(Default)]
struct Sent {
    accepted: u64,
    /// Taken, and not visible yet: the server's log is away.
    spooled: u64,
    refused: u64,
    /// Why the first ones were refused, with their lines.
    reasons: Vec<(usize, String)>,
}

impl Sent {
    /// Takes note of what became of the visit of a line.
    fn count(&mut self, line: usize, result: &serde_json::Value) {
        match result["status"].as_str() {
            Some("accepted") => self.accepted += 1,
            Some("spooled") => self.spooled += 1,
            _ => {
                self.refused += 1;
                // Lines of a lane are in the order of time, not of the file; the first ones are as good as any.
                if self.reasons.len() < LISTED {
                    let reason = result["error"]["message"].as_str().unwrap_or("no reason given");
                    self.reasons.push((line, reason.to_owned()));
                }
            }
        }
    }
}

async fn send(client: &Client, log: &Arc<AccessLog>, shift_ms: i64, bar: &ProgressBar) -> anyhow::Result<Sent> {
    let mut lanes = vec![Vec::new(); LANES];
    for (at, entry) in log.entries.iter().enumerate() {
        lanes[(entry.visitor() % LANES as u128) as usize].push(at);
    }
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn(send_lane(client.clone(), Arc::clone(log), lane, shift_ms, bar.clone()));
    }
    let mut all = Sent::default();
    while let Some(done) = tasks.join_next().await {
        let sent = done?.map_err(|error| match bar.position() {
            0 => error,
            done => error.context(format!(
                "the import broke off after {done} of {} visits; the same command again completes it, and within \
                     an hour counts none of them twice",
                log.entries.len()
            )),
        })?;
        all.accepted += sent.accepted;
        all.spooled += sent.spooled;
        all.refused += sent.refused;
        all.reasons.extend(sent.reasons);
    }
    all.reasons.sort();
    all.reasons.truncate(LISTED);
    Ok(all)
}

/// One call after the other.
async fn send_lane(
    client: Client,
    log: Arc<AccessLog>,
    lane: Vec<usize>,
    shift_ms: i64,
    bar: ProgressBar,
) -> anyhow::Result<Sent> {
    let mut sent = Sent::default();
    for batch in lane.chunks(BATCH) {
        let visits: Vec<_> = batch.iter().map(|at| visit(&log.entries[*at], shift_ms)).collect();
        let reply = client.visits(&visits).await?;
        let results = reply["results"].as_array().filter(|results| results.len() == batch.len());
        let results = results.ok_or_else(|| anyhow!("the reply has no result for each visit"))?;
        for (at, result) in batch.iter().zip(results) {
            sent.count(log.entries[*at].number, result);
        }
        bar.inc(batch.len() as u64);
    }
    Ok(sent)
}

fn tnt_id(visitor: u128) -> String {
    format!("{visitor:032x}")
}

fn visit(entry: &Entry, shift_ms: i64) -> Visit {
    let line = &entry.line;
    let path = line.target.split(['?', '#']).next().unwrap_or_default();
    let mut visit = Visit::of_tnt_id(&tnt_id(entry.visitor()))
        .event_id(&format!("{:032x}", entry.event))
        .occurred_at(line.time_ms.saturating_add_signed(shift_ms))
        .page(&cut(&line.target, 4096))
        .profile("lastPath", &cut(path, 256))
        .profile("lastStatus", &line.status.to_string());
    if line.method != "GET" {
        visit = visit.parameter("method", &cut(&line.method, 128));
    }
    if let Some(referrer) = &line.referrer {
        visit = visit.referrer(&cut(referrer, 4096));
    }
    if let Some(agent) = &line.user_agent {
        visit = visit.user_agent(&cut(agent, 2048)).profile("browser", browser(agent));
    }
    // The first folder of a path is what sites of all kinds have for a category.
    match path.trim_start_matches('/').split_once('/') {
        Some((folder, _)) if !folder.is_empty() && !folder.contains(',') => visit.category(&cut(folder, 128)),
        _ => visit,
    }
}

/// The first `chars` characters, without control characters.
fn cut(text: &str, chars: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(chars).collect()
}

/// The family of a user agent, for people who look at profiles; not a detection library.
fn browser(agent: &str) -> &'static str {
    // The order matters: browsers name the ones they imitate.
    let families = [
        ("bot", "Bot"),
        ("spider", "Bot"),
        ("crawler", "Bot"),
        ("feed", "Feed reader"),
        ("rss", "Feed reader"),
        ("edge/", "Edge"),
        ("edg/", "Edge"),
        ("opr/", "Opera"),
        ("opera", "Opera"),
        ("chrome/", "Chrome"),
        ("firefox/", "Firefox"),
        ("msie", "Internet Explorer"),
        ("trident/", "Internet Explorer"),
        ("safari/", "Safari"),
    ];
    let agent = agent.to_ascii_lowercase();
    families.iter().find(|(mark, _)| agent.contains(mark)).map_or("Other", |(_, family)| family)
}

fn print_report(report: &serde_json::Value, log: &AccessLog, refused: &[(usize, String)]) -> anyhow::Result<()> {
    say!(
        "{} lines: {} visits of {} visitors in {:.1} s ({} visits/s)",
        report["lines"],
        report["visits"],
        report["visitors"],
        report["seconds"].as_f64().unwrap_or_default(),
        report["visitsPerSecond"]
    )?;
    if report["spooled"] != 0 {
        say!("{} spooled, not visible yet: they are counted when the server's log is back", report["spooled"])?;
    }
    if log.malformed_lines > 0 {
        let listed = &log.malformed[..log.malformed.len().min(LISTED)];
        say!("{} malformed:", log.malformed_lines)?;
        listed.iter().try_for_each(|(line, reason)| say!("  line {line}: {reason}"))?;
        and_more(log.malformed_lines, listed.len())?;
    }
    if report["refused"] != 0 {
        say!("{} refused by the server:", report["refused"])?;
        refused.iter().try_for_each(|(line, reason)| say!("  line {line}: {reason}"))?;
        and_more(report["refused"].as_u64().unwrap_or_default(), refused.len())?;
    }
    if let Some(id) = report["busiest"]["tntId"].as_str() {
        let visits = &report["busiest"]["visits"];
        let s = if *visits == 1 { "" } else { "s" };
        say!("The busiest visitor has {visits} visit{s}:\n  cameo profile get tnt {id}")?;
    }
    Ok(())
}

fn and_more(all: u64, listed: usize) -> anyhow::Result<()> {
    match all.saturating_sub(listed as u64) {
        0 => Ok(()),
        more => say!("  and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::clf;

    #[test]
    fn what_waits_in_a_spool_is_not_refused() {
        let mut sent = Sent::default();
        sent.count(1, &json!({"index": 0, "status": "accepted", "tntId": "a"}));
        sent.count(2, &json!({"index": 1, "status": "spooled", "tntId": "b"}));
        sent.count(3, &json!({"index": 2, "status": "refused", "error": {"status": 400, "message": "too long"}}));
        sent.count(4, &json!({"index": 3, "status": "failed", "error": {"status": 503, "message": "it is full"}}));
        assert_eq!((sent.accepted, sent.spooled, sent.refused), (1, 1, 2));
        assert_eq!(sent.reasons, [(3, "too long".to_owned()), (4, "it is full".to_owned())]);
    }

    #[test]
    fn a_line_becomes_a_visit() {
        let text = br#"1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /shop/x?y HTTP/1.1" 404 1 "-" "Mozilla/5.0 Firefox/30.0""#;
        let entry = Entry { number: 3, event: 7, line: clf::parse(text).unwrap() };
        let visit = serde_json::to_value(visit(&entry, 1000)).unwrap();
        assert_eq!(visit["occurredAt"], 1_431_857_104_000_u64);
        assert_eq!(visit["eventId"], format!("{:032x}", 7));
        assert_eq!(visit["profile"], json!({"lastPath": "/shop/x", "lastStatus": "404", "browser": "Firefox"}));
        assert_eq!(visit["categories"], json!(["shop"]));
        assert_eq!(visit["ids"]["tntId"].as_str().map(str::len), Some(32));
        assert_eq!(visit["page"], json!({"url": "/shop/x?y"}));
    }
}
