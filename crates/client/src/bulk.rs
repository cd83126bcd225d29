//! Uploading a bulk file: streamed, never held in memory, with a key, so that a broken upload can be sent again.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

use crate::transport::{IDEMPOTENCY_KEY, TRIES, random_id, repeat};
use crate::{Client, Error, encode};

/// Bytes read from the file at a time.
const CHUNK: usize = 256 << 10;

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
    /// Retried when the server is busy or the connection breaks: under one key the same file is one batch, however often
    /// it arrives.
    ///
    /// # Errors
    /// When the file cannot be read, the server refuses it, or cannot be reached. To go on later, call again with
    /// [`UploadOptions::idempotency_key`].
    pub async fn upload(
        &self,
        file: &Path,
        options: &UploadOptions,
        progress: Arc<AtomicU64>,
    ) -> Result<Upload, Error> {
        let unreadable = |source| Error::File { path: file.display().to_string(), source };
        let request = UploadRequest::new(self, &file.to_string_lossy(), options)?;
        let (request, progress) = (&request, &progress);
        let reply = repeat(TRIES, || async move {
            let opened = File::open(file).await.map_err(unreadable)?;
            let length = opened.metadata().await.map_err(unreadable)?.len();
            self.attempt(request, opened, Some(length), progress).await
        });
        let reply = reply.await?;
        Ok(Upload { reply, idempotency_key: request.key.clone() })
    }

    /// Uploads what a reader gives, in chunks, without knowing its length. `name` tells the kind by its ending, as for
    /// [`Client::upload`]; an empty one is batch text.
    ///
    /// # Errors
    /// When the server refuses it or cannot be reached, or the reader fails. Not retried, as the reader cannot be read
    /// again: call again with the same bytes and [`UploadOptions::idempotency_key`].
    pub async fn upload_from(
        &self,
        reader: impl AsyncRead + Send + Sync + Unpin + 'static,
        name: &str,
        options: &UploadOptions,
        progress: Arc<AtomicU64>,
    ) -> Result<Upload, Error> {
        let request = UploadRequest::new(self, name, options)?;
        let reply = self.attempt(&request, reader, None, &progress).await?;
        Ok(Upload { reply, idempotency_key: request.key })
    }

    async fn attempt(
        &self,
        request: &UploadRequest,
        reader: impl AsyncRead + Send + Sync + Unpin + 'static,
        length: Option<u64>,
        progress: &Arc<AtomicU64>,
    ) -> Result<Value, Error> {
        let mut headers = request.headers.clone();
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        progress.store(0, Ordering::Relaxed);
        let body = ReaderBody { reader, left: length, buffer: vec![0; CHUNK], sent: Arc::clone(progress) };
        let reply = self.transport.exchange(&Method::POST, &request.path, &headers, body.boxed(), progress).await?;
        serde_json::from_slice(&reply.body).map_err(|error| Error::BadReply(error.to_string()))
    }
}

/// What all attempts of an upload share.
struct UploadRequest {
    path: String,
    headers: HeaderMap,
    key: String,
}

impl UploadRequest {
    fn new(client: &Client, name: &str, options: &UploadOptions) -> Result<Self, Error> {
        let version = match options.api_version {
            1 => String::new(),
            version => format!("v{version}/"),
        };
        let dry_run = if options.dry_run { "?dryRun=true" } else { "" };
        let path = format!("/m2/{}/{version}profile/batchUpdate{dry_run}", encode(&client.code));
        let key = options.idempotency_key.clone().unwrap_or_else(random_id);
        let mut headers = kind_of(name);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::try_from(&key).map_err(|_| Error::BadKey)?);
        Ok(Self { path, headers, key })
    }
}

/// Content type and encoding by the endings of the name.
fn kind_of(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let name = name.to_ascii_lowercase();
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

/// A reader as a body, a chunk at a time. Sends as many bytes as were announced; a file that has shrunk is an error.
struct ReaderBody<R> {
    reader: R,
    /// What is left of the announced length, if there is one.
    left: Option<u64>,
    buffer: Vec<u8>,
    sent: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> hyper::body::Body for ReaderBody<R> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let body = self.get_mut();
        let left = body.left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        if left == 0 {
            return Poll::Ready(None);
        }
        let room = body.buffer.len().min(left);
        let mut buffer = ReadBuf::new(&mut body.buffer[..room]);
        match Pin::new(&mut body.reader).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => match body.left {
                None => Poll::Ready(None),
                Some(_) => Poll::Ready(Some(Err(std::io::Error::other("the file became shorter while it was sent")))),
            },
            Poll::Ready(Ok(())) => {
                let data = Bytes::copy_from_slice(buffer.filled());
                body.left = body.left.map(|left| left - data.len() as u64);
                body.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
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
            let headers = kind_of(name);
            assert_eq!(headers[CONTENT_TYPE], content_type, "{name}");
            assert_eq!(headers.get(CONTENT_ENCODING).map(|v| v.to_str().unwrap()), encoding, "{name}");
        }
    }
}
