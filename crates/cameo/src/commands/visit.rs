//! `cameo visit send` and `cameo visit import`.

use std::io::Read;

use anyhow::{Context, bail};
use cameo_client::Visit;
use clap::{Args, Subcommand};

use super::{Done, Target, import, print_json, profile};

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
    /// `-` reads the visit as JSON from standard input
    #[arg(value_name = "-", conflicts_with_all = ["tnt_id", "third_party_id", "ecid", "profile", "category", "session"])]
    input: Option<String>,
    /// tntId of the device; without any id one is made up
    #[arg(long)]
    tnt_id: Option<String>,
    /// thirdPartyId of the person
    #[arg(long)]
    third_party_id: Option<String>,
    /// ECID
    #[arg(long)]
    ecid: Option<String>,
    /// Session id
    #[arg(long)]
    session: Option<String>,
    /// Your id of the event; sent twice, it counts once
    #[arg(long)]
    event_id: Option<String>,
    /// When it happened, in ms since 1970
    #[arg(long, value_name = "MS")]
    occurred_at: Option<u64>,
    /// A profile parameter; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    profile: Vec<String>,
    /// A category viewed; may be given several times
    #[arg(long)]
    category: Vec<String>,
    /// URL of the page
    #[arg(long)]
    page: Option<String>,
}

pub(crate) async fn run(command: VisitCommand) -> anyhow::Result<Done> {
    match command {
        VisitCommand::Send(args) => send(*args).await,
        VisitCommand::Import(args) => import::run(*args).await,
    }
}

async fn send(args: SendArgs) -> anyhow::Result<Done> {
    let client = args.target.connect()?;
    let visit = match args.input.as_deref() {
        None => of_flags(&args)?,
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            let value = serde_json::from_str(&text).context("standard input is not JSON")?;
            Visit::from_json(value).map_err(|_| anyhow::anyhow!("the visit is not a JSON object"))?
        }
        Some(other) => bail!("{other:?} is not understood; `-` reads a visit from standard input"),
    };
    let reply = client.visit(&visit).await?;
    if args.target.json {
        print_json(&reply);
        return Ok(Done::Whole);
    }
    for kind in ["tntId", "thirdPartyId", "ecid"] {
        if let Some(id) = reply[kind].as_str() {
            println!("{kind}  {id}");
        }
    }
    if let Some(warning) = reply["warning"]["message"].as_str() {
        eprintln!("warning: {warning}");
    }
    profile::print_profile(&reply["profile"]);
    Ok(Done::Whole)
}

fn of_flags(args: &SendArgs) -> anyhow::Result<Visit> {
    let mut visit = Visit::new();
    let ids = [("tntId", &args.tnt_id), ("thirdPartyId", &args.third_party_id), ("ecid", &args.ecid)];
    for (kind, id) in ids {
        if let Some(id) = id {
            visit = visit.id(kind, id);
        }
    }
    if let Some(session) = &args.session {
        visit = visit.session_id(session);
    }
    if let Some(id) = &args.event_id {
        visit = visit.event_id(id);
    }
    if let Some(ms) = args.occurred_at {
        visit = visit.occurred_at(ms);
    }
    if let Some(page) = &args.page {
        visit = visit.page(page);
    }
    for (name, value) in pairs(&args.profile)? {
        visit = visit.profile(&name, &value);
    }
    Ok(args.category.iter().fold(visit, |visit, category| visit.category(category)))
}

/// `NAME=VALUE` arguments.
pub(crate) fn pairs(arguments: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |argument: &String| match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("{argument:?} is not NAME=VALUE"),
    };
    arguments.iter().map(pair).collect()
}
