//! `cameo profile get|set|delete`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::visit::pairs;
use super::{Done, Target, Usage, print_json};
use crate::out::say;

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Show a profile: its ids, attributes with times, and when it ends
    Get(WhichArgs),
    /// Set and remove attributes of a profile that exists
    Set(SetArgs),
    /// Erase a profile
    Delete(WhichArgs),
}

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
        ProfileCommand::Get(which) => {
            let profile = which.target.connect()?.profile(&which.kind, &which.id).await?;
            show(&which.target, &profile)?;
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
