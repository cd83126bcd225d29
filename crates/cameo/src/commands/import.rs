//! `cameo visit import`: an access log becomes visits.
//!
//! A visitor is address + user agent. Every line carries an event id made of the file's content and its line number, so
//! that a second import of the same file counts nothing twice (within the server's event-id window of an hour). All
//! lines are held in memory, as they are sent in the order of time: about 400 bytes a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use cameo_client::{Client, Visit};
use clap::Args;
use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::clf::{self, Line};
use super::{Done, Target, print_json};

/// Visits in one call; the server takes up to 10,000.
const BATCH: usize = 1000;
/// Lines that one import takes. Ours: 4 GB of memory.
const LINES: usize = 10_000_000;
/// Malformed lines that are listed by number; all are counted.
const LISTED: usize = 50;

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    target: Target,
    /// The log, plain or .gz; `-` is standard input
    file: PathBuf,
    /// Move all times so that the last line happens now
    #[arg(long)]
    shift_to_now: bool,
}

/// The file, read.
struct Log {
    lines: Vec<(usize, Line)>,
    malformed: Vec<(usize, &'static str)>,
    digest: u128,
}

pub(crate) async fn run(args: ImportArgs) -> anyhow::Result<Done> {
    let began = Instant::now();
    let client = args.target.connect()?;
    let file = args.file.clone();
    let mut log = tokio::task::spawn_blocking(move || read(&file)).await??;
    // Stable: lines of the same second stay in the order of the file.
    log.lines.sort_by_key(|(_, line)| line.time_ms);
    let shift_ms = if args.shift_to_now { shift_to_now(&log.lines)? } else { 0 };
    let bar = progress(log.lines.len() as u64, args.target.json);
    let sent = send(&client, &log, shift_ms, &bar).await?;
    bar.finish_and_clear();
    let mut visits_of = HashMap::new();
    for (_, line) in &log.lines {
        *visits_of.entry(visitor(line)).or_insert(0u64) += 1;
    }
    let busiest = visits_of.iter().max_by_key(|(id, visits)| (**visits, std::cmp::Reverse(*id)));
    let seconds = began.elapsed().as_secs_f64();
    let report = json!({
        "lines": log.lines.len() + log.malformed.len(),
        "visits": sent.accepted,
        "refused": sent.refused,
        "visitors": visits_of.len(),
        "malformed": log.malformed.iter().map(|(line, reason)| json!({"line": line, "reason": reason})).collect::<Vec<_>>(),
        "seconds": seconds,
        "visitsPerSecond": (sent.accepted as f64 / seconds) as u64,
        "busiest": busiest.map(|(id, visits)| json!({"tntId": id, "visits": visits})),
    });
    if args.target.json {
        print_json(&report);
    } else {
        print_report(&report, &log.malformed, &sent.reasons);
    }
    Ok(if sent.refused > 0 { Done::InPart } else { Done::Whole })
}

fn read(path: &std::path::Path) -> anyhow::Result<Log> {
    let shown = path.display();
    let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot open {shown}"))?))
    };
    // By its first bytes, not by its name.
    if input.fill_buf().with_context(|| format!("cannot read {shown}"))?.starts_with(&[0x1f, 0x8b]) {
        input = Box::new(BufReader::new(MultiGzDecoder::new(input)));
    }
    let mut log = Log { lines: Vec::new(), malformed: Vec::new(), digest: 0 };
    let mut digest = Xxh3Default::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // A line longer than this is malformed anyway; the bound keeps memory in hand.
        let read = input.by_ref().take(1 << 20).read_until(b'\n', &mut line);
        if read.with_context(|| format!("cannot read {shown} at line {number}"))? == 0 {
            break;
        }
        digest.update(&line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match clf::parse(&line) {
            Ok(parsed) => log.lines.push((number, parsed)),
            Err(reason) => log.malformed.push((number, reason)),
        }
        ensure!(log.lines.len() <= LINES, "{shown} has more than {LINES} lines; split it");
    }
    log.digest = digest.digest128();
    Ok(log)
}

fn shift_to_now(lines: &[(usize, Line)]) -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let last = lines.last().map_or(0, |(_, line)| line.time_ms);
    Ok(now.as_millis() as i64 - last as i64)
}

fn progress(lines: u64, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} visits, {per_sec}, {eta} left");
    ProgressBar::new(lines).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

struct Sent {
    accepted: u64,
    refused: u64,
    /// Why the first ones were refused, with their lines.
    reasons: Vec<(usize, String)>,
}

async fn send(client: &Client, log: &Log, shift_ms: i64, bar: &ProgressBar) -> anyhow::Result<Sent> {
    let mut sent = Sent { accepted: 0, refused: 0, reasons: Vec::new() };
    // One call after the other: a visitor's visits must stay in order.
    for lines in log.lines.chunks(BATCH) {
        let visits: Vec<_> = lines.iter().map(|(number, line)| visit(log.digest, *number, line, shift_ms)).collect();
        let reply = client.visits(&visits).await?;
        sent.accepted += reply["accepted"].as_u64().context("the reply has no count of accepted visits")?;
        sent.refused += reply["refused"].as_u64().context("the reply has no count of refused visits")?;
        for ((number, _), result) in lines.iter().zip(reply["results"].as_array().into_iter().flatten()) {
            if result["status"] != "accepted" && sent.reasons.len() < LISTED {
                let reason = result["error"]["message"].as_str().unwrap_or("no reason given");
                sent.reasons.push((*number, reason.to_owned()));
            }
        }
        bar.inc(lines.len() as u64);
    }
    Ok(sent)
}

/// The tntId of address + user agent: a hash, in hexadecimal.
fn visitor(line: &Line) -> String {
    let agent = line.user_agent.as_deref().unwrap_or_default();
    format!("{:032x}", xxh3_128(format!("{}\n{agent}", line.host).as_bytes()))
}

fn visit(digest: u128, number: usize, line: &Line, shift_ms: i64) -> Visit {
    let path = line.target.split(['?', '#']).next().unwrap_or_default();
    let mut visit = Visit::of_tnt_id(&visitor(line))
        .event_id(&format!("{digest:032x}-{number}"))
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

fn print_report(report: &serde_json::Value, malformed: &[(usize, &str)], refused: &[(usize, String)]) {
    println!(
        "{} lines: {} visits of {} visitors in {:.1} s ({} visits/s)",
        report["lines"],
        report["visits"],
        report["visitors"],
        report["seconds"].as_f64().unwrap_or_default(),
        report["visitsPerSecond"]
    );
    if !malformed.is_empty() {
        println!("{} malformed:", malformed.len());
        malformed.iter().take(LISTED).for_each(|(line, reason)| println!("  line {line}: {reason}"));
        if malformed.len() > LISTED {
            println!("  and {} more", malformed.len() - LISTED);
        }
    }
    if report["refused"] != 0 {
        println!("{} refused by the server:", report["refused"]);
        refused.iter().for_each(|(line, reason)| println!("  line {line}: {reason}"));
    }
    if let Some(id) = report["busiest"]["tntId"].as_str() {
        println!("The busiest visitor has {} visits:\n  cameo profile get tnt {id}", report["busiest"]["visits"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_visit() {
        let text = br#"1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /shop/x?y HTTP/1.1" 404 1 "-" "Mozilla/5.0 Firefox/30.0""#;
        let line = clf::parse(text).unwrap();
        let visit = serde_json::to_value(visit(7, 3, &line, 1000)).unwrap();
        assert_eq!(visit["occurredAt"], 1_431_857_104_000_u64);
        assert_eq!(visit["eventId"], format!("{:032x}-3", 7));
        assert_eq!(visit["profile"], json!({"lastPath": "/shop/x", "lastStatus": "404", "browser": "Firefox"}));
        assert_eq!(visit["categories"], json!(["shop"]));
        assert_eq!(visit["ids"]["tntId"].as_str().map(str::len), Some(32));
        assert_eq!(visit["page"], json!({"url": "/shop/x?y"}));
    }
}
