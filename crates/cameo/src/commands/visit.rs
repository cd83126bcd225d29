//! `cameo visit send` and `cameo visit import`.

use std::io::Read;

use anyhow::{Context, anyhow};
use cameo_client::Visit;
use clap::{Args, Subcommand};

use super::{Done, Target, Usage, import, print_json, profile};
use crate::out::{remark, say};

/// Bytes of a visit from standard input; the server refuses far shorter ones, with a better reason.
const STDIN_BYTES: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum VisitCommand {
    /// Send one visit, put together from flags or read as JSON from standard input
    Send(Box<SendArgs>),
    /// Import a web server's access log (Combined Log Format): every line is a visit
    Import(Box<import::ImportArgs>),
}

#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    target: Target,
    /// `-` reads the visit as JSON from standard input; all else is said by flags
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with = "VisitFlags")]
    input: Option<String>,
    #[command(flatten)]
    flags: VisitFlags,
}

/// A visit as flags. None of them goes together with a visit from standard input: it would be lost without a word.
#[derive(Args, Debug)]
pub(crate) struct VisitFlags {
    /// tntId of the device; without any id one is made up
    #[arg(long, value_name = "ID")]
    tnt_id: Option<String>,
    /// thirdPartyId of the person
    #[arg(long, value_name = "ID")]
    third_party_id: Option<String>,
    /// ECID
    #[arg(long, value_name = "ID")]
    ecid: Option<String>,
    /// An authenticated customer id with its integration code; may be given several times
    #[arg(long, value_name = "CODE=ID")]
    customer_id: Vec<String>,
    /// Session id
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Your id of the event; sent twice, it counts once
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// When it happened: 2026-11-23T14:00:00Z, or ms since 1970
    #[arg(long, value_name = "TIME")]
    occurred_at: Option<String>,
    /// A profile parameter; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    profile: Vec<String>,
    /// An mbox parameter; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    parameter: Vec<String>,
    /// A category viewed; may be given several times
    #[arg(long)]
    category: Vec<String>,
    /// URL of the page
    #[arg(long, value_name = "URL")]
    page: Option<String>,
    /// URL that led to the page
    #[arg(long, value_name = "URL")]
    referrer: Option<String>,
    /// Name of the place on the page
    #[arg(long)]
    mbox: Option<String>,
    /// The visitor's user agent
    #[arg(long)]
    user_agent: Option<String>,
}

pub(crate) async fn run(command: VisitCommand) -> anyhow::Result<Done> {
    match command {
        VisitCommand::Send(args) => send(*args).await,
        VisitCommand::Import(args) => import::run(*args).await,
    }
}

async fn send(args: SendArgs) -> anyhow::Result<Done> {
    let client = args.target.connect()?;
    let visit = match args.input {
        None => of_flags(&args.flags)?,
        Some(_) => {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(STDIN_BYTES).read_to_string(&mut text);
            read.context("cannot read standard input")?;
            let value = serde_json::from_str(&text).context("standard input is not JSON")?;
            Visit::from_json(value).map_err(|_| anyhow!("the visit is not a JSON object"))?
        }
    };
    let reply = client.visit(&visit).await?;
    if args.target.json {
        print_json(&reply)?;
        return Ok(Done::Whole);
    }
    if let Some(warning) = reply["warning"]["message"].as_str() {
        remark!("warning: {warning}");
    }
    match reply["status"].as_str() {
        Some("spooled") => say!("spooled: stored, and visible when the server's log is back")?,
        status => say!("{}", status.unwrap_or("accepted"))?,
    }
    // Left out where the client requires authentication.
    if reply["profile"].is_object() {
        profile::print_profile(&reply["profile"])?;
    }
    Ok(Done::Whole)
}

fn of_flags(flags: &VisitFlags) -> anyhow::Result<Visit> {
    let set = |visit, value: &Option<String>, with: fn(Visit, &str) -> Visit| match value {
        Some(value) => with(visit, value),
        None => visit,
    };
    let mut visit = Visit::new();
    visit = set(visit, &flags.tnt_id, |visit, id| visit.id("tntId", id));
    visit = set(visit, &flags.third_party_id, |visit, id| visit.id("thirdPartyId", id));
    visit = set(visit, &flags.ecid, |visit, id| visit.id("ecid", id));
    visit = set(visit, &flags.session, Visit::session_id);
    visit = set(visit, &flags.event_id, Visit::event_id);
    visit = set(visit, &flags.page, Visit::page);
    visit = set(visit, &flags.referrer, Visit::referrer);
    visit = set(visit, &flags.mbox, Visit::mbox);
    visit = set(visit, &flags.user_agent, Visit::user_agent);
    visit = set(visit, &flags.occurred_at, |visit, time| match time.parse() {
        Ok(ms) => visit.occurred_at(ms),
        Err(_) => visit.occurred_at_text(time),
    });
    for (code, id) in pairs(&flags.customer_id, "CODE=ID")? {
        visit = visit.customer_id(&code, &id);
    }
    for (name, value) in pairs(&flags.profile, "NAME=VALUE")? {
        visit = visit.profile(&name, &value);
    }
    for (name, value) in pairs(&flags.parameter, "NAME=VALUE")? {
        visit = visit.parameter(&name, &value);
    }
    Ok(flags.category.iter().fold(visit, |visit, category| visit.category(category)))
}

/// Arguments like `NAME=VALUE`; `shape` is how they should look.
pub(crate) fn pairs(arguments: &[String], shape: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |argument: &String| match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Usage(format!("{argument:?} is not {shape}")).into()),
    };
    arguments.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Cli;
    use clap::Parser;
    use serde_json::json;

    fn flags(args: &[&str]) -> Result<VisitFlags, clap::Error> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            flags: VisitFlags,
        }
        Only::try_parse_from([&["x"], args].concat()).map(|only| only.flags)
    }

    #[test]
    fn flags_make_a_visit() {
        let args = "--tnt-id a --customer-id crm=7 --session s --event-id e --occurred-at 5 --profile a=b=c \
                    --parameter p= --category x --category y --page u --referrer r --mbox m --user-agent w";
        let visit = of_flags(&flags(&args.split_whitespace().collect::<Vec<_>>()).unwrap()).unwrap();
        let expected = json!({
            "ids": {"tntId": "a", "customerIds": [{"integrationCode": "crm", "id": "7"}]},
            "sessionId": "s", "eventId": "e", "occurredAt": 5, "profile": {"a": "b=c"}, "parameters": {"p": ""},
            "categories": ["x", "y"], "page": {"url": "u", "referrer": "r"}, "mbox": "m", "userAgent": "w",
        });
        assert_eq!(serde_json::to_value(visit).unwrap(), expected);
        let at = of_flags(&flags(&["--occurred-at", "2026-11-23T14:00:00Z"]).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(at).unwrap(), json!({"occurredAt": "2026-11-23T14:00:00Z"}));
        assert!(of_flags(&flags(&["--profile", "a"]).unwrap()).unwrap_err().is::<Usage>());
    }

    #[test]
    fn no_flag_goes_with_a_visit_from_standard_input() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["cameo", "visit", "send", "-"], args].concat());
        assert!(parse(&["--json"]).is_ok());
        for flag in ["--tnt-id", "--session", "--event-id", "--occurred-at", "--profile", "--category", "--page"] {
            assert!(parse(&[flag, "x=y"]).is_err(), "{flag} would be dropped");
        }
    }
}
