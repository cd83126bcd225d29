//! `cameo bulk upload` and `cameo bulk status`.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use cameo_client::{Client, Error, Upload, UploadOptions};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Done, Target, print_json};
use crate::out::{remark, say};

/// Pause between looks at a batch that is watched.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Failed rows that the summary names.
const LISTED: usize = 20;

#[derive(Debug, Subcommand)]
pub(crate) enum BulkCommand {
    /// Upload a bulk file: batch text, JSON or NDJSON, also .gz and .zst
    Upload(Box<UploadArgs>),
    /// Show how far a batch is
    Status(StatusArgs),
}

#[derive(Args, Debug)]
pub(crate) struct UploadArgs {
    #[command(flatten)]
    target: Target,
    /// The file; `-` is batch text from standard input
    file: PathBuf,
    /// Wait until every row has been applied
    #[arg(long)]
    watch: bool,
    /// 1 updates what exists, 2 also creates, 3 also removes (a cell of \N)
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    api_version: u8,
    /// Check the file and report; store nothing
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// The same file under the same key is the same batch, also after a crash half-way
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// The batch id that the upload answered
    batch_id: String,
}

pub(crate) async fn run(command: BulkCommand) -> anyhow::Result<Done> {
    match command {
        BulkCommand::Upload(args) => upload(*args).await,
        BulkCommand::Status(args) => {
            let client = args.target.connect()?;
            let status = client.batch(&args.batch_id).await?;
            summary(&client, &args.target, &args.batch_id, status).await
        }
    }
}

async fn upload(args: UploadArgs) -> anyhow::Result<Done> {
    // Before anything that is about the server.
    if args.file.as_os_str() != "-" {
        let shown = args.file.display();
        let about = std::fs::metadata(&args.file).with_context(|| format!("cannot open {shown}"))?;
        ensure!(!about.is_dir(), "{shown} is a directory");
        if about.is_file() {
            std::fs::File::open(&args.file).with_context(|| format!("cannot open {shown}"))?;
        }
    }
    let client = args.target.connect()?;
    let key = args.idempotency_key.clone().unwrap_or_else(cameo_client::new_idempotency_key);
    let options =
        UploadOptions { api_version: args.api_version, dry_run: args.dry_run, idempotency_key: Some(key.clone()) };
    let sent = Arc::new(AtomicU64::new(0));
    let upload = following(send(&client, &args, &options, &sent), &args, || sent.load(Ordering::Relaxed)).await;
    let upload = upload.inspect_err(|error| {
        // A refused file is refused again, and what was never sent has no batch; anything else may have been half-way.
        let certain = matches!(
            error.downcast_ref(),
            Some(
                Error::Refused { status: 400..=499, .. }
                    | Error::File { .. }
                    | Error::Untrusted { .. }
                    | Error::NotTls { .. }
            )
        );
        if !args.dry_run && !certain {
            remark!("To go on with the same batch: --idempotency-key {key}");
        }
    })?;
    if args.dry_run {
        return report(&args.target, &upload.reply);
    }
    let id = upload.reply["batchId"].as_str().context("the reply has no batchId")?.to_owned();
    let status = if args.watch { watch(&client, &id, args.target.json).await? } else { client.batch(&id).await? };
    if !args.target.json {
        say!("batch {id}, idempotency key {}", upload.idempotency_key)?;
    }
    summary(&client, &args.target, &id, status).await
}

fn bar(length: u64, template: &str, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// Uploads a file, or what a pipe or standard input gives.
async fn send(
    client: &Client,
    args: &UploadArgs,
    options: &UploadOptions,
    sent: &Arc<AtomicU64>,
) -> anyhow::Result<Upload> {
    if args.file.as_os_str() == "-" {
        let input = std::io::stdin().as_fd().try_clone_to_owned().context("cannot read standard input")?;
        let input = tokio::fs::File::from_std(input.into());
        return Ok(client.upload_from(input, "", options, Arc::clone(sent)).await?);
    }
    let shown = args.file.display();
    let about = tokio::fs::metadata(&args.file).await.with_context(|| format!("cannot open {shown}"))?;
    if about.is_file() {
        return Ok(client.upload(&args.file, options, Arc::clone(sent)).await?);
    }
    // A pipe has no length, and can be read only once.
    let pipe = tokio::fs::File::open(&args.file).await.with_context(|| format!("cannot open {shown}"))?;
    Ok(client.upload_from(pipe, &args.file.to_string_lossy(), options, Arc::clone(sent)).await?)
}

/// Waits for `work` and shows meanwhile how much has been sent.
async fn following<T>(work: impl Future<Output = T>, args: &UploadArgs, position: impl Fn() -> u64) -> T {
    let length = std::fs::metadata(&args.file).map_or(0, |about| about.len());
    let template = if length > 0 { "{bar:40} {bytes}/{total_bytes} sent" } else { "{bytes} sent" };
    let bar = bar(length, template, args.target.json);
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(LOOK_EVERY, &mut work).await {
            Ok(done) => {
                bar.finish_and_clear();
                return done;
            }
            Err(_) => bar.set_position(position()),
        }
    }
}

/// Looks until the batch is no longer incomplete.
async fn watch(client: &Client, id: &str, quiet: bool) -> anyhow::Result<Value> {
    let bar = bar(0, "{bar:40} {human_pos}/{human_len} rows applied", quiet);
    loop {
        let status = client.batch(id).await?;
        bar.set_length(status["batchSize"].as_u64().unwrap_or_default());
        bar.set_position(status["consumedCount"].as_u64().unwrap_or_default());
        if status["status"] != "incomplete" {
            bar.finish_and_clear();
            return Ok(status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Prints counters and failed rows.
async fn summary(client: &Client, target: &Target, id: &str, status: Value) -> anyhow::Result<Done> {
    let failed = status["failedUpdates"].as_u64().unwrap_or_default();
    let errors = if failed > 0 { client.batch_errors(id).await? } else { json!({"errors": []}) };
    let done = match status["status"].as_str() {
        Some("stuck") => Done::Failed,
        _ if failed > 0 => Done::InPart,
        _ => Done::Whole,
    };
    if target.json {
        let mut status = status;
        status["errors"] = errors["errors"].clone();
        print_json(&status)?;
        return Ok(done);
    }
    say!(
        "{}: {} of {} rows consumed, {} updated, {} not found, {failed} failed",
        status["status"].as_str().unwrap_or("unknown"),
        status["consumedCount"],
        status["batchSize"],
        status["successfulUpdates"],
        status["profilesNotFound"],
    )?;
    print_errors(&errors["errors"])?;
    if done == Done::Failed {
        say!("It was interrupted: upload the same file with the same --idempotency-key to complete it.")?;
    }
    Ok(done)
}

/// Prints what a dry run found.
fn report(target: &Target, report: &Value) -> anyhow::Result<Done> {
    let done = if report["failedRows"].as_u64().unwrap_or_default() > 0 { Done::InPart } else { Done::Whole };
    if target.json {
        print_json(report)?;
        return Ok(done);
    }
    say!(
        "dry run, nothing stored: {} rows, {} would be applied, {} failed, {} without any value",
        report["batchSize"],
        report["rowsToApply"],
        report["failedRows"],
        report["skippedRows"]
    )?;
    print_errors(&report["errors"])?;
    Ok(done)
}

fn print_errors(errors: &Value) -> anyhow::Result<()> {
    let errors = errors.as_array().map(Vec::as_slice).unwrap_or_default();
    for error in errors.iter().take(LISTED) {
        let column = error["column"].as_str().map(|column| format!(", column {column}")).unwrap_or_default();
        say!("  line {}{column}: {}", error["line"], error["reason"].as_str().unwrap_or("no reason given"))?;
    }
    if errors.len() > LISTED {
        say!("  and {} more", errors.len() - LISTED)?;
    }
    Ok(())
}
