//! `cameo profile get|set|delete|history|export`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::visit::pairs;
use super::{Done, Target, Usage, print_json};
use crate::out::say;

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Show a profile: its ids, attributes with times, and when it ends
    Get(GetArgs),
    /// Set and remove attributes of a profile that exists
    Set(SetArgs),
    /// Erase a profile
    Delete(WhichArgs),
    /// Show what happened to a profile, newest first
    History(HistoryArgs),
    /// Write everything that is held about a profile as one JSON file
    Export(ExportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Show it as it read at this time: RFC 3339 text, or milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Show at most so many entries
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Show all of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Where to; standard output without it
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Entries asked for at a time.
const PAGE: usize = 200;

#[derive(Args, Debug)]
pub(crate) struct WhichArgs {
    #[command(flatten)]
    target: Target,
    /// tnt, tp, ecid or cust:CODE
    kind: String,
    /// The id
    id: String,
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Attributes to set
    #[arg(value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// An attribute to remove; may be given several times
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

pub(crate) async fn run(command: ProfileCommand) -> anyhow::Result<Done> {
    match command {
        ProfileCommand::Get(args) => {
            let WhichArgs { target, kind, id } = &args.which;
            let client = target.connect()?;
            let profile = match &args.as_of {
                Some(time) => client.profile_as_of(kind, id, time).await?,
                None => client.profile(kind, id).await?,
            };
            show(target, &profile)?;
        }
        ProfileCommand::History(args) => history(&args).await?,
        ProfileCommand::Export(args) => {
            let which = &args.which;
            let file = which.target.connect()?.export(&which.kind, &which.id).await?;
            match &args.output {
                Some(path) => {
                    std::fs::write(path, &file).with_context(|| format!("cannot write {}", path.display()))?;
                }
                None => say!("{}", String::from_utf8_lossy(&file))?,
            }
        }
        ProfileCommand::Set(args) => {
            if args.set.is_empty() && args.unset.is_empty() {
                return Err(Usage("nothing to change: give NAME=VALUE or --unset NAME".into()).into());
            }
            let which = &args.which;
            let set = pairs(&args.set, "NAME=VALUE")?;
            let profile = which.target.connect()?.change(&which.kind, &which.id, &set, &args.unset).await?;
            show(&which.target, &profile)?;
        }
        ProfileCommand::Delete(which) => {
            which.target.connect()?.erase(&which.kind, &which.id).await?;
            if which.target.json {
                print_json(&serde_json::json!({"erased": true}))?;
            } else {
                say!("erased")?;
            }
        }
    }
    Ok(Done::Whole)
}

async fn history(args: &HistoryArgs) -> anyhow::Result<()> {
    let WhichArgs { target, kind, id } = &args.which;
    let client = target.connect()?;
    let (mut left, mut after) = (if args.all { usize::MAX } else { args.limit }, None::<String>);
    while left > 0 {
        let page = client.history(kind, id, left.min(PAGE), after.as_deref()).await?;
        let entries = page["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
        for entry in entries {
            if target.json { print_json(entry)? } else { say!("{}", line(entry))? }
        }
        left = left.saturating_sub(entries.len().max(1));
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            if let Some(since) = page["completeSince"].as_str().filter(|_| !target.json) {
                say!("(what was before {since} is not in the log any more, or was not recorded)")?;
            }
            return Ok(());
        }
    }
    if !target.json {
        say!("(there is more: --all)")?;
    }
    Ok(())
}

/// An entry on one line: time, what, and what it says.
fn line(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let mut out = format!("{}  {:<7}", text("at"), text("type"));
    let mut add = |part: String| out.extend(["  ", part.as_str()]);
    for (name, shown) in
        [("batchId", "batch"), ("line", "line"), ("sessionId", "session"), ("by", "by"), ("address", "")]
    {
        let value = match &entry[name] {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        add(format!("{shown} {value}").trim_start().to_owned());
    }
    if let Some(url) = entry["page"]["url"].as_str() {
        add(url.to_owned());
    }
    for (name, value) in ["profile", "set"].iter().filter_map(|part| entry[part].as_object()).flatten() {
        add(format!("{name}={}", value.as_str().unwrap_or_default()));
    }
    for name in entry["unset"].as_array().into_iter().flatten() {
        add(format!("-{}", name.as_str().unwrap_or_default()));
    }
    if let Some(categories) = entry["categories"].as_array() {
        let categories: Vec<_> = categories.iter().filter_map(Value::as_str).collect();
        add(format!("[{}]", categories.join(", ")));
    }
    if let Some(order) = entry["order"]["id"].as_str() {
        add(format!("order {order}"));
    }
    if entry["created"] == true {
        add("(new profile)".into());
    }
    out
}

fn show(target: &Target, profile: &Value) -> anyhow::Result<()> {
    if target.json { print_json(profile) } else { print_profile(profile) }
}

/// A profile for people: ids, life, attributes in columns.
pub(crate) fn print_profile(profile: &Value) -> anyhow::Result<()> {
    let text = |value: &Value| match (value.as_str(), value["integrationCode"].as_str(), value["id"].as_str()) {
        (Some(text), ..) => text.to_owned(),
        (_, Some(code), Some(id)) => format!("cust:{code} {id}"),
        _ => value.to_string(),
    };
    if let Some(ids) = profile["ids"].as_object() {
        for (kind, id) in ids {
            let shown = match id.as_array() {
                Some(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
                None => text(id),
            };
            say!("{kind:<12}  {shown}")?;
        }
    }
    for field in ["createdAt", "modifiedAt", "expiresAt"] {
        say!("{field:<12}  {}", text(&profile[field]))?;
    }
    let Some(attributes) = profile["profileAttributes"].as_object() else { return Ok(()) };
    say!("")?;
    let wide = |column: &dyn Fn((&String, &Value)) -> usize| attributes.iter().map(column).max().unwrap_or(0).min(60);
    let names = wide(&|(name, _)| name.chars().count());
    let values = wide(&|(_, attribute)| text(&attribute["value"]).chars().count());
    for (name, attribute) in attributes {
        say!("{name:<names$}  {:<values$}  {}", text(&attribute["value"]), text(&attribute["modifiedAt"]))?;
    }
    if let Some(categories) = profile["categoryAffinities"].as_array() {
        let shown = categories
            .iter()
            .map(|c| format!("{} {:.2}", text(&c["category"]), c["points"].as_f64().unwrap_or_default()));
        say!("\nAffinity: {}", shown.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}
