//! Uploading a bulk file: streamed from disk, with a key, so that a broken upload can be sent again.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

use crate::transport::{IDEMPOTENCY_KEY, random_id};
use crate::{Client, Error, encode};

/// Bytes read from the file at a time.
const CHUNK: usize = 256 << 10;
/// How long the server may take to read and check a file.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How to upload.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// 1 updates profiles that exist, 2 also creates, 3 also removes attributes (`\N`).
    pub api_version: u8,
    /// Check the file and report; store nothing.
    pub dry_run: bool,
    /// The key under which the same file is the same batch; a random one if there is none.
    pub idempotency_key: Option<String>,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self { api_version: 2, dry_run: false, idempotency_key: None }
    }
}

/// What became of an upload.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The server's reply: `batchId`, `batchStatus`, `message`; of a dry run the report.
    pub reply: Value,
    /// The key that was sent.
    pub idempotency_key: String,
}

impl Client {
    /// Uploads a file. Files that end in `.gz` or `.zst` are sent as they are, and unpacked by the server; `.json` and
    /// `.ndjson` are sent as such, all others as batch text. `progress` holds the bytes sent so far.
    ///
    /// # Errors
    /// When the file cannot be read, the server refuses it, or cannot be reached. Not retried: call again with
    /// [`UploadOptions::idempotency_key`] of the first try.
    pub async fn upload(
        &self,
        file: &Path,
        options: &UploadOptions,
        progress: Arc<AtomicU64>,
    ) -> Result<Upload, Error> {
        let unreadable = |source| Error::File { path: file.display().to_string(), source };
        let opened = File::open(file).await.map_err(unreadable)?;
        let length = opened.metadata().await.map_err(unreadable)?.len();
        let version = match options.api_version {
            1 => String::new(),
            version => format!("v{version}/"),
        };
        let dry_run = if options.dry_run { "?dryRun=true" } else { "" };
        let path = format!("/m2/{}/{version}profile/batchUpdate{dry_run}", encode(&self.code));
        let key = options.idempotency_key.clone().unwrap_or_else(random_id);
        let mut headers = kind_of(file);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let value =
            HeaderValue::try_from(&key).map_err(|_| Error::BadReply("the key cannot be sent in a header".into()))?;
        headers.insert(IDEMPOTENCY_KEY, value);
        progress.store(0, Ordering::Relaxed);
        let body = FileBody { file: opened, left: length, buffer: vec![0; CHUNK], progress };
        let reply = self.transport.exchange(&Method::POST, &path, &headers, body.boxed(), TIMEOUT).await?;
        let reply = serde_json::from_slice(&reply.body).map_err(|error| Error::BadReply(error.to_string()))?;
        Ok(Upload { reply, idempotency_key: key })
    }
}

/// Content type and encoding by the endings of the name.
fn kind_of(file: &Path) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let packed = [(".gz", "gzip"), (".zst", "zstd")].into_iter().find(|(ending, _)| name.ends_with(ending));
    let name = match packed {
        Some((ending, encoding)) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            &name[..name.len() - ending.len()]
        }
        None => &name,
    };
    let content_type = match name.rsplit('.').next() {
        Some("json") => "application/json",
        Some("ndjson" | "jsonl") => "application/x-ndjson",
        _ => "text/csv",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

/// A file as a body, a chunk at a time. Sends as many bytes as were announced; a file that has shrunk is an error.
struct FileBody {
    file: File,
    left: u64,
    buffer: Vec<u8>,
    progress: Arc<AtomicU64>,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let body = self.get_mut();
        if body.left == 0 {
            return Poll::Ready(None);
        }
        let room = body.buffer.len().min(usize::try_from(body.left).unwrap_or(usize::MAX));
        let mut buffer = ReadBuf::new(&mut body.buffer[..room]);
        match Pin::new(&mut body.file).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Poll::Ready(Some(Err(std::io::Error::other("the file became shorter while it was sent"))))
            }
            Poll::Ready(Ok(())) => {
                let data = Bytes::copy_from_slice(buffer.filled());
                body.left -= data.len() as u64;
                body.progress.fetch_add(data.len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_kind() {
        for (name, content_type, encoding) in [
            ("a.csv", "text/csv", None),
            ("a", "text/csv", None),
            ("A.NDJSON.GZ", "application/x-ndjson", Some("gzip")),
            ("a.json.zst", "application/json", Some("zstd")),
        ] {
            let headers = kind_of(Path::new(name));
            assert_eq!(headers[CONTENT_TYPE], content_type, "{name}");
            assert_eq!(headers.get(CONTENT_ENCODING).map(|v| v.to_str().unwrap()), encoding, "{name}");
        }
    }
}
