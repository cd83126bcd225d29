//! The audit log: who did what, when, from where, with what result. Appended, never changed, never with a secret in it.

mod local;

use std::fmt;

use cameo_http::csv::cell;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use local::LocalAudit;

/// Entries of one page at most.
pub(crate) const PAGE_MAX: usize = 1000;
/// Entries of a page when nothing is asked for.
pub(crate) const PAGE_DEFAULT: usize = 100;
/// Entries that are kept; the oldest go. Ours: about 300 MB.
pub(crate) const ENTRIES_MAX: u64 = 1_000_000;
/// Characters of a detail or a target.
const TEXT_CHARS: usize = 300;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Rises with time; 0 until it is stored.
    pub id: u64,
    /// When, in ms since 1970 by the control plane's clock.
    pub at_ms: u64,
    /// The user, `key:NAME`, or `system`.
    pub who: String,
    /// What, by the name of the action: `token.rotate`.
    pub action: String,
    /// Of which client, if of one.
    pub client: Option<String>,
    /// What it was done to: the name of a token, a user.
    pub target: Option<String>,
    /// Address that the call came from.
    pub from: String,
    /// Whether it was done.
    pub result: AuditResult,
    /// For people.
    pub detail: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditResult {
    /// It was done.
    Done,
    /// It was not allowed, or not possible as asked.
    Refused,
    /// It was allowed and did not work.
    Failed,
}

impl AuditResult {
    /// As it stands in replies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What an operator did at NATS, past the admin API, as the command says it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorNote {
    /// The user at NATS.
    pub user: String,
    /// The machine, and the account on it.
    pub from: String,
    /// What, as the command is called: `log.reappend`.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// Whether it did not work.
    pub failed: bool,
    /// For people.
    pub detail: String,
}

impl OperatorNote {
    pub(crate) fn entry(self, at_ms: u64) -> Entry {
        Entry {
            id: 0,
            at_ms,
            who: text(format_args!("nats:{}", self.user)),
            action: text(self.action),
            client: None,
            target: Some(text(self.target)),
            from: text(self.from),
            result: if self.failed { AuditResult::Failed } else { AuditResult::Done },
            detail: Some(text(self.detail)),
        }
    }
}

/// Which entries are asked for, newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those with a smaller id.
    pub before: Option<u64>,
    /// Only of this client.
    pub client: Option<String>,
    /// Only this action, or all actions of a kind (`token`).
    pub action: Option<String>,
    /// Only by this user or key.
    pub who: Option<String>,
    /// So many at most.
    pub limit: usize,
}

/// Some entries, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// Ask for what is before this; `None` at the end.
    pub next: Option<u64>,
}

/// The audit log cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be used: {0}")]
pub struct Unusable(pub String);

/// Where the audit log is.
pub trait AuditLog: Send + Sync + 'static {
    /// Appends an entry and returns when it is durable.
    ///
    /// # Errors
    /// When it may not be there.
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), Unusable>>;

    /// Some entries, newest first.
    ///
    /// # Errors
    /// When it cannot be read.
    fn page(&self, filter: Filter) -> BoxFuture<'_, Result<Page, Unusable>>;
}

impl Filter {
    pub(crate) fn takes(&self, entry: &Entry) -> bool {
        let action = |wanted: &str| {
            entry.action == wanted || entry.action.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
        };
        self.client.as_ref().is_none_or(|client| entry.client.as_ref() == Some(client))
            && self.who.as_ref().is_none_or(|who| entry.who == *who)
            && self.action.as_deref().is_none_or(action)
    }
}

/// A text of a caller's, as long as an entry takes, without what could break a line.
pub(crate) fn text(from: impl fmt::Display) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    from.to_string().chars().map(clean).take(TEXT_CHARS).collect()
}

/// A page as CSV (RFC 4180), with a header line.
pub(crate) fn csv(entries: &[Entry]) -> String {
    let mut out = String::from("id,at,who,action,client,target,from,result,detail\r\n");
    for entry in entries {
        let texts = [
            entry.id.to_string(),
            crate::api::time(entry.at_ms),
            entry.who.clone(),
            entry.action.clone(),
            entry.client.clone().unwrap_or_default(),
            entry.target.clone().unwrap_or_default(),
            entry.from.clone(),
            entry.result.as_str().to_owned(),
            entry.detail.clone().unwrap_or_default(),
        ];
        for (at, text) in texts.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            cell(&mut out, text);
        }
        out.push_str("\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_write_is_cut_and_cleaned() {
        assert_eq!(text("a\nb"), "a\u{fffd}b");
        assert_eq!(text("é".repeat(1000)).chars().count(), TEXT_CHARS);
    }
}
