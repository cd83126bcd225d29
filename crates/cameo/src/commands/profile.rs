//! `cameo profile get|set|unlink|delete|history|export`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::visit::pairs;
use super::{Done, Target, Usage, print_json};
use crate::out::say;

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Show a profile: its ids and what each brought, attributes with times, and when it ends
    Get(GetArgs),
    /// Set and remove attributes of a profile that exists
    Set(SetArgs),
    /// Give an id of a profile a profile of its own back, with what it brought and did
    Unlink(UnlinkArgs),
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
    #[arg(long, default_value = "50", value_name = "N")]
    limit: std::num::NonZeroUsize,
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

/// Ids, and values that are not shown, that a profile is printed with; a person may have a thousand of the one, and many
/// more of the other.
const ROWS: usize = 100;

/// Entries asked for at a time.
const PAGE: usize = 200;

#[derive(Args, Debug)]
pub(crate) struct WhichArgs {
    #[command(flatten)]
    target: Target,
    /// tnt, tp, ecid or cust:CODE
    #[arg(value_parser = kind)]
    kind: String,
    /// The id
    id: String,
}

#[derive(Args, Debug)]
pub(crate) struct UnlinkArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Kind of the id that is to leave
    #[arg(value_parser = kind)]
    other_kind: String,
    /// The id that is to leave
    other_id: String,
}

/// A word for the kind of an id. The API has other words for the same in other places, so they are answered with ours.
fn kind(text: &str) -> Result<String, String> {
    let code = text.strip_prefix("cust:").filter(|code| !code.is_empty());
    if matches!(text, "tnt" | "tp" | "ecid") || code.is_some() {
        return Ok(text.to_owned());
    }
    let meant = match text {
        "tntId" | "pcId" | "mboxPC" => "; for a tntId say tnt",
        "thirdPartyId" | "mbox3rdPartyId" => "; for a thirdPartyId say tp",
        "ECID" | "marketingCloudVisitorId" => "; for an ECID say ecid",
        "cust" | "cust:" | "customerId" | "customerIds" => "; CODE is the integration code of the customer id",
        _ => "",
    };
    Err(format!("the kinds of ids are tnt (tntId), tp (thirdPartyId), ecid and cust:CODE (customer id){meant}"))
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
                None => client.profile_by_parts(kind, id).await?,
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
        ProfileCommand::Unlink(args) => {
            let which = &args.which;
            let other = (&*args.other_kind, &*args.other_id);
            let profile = which.target.connect()?.unlink(&which.kind, &which.id, other).await?;
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
    let (mut left, mut after) = (if args.all { usize::MAX } else { args.limit.get() }, None::<String>);
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
    for (name, shown) in [
        ("batchId", "batch"),
        ("line", "line"),
        ("sessionId", "session"),
        ("by", "by"),
        ("address", ""),
        ("via", "via"),
    ] {
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

/// A value as people read it.
fn text(value: &Value) -> String {
    match (value.as_str(), value["integrationCode"].as_str(), value["id"].as_str()) {
        (Some(text), ..) => text.to_owned(),
        (_, Some(code), Some(id)) => format!("cust:{code} {id}"),
        _ => value.to_string(),
    }
}

/// Rows in columns, each as wide as its widest cell up to 60 characters; what is empty at the end of a row is left out.
fn print_columns(rows: &[Vec<String>]) -> anyhow::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let wide = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| wide(column).unwrap_or_default().min(60)).collect();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        say!("{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Rows of which there may be thousands: the first ones.
fn print_first(mut rows: impl Iterator<Item = Vec<String>>) -> anyhow::Result<()> {
    print_columns(&rows.by_ref().take(ROWS).collect::<Vec<_>>())?;
    match rows.count() {
        0 => Ok(()),
        more => say!("(and {more} more: --json)"),
    }
}

/// A profile for people: ids, life, what each id brought if there are several, attributes in columns.
pub(crate) fn print_profile(profile: &Value) -> anyhow::Result<()> {
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
    let parts = profile["contributions"].as_array().filter(|parts| parts.len() > 1).map_or(&[][..], Vec::as_slice);
    if !parts.is_empty() {
        say!("")?;
        print_first(parts.iter().map(address_row))?;
    }
    let Some(attributes) = profile["profileAttributes"].as_object() else { return Ok(()) };
    say!("")?;
    let row = |(name, attribute): (&String, &Value)| {
        let from = parts.iter().find(|part| {
            let held = &part["attributes"][name];
            held.is_object() && held["shadowed"] != true
        });
        vec![
            name.clone(),
            text(&attribute["value"]),
            text(&attribute["modifiedAt"]),
            from.map(name_of).unwrap_or_default(),
        ]
    };
    print_columns(&attributes.iter().map(row).collect::<Vec<_>>())?;
    let mut shadowed = parts.iter().flat_map(shadowed_rows).peekable();
    if shadowed.peek().is_some() {
        say!("\nNot shown, as another id has it too, or it was removed:")?;
        print_first(shadowed)?;
    }
    if let Some(categories) = profile["categoryAffinities"].as_array() {
        say!("\nAffinity: {}", affinities(categories))?;
    }
    Ok(())
}

fn affinities(categories: &[Value]) -> String {
    let one = |c: &Value| format!("{} {:.2}", text(&c["category"]), c["points"].as_f64().unwrap_or_default());
    categories.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Kind and id, as commands take them.
fn name_of(address: &Value) -> String {
    format!("{} {}", text(&address["kind"]), text(&address["id"]))
}

/// What one id brought and did, but for its attributes.
fn address_row(part: &Value) -> Vec<String> {
    let visits = match part["visitCount"].as_u64() {
        None => "no visits".into(),
        Some(1) => "1 visit".into(),
        Some(count) => format!("{count} visits"),
    };
    let mut notes = Vec::new();
    if part["left"] == true {
        notes.push("has left".to_owned());
    }
    // Of most it is the id that the profile lives at, which stands first.
    if part["linkedTo"]["kind"].as_str().is_some_and(|kind| kind == "ecid" || kind.starts_with("cust:")) {
        notes.push(format!("by {}", name_of(&part["linkedTo"])));
    }
    if let Some(categories) = part["categoryAffinities"].as_array() {
        notes.push(affinities(categories));
    }
    vec![name_of(part), format!("since {}", text(&part["createdAt"])), visits, notes.join("; ")]
}

/// The attributes of one id that another one's hide.
fn shadowed_rows(part: &Value) -> Vec<Vec<String>> {
    let all = part["attributes"].as_object().into_iter().flatten();
    let shadowed = all.filter(|(_, held)| held["shadowed"] == true);
    shadowed
        .map(|(name, held)| vec![name.clone(), text(&held["value"]), text(&held["modifiedAt"]), name_of(part)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn a_kind_is_one_of_our_words_and_others_are_told_which() {
        for word in ["tnt", "tp", "ecid", "cust:crm"] {
            assert_eq!(kind(word).as_deref(), Ok(word));
        }
        for (word, meant) in
            [("thirdPartyId", "say tp"), ("pcId", "say tnt"), ("cust:", "CODE is"), ("fax", "tnt (tntId), tp")]
        {
            assert!(kind(word).unwrap_err().contains(meant), "{word}");
        }
    }
}
