//! `cameo bench`: closed and open loop load against any URL, with latency percentiles.
//!
//! Closed loop: every connection sends its next request when the last one was answered. Open loop (`--rate`): requests
//! are due at fixed times, and latency counts from when a request was due, not from when a connection was free for it,
//! so that a server that stalls cannot hide it (coordinated omission).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Done, Target, print_json};
use crate::out::say;

/// Latencies are kept from 1 µs to a minute, to three digits.
const LONGEST_US: u64 = 60_000_000;
/// How late the last request of an open loop may go out: timers are, by a millisecond or on a busy machine a few.
const LAST_TICK: Duration = Duration::from_millis(50);
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    target: Target,
    /// What is sent
    #[arg(long, value_enum, default_value_t = Kind::Visits)]
    kind: Kind,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How long, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Requests a second over all connections (open loop); without it as many as are answered (closed loop). Timers tick
    /// in milliseconds, so that open-loop latencies may be up to 1 ms too high
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Visitors that requests are spread over
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    profiles: u32,
    /// Visits in one request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Where random visitors start from; the same seed sends the same requests
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Visits, each with three profile parameters
    Visits,
    /// Reads of profiles by tntId
    Reads,
    /// One read after every visit
    Mixed,
}

/// Where requests go, resolved once.
struct Goal {
    address: String,
    host: HeaderValue,
    /// For a URL of https.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Path of the URL, without a slash at the end.
    prefix: String,
    client: String,
    token: Option<HeaderValue>,
}

/// What one connection saw.
struct Seen {
    latency_us: Histogram<u64>,
    /// By status; 0 = no answer.
    statuses: BTreeMap<u16, u64>,
    /// Answered with success; a read also with 404, as not every visitor has been there yet.
    good: u64,
    /// Due in an open loop, but not sent before the end.
    unsent: u64,
}

impl Seen {
    fn new() -> anyhow::Result<Self> {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3)?;
        Ok(Self { latency_us, statuses: BTreeMap::new(), good: 0, unsent: 0 })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency_us.add(&other.latency_us)?;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_insert(0) += count;
        }
        self.good += other.good;
        self.unsent += other.unsent;
        Ok(())
    }

    fn count(&mut self, status: u16, read: bool, latency: Duration) {
        *self.statuses.entry(status).or_insert(0) += 1;
        self.good += u64::from(matches!(status, 200..=299) || (read && status == 404));
        self.took(latency);
    }

    /// What was due from `due` on. It took at least until the end: without it, a server that stalls would look fast.
    fn never_sent(&mut self, due: Instant, gap: Duration, until: Instant) {
        let mut due = due;
        while due < until {
            self.unsent += 1;
            self.took(until - due);
            due += gap;
        }
    }

    fn took(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        self.latency_us.saturating_record(us.clamp(1, LONGEST_US));
    }
}

/// A small generator (SplitMix64): a bench needs spread, not secrets.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % u64::from(bound)) as u32
    }
}

pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<Done> {
    let goal = Arc::new(goal(&args.target)?);
    // A list of no visits through the SDK first, so that a server or a client that is not there is told in its words.
    match args.target.connect()?.visits(&[]).await {
        Ok(_) | Err(cameo_client::Error::Refused { status: 400, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let began = Instant::now();
    let until = began + Duration::from_secs(args.seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..args.connections {
        tasks.spawn(connection(Arc::clone(&goal), args.clone(), n, began, until));
    }
    let mut all = Seen::new()?;
    while let Some(seen) = tasks.join_next().await {
        all.add(&seen??)?;
    }
    report(&args, &all, began.elapsed().as_secs_f64())
}

fn goal(target: &Target) -> anyhow::Result<Goal> {
    let uri: Uri = target.url.parse().with_context(|| format!("{:?} is not a URL", target.url))?;
    let host = uri.host().with_context(|| format!("{:?} names no host", target.url))?;
    let https = uri.scheme_str() == Some("https");
    ensure!(https || uri.scheme_str() == Some("http"), "{:?} is not an http:// or https:// URL", target.url);
    let tls = if https {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).with_context(|| format!("{host:?} is no name of a server"))?;
        Some((TlsConnector::from(cameo_client::tls::config(target.ca.as_deref())?), name))
    } else {
        None
    };
    let token = target.token.as_ref().map(|token| HeaderValue::try_from(format!("Bearer {token}")));
    Ok(Goal {
        address: format!("{host}:{}", uri.port_u16().unwrap_or(if https { 443 } else { 80 })),
        tls,
        host: HeaderValue::try_from(uri.authority().map_or(host, |authority| authority.as_str()))?,
        prefix: uri.path().trim_end_matches('/').to_owned(),
        client: target.client.clone(),
        token: token.transpose().context("the token cannot be sent in a header")?,
    })
}

async fn connection(goal: Arc<Goal>, args: BenchArgs, n: u32, began: Instant, until: Instant) -> anyhow::Result<Seen> {
    let mut seen = Seen::new()?;
    let mut random = Random(args.seed.wrapping_add(u64::from(n) << 32));
    let mut sender: Option<SendRequest<Full<Bytes>>> = None;
    let gap = args.rate.map(|rate| Duration::from_secs_f64(f64::from(args.connections) / f64::from(rate)));
    // Connections start spread over one gap, so that they do not all send at once.
    let mut due = began + gap.unwrap_or_default().mul_f64(f64::from(n) / f64::from(args.connections));
    let mut count = 0u64;
    loop {
        match gap {
            Some(gap) => {
                if due >= until {
                    return Ok(seen);
                }
                tokio::time::sleep_until(due.into()).await;
                if Instant::now() >= until + LAST_TICK {
                    seen.never_sent(due, gap, until);
                    return Ok(seen);
                }
                let this = due;
                due += gap;
                send(&goal, &args, &mut sender, &mut random, count, this, &mut seen).await?;
            }
            None => {
                let now = Instant::now();
                if now >= until {
                    return Ok(seen);
                }
                send(&goal, &args, &mut sender, &mut random, count, now, &mut seen).await?;
            }
        }
        count += 1;
    }
}

async fn send(
    goal: &Goal,
    args: &BenchArgs,
    sender: &mut Option<SendRequest<Full<Bytes>>>,
    random: &mut Random,
    count: u64,
    due: Instant,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let read = args.kind == Kind::Reads || (args.kind == Kind::Mixed && count % 2 == 1);
    let request = request(goal, args, random, read)?;
    let exchange = async {
        let mut ready = match sender.take() {
            Some(ready) if !ready.is_closed() => ready,
            _ => connect(goal).await?,
        };
        ready.ready().await?;
        let response = ready.send_request(request).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        anyhow::Ok((ready, status))
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok((ready, status))) => {
            *sender = Some(ready);
            seen.count(status, read, due.elapsed());
        }
        Ok(Err(_)) | Err(_) => {
            seen.count(0, read, due.elapsed());
            // A server that is gone is not to be hammered.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

async fn connect(goal: &Goal) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(&goal.address).await?;
    stream.set_nodelay(true)?;
    // A connection ends with its sender; its errors come out of the requests.
    Ok(match &goal.tls {
        Some((connector, name)) => {
            let stream = connector.connect(name.clone(), stream).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
        None => {
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
    })
}

fn request(goal: &Goal, args: &BenchArgs, random: &mut Random, read: bool) -> anyhow::Result<Request<Full<Bytes>>> {
    let (method, path, body) = if read {
        let id = random.below(args.profiles) + 1;
        (Method::GET, format!("{}/rest/v1/profiles/v{id}?client={}", goal.prefix, goal.client), String::new())
    } else {
        let mut visits = (0..args.batch).map(|_| visit(random.below(args.profiles) + 1));
        let body = match args.batch {
            1 => visits.next().unwrap_or_default(),
            _ => format!("[{}]", visits.collect::<Vec<_>>().join(",")),
        };
        (Method::POST, format!("{}/v1/{}/visits", goal.prefix, goal.client), body)
    };
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse()?;
    request.headers_mut().insert(HOST, goal.host.clone());
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(token) = &goal.token {
        request.headers_mut().insert(AUTHORIZATION, token.clone());
    }
    Ok(request)
}

fn visit(id: u32) -> String {
    format!(
        "{{\"sessionId\":\"s{id}\",\"ids\":{{\"tntId\":\"v{id}\"}},\
         \"profile\":{{\"page\":\"/p/{}\",\"membership\":\"gold\",\"country\":\"fr\"}}}}",
        id % 97
    )
}

fn report(args: &BenchArgs, seen: &Seen, seconds: f64) -> anyhow::Result<Done> {
    let requests: u64 = seen.statuses.values().sum();
    let ms = |percentile: f64| seen.latency_us.value_at_quantile(percentile / 100.0) as f64 / 1000.0;
    let max_ms = seen.latency_us.max() as f64 / 1000.0;
    let percentiles = [50.0, 90.0, 99.0, 99.9].map(|p| (p, ms(p)));
    if args.target.json {
        let latency: BTreeMap<_, _> = percentiles.iter().map(|(p, ms)| (format!("p{p}"), *ms)).collect();
        print_json(&json!({
            "requests": requests,
            "seconds": seconds,
            "requestsPerSecond": requests as f64 / seconds,
            "visitsPerRequest": args.batch,
            "statuses": seen.statuses.iter().map(|(status, n)| (status.to_string(), *n)).collect::<BTreeMap<_, _>>(),
            "unsent": seen.unsent,
            "latencyMs": latency,
            "maxMs": max_ms,
        }))?;
    } else {
        say!("{requests} requests in {seconds:.1} s: {:.0} a second", requests as f64 / seconds)?;
        if args.batch > 1 && args.kind == Kind::Visits {
            say!("{:.0} visits a second", (requests * u64::from(args.batch)) as f64 / seconds)?;
        }
        let shown: Vec<_> = percentiles.iter().map(|(p, ms)| format!("p{p} {ms:.2} ms")).collect();
        say!("latency: {}, max {max_ms:.2} ms", shown.join(", "))?;
        for (status, count) in &seen.statuses {
            let name = if *status == 0 { "no answer".into() } else { format!("HTTP {status}") };
            say!("  {name}: {count}")?;
        }
        if seen.unsent > 0 {
            say!("  due and never sent: {} (the rate is more than the server takes)", seen.unsent)?;
        }
    }
    Ok(if seen.good == requests && seen.unsent == 0 { Done::Whole } else { Done::InPart })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_shows_in_what_was_never_sent() {
        let (mut seen, began) = (Seen::new().unwrap(), Instant::now());
        seen.never_sent(began, Duration::from_millis(10), began + Duration::from_millis(995));
        assert_eq!(seen.unsent, 100);
        let median = seen.latency_us.value_at_quantile(0.5);
        assert!((480_000..=510_000).contains(&median), "{median} us");
    }

    #[test]
    fn a_missing_profile_is_good_and_a_missing_client_is_not() {
        let mut seen = Seen::new().unwrap();
        seen.count(404, true, Duration::ZERO);
        seen.count(200, false, Duration::ZERO);
        assert_eq!(seen.good, 2);
        seen.count(404, false, Duration::ZERO);
        seen.count(0, true, Duration::ZERO);
        assert_eq!(seen.good, 2);
    }

    #[test]
    fn the_url_keeps_its_port_and_its_path() {
        let target = |url: &str| Target { url: url.into(), client: "demo".into(), ca: None, token: None, json: false };
        let found = goal(&target("http://[::1]:81/base/")).unwrap();
        assert_eq!((found.address.as_str(), found.prefix.as_str()), ("[::1]:81", "/base"));
        assert_eq!(found.host, "[::1]:81");
        assert!(goal(&target("ftp://x")).is_err() && goal(&target("x")).is_err());
    }
}
