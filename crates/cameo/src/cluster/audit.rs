//! What operators do at NATS, past the admin API, goes into the audit log all the same: their command tells the control plane.
//!
//! ```text
//! cameo.audit     a note in JSON; answered with {"Ok": null} when it is durable, or {"Err": "why"}
//! ```
//! Whoever may publish there may write the log itself too (`deploy/nats/accounts.conf`: the control plane's user and no
//! other), so what a note says about who wrote it is as good as that right is kept.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use cameo_control::{OperatorNote, Plane};
use cameo_nats::Nats;

/// How long the control plane may take: a write to its disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes notes for as long as the process runs.
pub(super) async fn take(nats: &Nats, name: &str, plane: Plane) -> anyhow::Result<()> {
    let subject = format!("{name}.audit");
    let mut notes = nats.subscribe(&subject, None).await.with_context(|| format!("cannot listen to {subject}"))?;
    let nats = nats.clone();
    tokio::spawn(async move {
        while let Some(message) = notes.next().await {
            let Some(to) = message.reply else { continue };
            let taken = match serde_json::from_slice::<OperatorNote>(&message.payload) {
                Ok(note) => plane.note_of_operator(note).await,
                Err(error) => Err(format!("the note cannot be read: {error}")),
            };
            // Plain data always encodes. Who asked finds no answer, and says so.
            let _ = nats.tell(&to, serde_json::to_vec(&taken).unwrap_or_default().into()).await;
        }
    });
    Ok(())
}

/// Has something noted, durably.
///
/// # Errors
/// When the control plane does not say that it is.
pub(crate) async fn note(nats: &Nats, name: &str, note: &OperatorNote) -> anyhow::Result<()> {
    let bytes: Bytes = serde_json::to_vec(note)?.into();
    let answer = nats.request(&format!("{name}.audit"), bytes, PATIENCE).await;
    let answer = answer.context("the control plane does not answer, and writes nothing into its audit log")?;
    if let Err(why) = serde_json::from_slice::<Result<(), String>>(&answer).context("its answer cannot be read")? {
        bail!("the control plane cannot write its audit log: {why}");
    }
    Ok(())
}

/// The machine and the account that this command runs on and under.
pub(crate) fn here() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let account = std::fs::metadata("/proc/self").map_or_else(|_| String::new(), |me| format!(", uid {}", me.uid()));
    format!("{}{account}", machine.trim())
}
