//! What can go wrong with a call, by what the caller can do about it.

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used.
    #[error("{url:?} is not a URL like http://127.0.0.1:8080")]
    BadUrl {
        /// As given.
        url: String,
    },
    /// The token has characters that no header can hold.
    #[error("the token cannot be sent in a header")]
    BadToken,
    /// The Idempotency-Key has characters that no header can hold.
    #[error("the Idempotency-Key cannot be sent in a header")]
    BadKey,
    /// Nobody answered.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        /// Whom.
        url: String,
        /// Why, down to the system's word.
        reason: String,
    },
    /// The server's certificate is not to be trusted; nothing was sent.
    #[error("the certificate of {url} cannot be trusted: {reason}")]
    Untrusted {
        /// Whose.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Who listens there does not speak TLS; nothing was sent.
    #[error("{url} does not speak TLS: is it http:// there?")]
    NotTls {
        /// Where.
        url: String,
    },
    /// The file of authorities cannot be used.
    #[error("{path} cannot be used as the authorities to trust: {reason}")]
    BadCa {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No file of authorities was given, and the system has none.
    #[error("this system has no authorities to trust an https:// server by; name a file of them{}", also(reason))]
    NoAuthorities {
        /// What the system said; may be empty.
        reason: String,
    },
    /// The server said no.
    #[error("{message} (HTTP {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
        /// Seconds after which it is worth another try, if the server said so.
        retry_after: Option<u64>,
    },
    /// The reply is not what the API promises.
    #[error("the reply cannot be understood: {0}")]
    BadReply(String),
    /// A local file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

fn also(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

impl Error {
    /// The HTTP status, if the server answered.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
