//! A bucket over loopback TCP: JSON lines, one connection for each call, and one for each watch.

use std::net::SocketAddr;

use bytes::Bytes;
use cameo_auth::Revision;
use cameo_auth::bucket::{
    Bucket, Change, Durability, Entry, Expected, Key, LocalBucket, PutError, Unreadable, Watch, WatchEnd,
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The caller's side.
pub(crate) struct Remote(SocketAddr);

type Lines = BufReader<TcpStream>;

async fn line(stream: &mut Lines) -> std::io::Result<Value> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

async fn send(stream: &mut Lines, value: &Value) -> std::io::Result<()> {
    stream.get_mut().write_all(format!("{value}\n").as_bytes()).await
}

fn text(value: Option<&Bytes>) -> Value {
    value.map_or(Value::Null, |bytes| json!(String::from_utf8(bytes.to_vec()).unwrap()))
}

fn bytes(value: &Value) -> Option<Bytes> {
    value.as_str().map(|text| Bytes::copy_from_slice(text.as_bytes()))
}

impl Remote {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    async fn ask(&self, question: Value) -> std::io::Result<(Value, Lines)> {
        let mut stream = BufReader::new(TcpStream::connect(self.0).await?);
        send(&mut stream, &question).await?;
        Ok((line(&mut stream).await?, stream))
    }

    async fn write(&self, key: Key, value: Option<Bytes>, expected: Expected) -> Result<Revision, PutError> {
        let expected = match expected {
            Expected::Any => Value::Null,
            Expected::Absent => json!(0),
            Expected::At(revision) => json!(revision.0),
        };
        let question = json!({"do": "put", "key": key.as_str(), "value": text(value.as_ref()), "expected": expected});
        let (answer, _) = self.ask(question).await.map_err(|error| PutError::Unknown(error.to_string()))?;
        answer["revision"].as_u64().map(Revision).ok_or(PutError::Conflict)
    }
}

impl Bucket for Remote {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Unreadable>> {
        Box::pin(async move {
            let asked = self.ask(json!({"do": "get", "key": key.as_str()})).await;
            let (answer, _) = asked.map_err(|error| Unreadable(error.to_string()))?;
            Ok(bytes(&answer["value"])
                .zip(answer["revision"].as_u64().map(Revision))
                .map(|(value, revision)| Entry { value, revision }))
        })
    }

    fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        _: Durability,
    ) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(self.write(key, Some(value), expected))
    }

    fn delete(&self, key: Key, expected: Expected) -> BoxFuture<'_, Result<Revision, PutError>> {
        Box::pin(self.write(key, None, expected))
    }

    fn watch(&self, after: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, Unreadable>> {
        Box::pin(async move {
            let asked = self.ask(json!({"do": "watch", "after": after.0})).await;
            let (_, stream) = asked.map_err(|error| Unreadable(error.to_string()))?;
            Ok(Box::new(RemoteWatch(stream)) as Box<dyn Watch>)
        })
    }
}

struct RemoteWatch(Lines);

impl Watch for RemoteWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Change, WatchEnd>> {
        Box::pin(async move {
            let change = line(&mut self.0).await.map_err(|error| Unreadable(error.to_string()))?;
            let key = Key::new(change["key"].as_str().unwrap()).unwrap();
            let revision = Revision(change["revision"].as_u64().unwrap());
            let last = change["last"].as_bool().unwrap();
            Ok(Change { key, value: bytes(&change["value"]), revision, last })
        })
    }
}

/// Serves a bucket for as long as the test runs.
pub(crate) async fn serve(bucket: LocalBucket) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A caller that goes away ends its own.
            tokio::spawn(answer(bucket.clone(), BufReader::new(stream)));
        }
    });
    address
}

async fn answer(bucket: LocalBucket, mut stream: Lines) -> std::io::Result<()> {
    let question = line(&mut stream).await?;
    let key = || Key::new(question["key"].as_str().unwrap()).unwrap();
    match question["do"].as_str() {
        Some("get") => {
            let entry = bucket.get(&key()).await.unwrap();
            let answer = entry.map(|entry| json!({"value": text(Some(&entry.value)), "revision": entry.revision.0}));
            send(&mut stream, &answer.unwrap_or_default()).await
        }
        Some("put") => {
            let expected = match question["expected"].as_u64() {
                None => Expected::Any,
                Some(0) => Expected::Absent,
                Some(revision) => Expected::At(Revision(revision)),
            };
            let put = match bytes(&question["value"]) {
                Some(value) => bucket.put(key(), value, expected, Durability::Ephemeral).await,
                None => bucket.delete(key(), expected).await,
            };
            send(&mut stream, &json!({"revision": put.ok().map(|revision| revision.0)})).await
        }
        _ => {
            send(&mut stream, &json!({})).await?;
            let mut watch = bucket.watch(Revision(question["after"].as_u64().unwrap())).await.unwrap();
            while let Ok(change) = watch.next().await {
                let value = text(change.value.as_ref());
                let place = (change.revision.0, change.last);
                let line = json!({"key": change.key.as_str(), "value": value, "revision": place.0, "last": place.1});
                send(&mut stream, &line).await?;
            }
            Ok(())
        }
    }
}
