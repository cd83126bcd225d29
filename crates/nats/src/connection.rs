//! Connecting, and requests whose replies come to one inbox of ours.
//!
//! async-nats keeps an entry for every request that is never answered (nats.rs#1617), and its publish acks are such
//! requests. Here one subscription takes every reply, and whoever stops waiting takes his entry out of the map.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, ServerAddr, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

/// How often a silent connection is asked whether it lives. NATS' own minute would be noticed far too late.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take: a server that stands still takes connections and says nothing.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// After so long without any message, although something was asked, another connection is tried. NATS' own pings take two of
/// their intervals to notice.
const SILENT: Duration = Duration::from_secs(3);
/// How often that is looked at.
const LISTEN_EVERY: Duration = Duration::from_millis(500);
/// Pause before the next attempt to connect: the attempt's number times the first, at most the second.
const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Messages that wait for a subscriber of ours before the client drops some. Messages, not bytes: the largest ones are
/// 1 MB. A feed notices what was dropped.
const WAITING_MESSAGES: usize = 2048;

/// Where NATS is and who we are there.
#[derive(Clone)]
pub struct NatsOptions {
    /// Servers, `nats://host:port` or `tls://host:port`. Only these are used, none that a server tells of.
    pub urls: Vec<String>,
    /// The name of this node: shown by the server; replies come to `_INBOX_{name}`.
    pub name: String,
    /// User and password.
    pub user: Option<(String, Zeroizing<String>)>,
    /// PEM file of the authorities that servers are trusted by.
    pub ca: Option<PathBuf>,
    /// PEM files of this node's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl NatsOptions {
    /// Plain servers, no user.
    #[must_use]
    pub fn new(name: &str, urls: Vec<String>) -> Self {
        Self { urls, name: name.to_owned(), user: None, ca: None, identity: None }
    }
}

impl std::fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsOptions").field("urls", &self.urls).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// These are no addresses.
    #[error("{urls}: a NATS server is given as nats://host:port or tls://host:port")]
    Url {
        /// What was given.
        urls: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// No server takes us.
    #[error("cannot connect to NATS at {urls}")]
    Connect {
        /// Where.
        urls: String,
        /// What the client said.
        source: async_nats::ConnectError,
    },
    /// It does not take us as whom we come.
    #[error("NATS at {urls} does not take {}", whom(user.as_deref()))]
    Unauthorized {
        /// Where.
        urls: String,
        /// As whom; `None`: without a user.
        user: Option<String>,
    },
    /// It speaks TLS, and its certificate is not signed by who is trusted here, or not for its address.
    #[error("NATS at {urls} cannot be trusted: {why}")]
    Untrusted {
        /// Where.
        urls: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// Replies cannot be received.
    #[error("cannot subscribe at NATS")]
    Subscribe(#[from] async_nats::SubscribeError),
}

fn whom(user: Option<&str>) -> String {
    user.map_or_else(|| "a connection without a user".into(), |user| format!("the user {user} with this password"))
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no connection; nothing was sent.
    #[error("there is no connection to NATS")]
    Disconnected,
    /// Nobody listens at the subject.
    #[error("nobody answers at {0}")]
    NoResponders(String),
    /// No answer in time: whether it was carried out is unknown.
    #[error("no answer from {0} in time")]
    Timeout(String),
    /// The answer is an error, or cannot be understood.
    #[error("{subject}: {said}")]
    Refused {
        /// Of which request.
        subject: String,
        /// The server's number for the error; 0 when it is not an error of JetStream's.
        code: u64,
        /// Its words.
        said: String,
    },
}

impl RequestError {
    /// Whether it may go better by itself: NATS is away, or has no leader yet.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Disconnected | Self::NoResponders(_) | Self::Timeout(_) => true,
            // Of JetStream's API: it is not there yet, has no leader, or too few servers so far.
            Self::Refused { code, .. } => matches!(code, 10_005 | 10_008 | 10_009 | 10_039 | 10_074),
        }
    }
}

/// A request that another asked of us, or a message of a subscription.
#[derive(Debug)]
pub struct Incoming {
    /// Where it was sent.
    pub subject: String,
    /// Where an answer goes.
    pub reply: Option<String>,
    /// Its bytes.
    pub payload: Bytes,
}

/// Whether there is a connection, and how many were lost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    up: bool,
    lost: u64,
}

/// Who waits for replies, by the last token of the subject they come to.
#[derive(Default)]
struct Replies {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Message>>>,
}

/// A connection that comes back by itself. Cheap to clone.
#[derive(Clone)]
pub struct Nats {
    client: Client,
    inbox: Arc<str>,
    replies: Arc<Replies>,
    link: watch::Receiver<Link>,
    /// Ends the task that hands out replies when the last clone is gone.
    _alive: Arc<watch::Sender<()>>,
}

impl Nats {
    /// Connects.
    ///
    /// # Errors
    /// When no server can be reached, or none takes the user.
    pub async fn connect(options: &NatsOptions) -> Result<Self, ConnectError> {
        describe_metrics();
        let (link, seen) = watch::channel(Link { up: true, lost: 0 });
        let mut connect = ConnectOptions::new()
            .name(&options.name)
            .custom_inbox_prefix(format!("_INBOX_{}", options.name))
            .ping_interval(PING_EVERY)
            .connection_timeout(CONNECT_PATIENCE)
            .reconnect_delay_callback(|attempts| {
                (RECONNECT_PAUSE.0 * u32::try_from(attempts).unwrap_or(u32::MAX).min(1000)).min(RECONNECT_PAUSE.1)
            })
            .subscription_capacity(WAITING_MESSAGES)
            .ignore_discovered_servers()
            .event_callback(move |event| {
                note(&event, &link);
                std::future::ready(())
            });
        if let Some((user, password)) = &options.user {
            connect = connect.user_and_password(user.clone(), password.as_str().to_owned());
        }
        if let Some(ca) = &options.ca {
            connect = connect.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &options.identity {
            connect = connect.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        let urls = options.urls.join(",");
        let servers: Vec<ServerAddr> = match options.urls.iter().map(|url| url.parse()).collect() {
            Ok(servers) => servers,
            Err(source) => return Err(ConnectError::Url { urls, source }),
        };
        let client = connect.connect(servers).await.map_err(|source| match (distrust(&source), source.kind()) {
            (Some(why), _) => ConnectError::Untrusted { urls, why },
            (None, ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication) => {
                ConnectError::Unauthorized { urls, user: options.user.as_ref().map(|(user, _)| user.clone()) }
            }
            (None, _) => ConnectError::Connect { urls, source },
        })?;
        let inbox: Arc<str> = client.new_inbox().into();
        let replies = Arc::new(Replies::default());
        let subscriber = client.subscribe(format!("{inbox}.*")).await?;
        let (alive, ended) = watch::channel(());
        tokio::spawn(listen(client.clone(), Arc::clone(&replies), ended.clone()));
        tokio::spawn(hand_out(subscriber, Arc::clone(&replies), ended));
        Ok(Self { client, inbox, replies, link: seen, _alive: Arc::new(alive) })
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.borrow().up
    }

    /// Name of the server that it is connected to.
    #[cfg(test)]
    pub(crate) fn server(&self) -> String {
        self.client.server_info().server_name
    }

    /// How many questions wait for replies.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.replies.waiting.lock().len()
    }

    /// Waits until there is a connection.
    pub async fn up(&self) {
        // The sender lives in the client's callback, and the client in `self`.
        let _ = self.link.clone().wait_for(|link| link.up).await;
    }

    /// Done when the connection there is now has been lost.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let mut link = self.link.clone();
        let before = link.borrow_and_update().lost;
        async move {
            // As above.
            let _ = link.wait_for(|link| link.lost != before).await;
        }
    }

    /// How often a connection has been lost so far.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.link.borrow().lost
    }

    /// Done when a connection has been lost since [`Self::losses`] said this number.
    pub fn lost_since(&self, losses: u64) -> impl Future<Output = ()> + use<> {
        let mut link = self.link.clone();
        async move {
            // As above.
            let _ = link.wait_for(|link| link.lost != losses).await;
        }
    }

    /// Sends a message for which replies are expected.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Waiting, RequestError> {
        if !self.is_up() {
            return Err(RequestError::Disconnected);
        }
        let token = self.replies.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
        self.replies.waiting.lock().insert(token, sender);
        let waiting = Waiting { replies: Arc::clone(&self.replies), token, receiver };
        let (subject, reply) = (subject.to_owned(), format!("{}.{token}", self.inbox));
        let sent = match headers {
            Some(headers) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
            None => self.client.publish_with_reply(subject, reply, payload).await,
        };
        // The client refuses what is too large and subjects that are none, before anything is sent.
        sent.map_err(|error| RequestError::Refused { subject: String::new(), code: 0, said: error.to_string() })?;
        Ok(waiting)
    }

    /// Asks, with an inbox for this question alone.
    pub(crate) async fn ask_apart(&self, subject: &str, payload: Bytes) -> Result<Subscription, RequestError> {
        if !self.is_up() {
            return Err(RequestError::Disconnected);
        }
        let inbox = self.client.new_inbox();
        let replies = self.subscribe(&inbox, None).await?;
        let refused = |error: async_nats::PublishError| RequestError::Refused {
            subject: subject.to_owned(),
            code: 0,
            said: error.to_string(),
        };
        self.client.publish_with_reply(subject.to_owned(), inbox, payload).await.map_err(refused)?;
        Ok(replies)
    }

    /// Asks and waits for one answer.
    ///
    /// # Errors
    /// Says whether it may have been carried out.
    pub async fn request(&self, subject: &str, payload: Bytes, patience: Duration) -> Result<Bytes, RequestError> {
        self.begin_request(subject, payload).await?.answer(patience).await
    }

    /// Asks; the question is on its way when this returns, so questions keep their order.
    ///
    /// # Errors
    /// When nothing was sent.
    pub async fn begin_request(&self, subject: &str, payload: Bytes) -> Result<Asked, RequestError> {
        let lost = self.lost();
        let waiting = self.ask(subject, None, payload).await?;
        Ok(Asked { subject: subject.to_owned(), waiting, lost: Box::pin(lost) })
    }

    /// What is published to a subject from now on; `queue` shares it with others of the same name.
    ///
    /// # Errors
    /// When the client has been closed.
    pub async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, RequestError> {
        let subscribed = match queue {
            Some(queue) => self.client.queue_subscribe(subject.to_owned(), queue.to_owned()).await,
            None => self.client.subscribe(subject.to_owned()).await,
        };
        let refused = |error: async_nats::SubscribeError| RequestError::Refused {
            subject: subject.to_owned(),
            code: 0,
            said: error.to_string(),
        };
        Ok(Subscription(subscribed.map_err(refused)?))
    }

    /// Waits until the server has taken what was sent before.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn flush(&self) -> Result<(), RequestError> {
        self.client.flush().await.map_err(|_| RequestError::Disconnected)
    }

    /// Publishes without an acknowledgement: an answer to somebody, or a hint.
    ///
    /// # Errors
    /// When it is too large, or the client has been closed.
    pub async fn tell(&self, subject: &str, payload: Bytes) -> Result<(), RequestError> {
        let refused = |error: async_nats::PublishError| RequestError::Refused {
            subject: subject.to_owned(),
            code: 0,
            said: error.to_string(),
        };
        self.client.publish(subject.to_owned(), payload).await.map_err(refused)
    }
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("inbox", &self.inbox).field("link", &*self.link.borrow()).finish_non_exhaustive()
    }
}

/// Messages of a subject, as they come.
#[derive(Debug)]
pub struct Subscription(pub(crate) Subscriber);

impl Subscription {
    /// Takes no further messages: those that have come already are still there, and [`Self::next`] gives none after them.
    pub async fn finish(&mut self) {
        // A client that has been closed gives none either.
        let _ = self.0.drain().await;
    }

    /// The next message; `None` when the client has been closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        let message = self.0.next().await?;
        Some(Incoming {
            subject: message.subject.to_string(),
            reply: message.reply.map(|reply| reply.to_string()),
            payload: message.payload,
        })
    }
}

/// A question that was asked.
pub struct Asked {
    subject: String,
    waiting: Waiting,
    lost: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Asked {
    /// Waits for its answer.
    ///
    /// # Errors
    /// Says whether it may have been carried out.
    pub async fn answer(mut self, patience: Duration) -> Result<Bytes, RequestError> {
        let answer = tokio::select! {
            answer = self.waiting.next() => answer,
            () = self.lost => return Err(RequestError::Timeout(self.subject)),
            () = tokio::time::sleep(patience) => return Err(RequestError::Timeout(self.subject)),
        };
        if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            return Err(RequestError::NoResponders(self.subject));
        }
        Ok(answer.payload)
    }
}

/// Replies to one question. Dropped, it leaves nothing behind.
pub(crate) struct Waiting {
    replies: Arc<Replies>,
    token: u64,
    receiver: mpsc::Receiver<Message>,
}

impl Waiting {
    /// The next reply; never done when there is none.
    pub(crate) async fn next(&mut self) -> Message {
        match self.receiver.recv().await {
            Some(message) => message,
            // The sender is in the map for as long as `self` is there.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.replies.waiting.lock().remove(&self.token);
    }
}

async fn hand_out(mut subscriber: Subscriber, replies: Arc<Replies>, mut ended: watch::Receiver<()>) {
    loop {
        let message = tokio::select! {
            message = subscriber.next() => message,
            _ = ended.changed() => return,
        };
        let Some(message) = message else { return };
        let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let waiting = token.and_then(|token: u64| replies.waiting.lock().get(&token).cloned());
        if let Some(waiting) = waiting {
            // Whoever asked may have gone meanwhile. No question has more replies than there is room for.
            let _ = waiting.try_send(message);
        }
    }
}

/// What is wrong with the server's certificate, if that is why there is no connection.
fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls @ async_nats::rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return Some(tls.to_string());
        }
        // An error of IO holds another without naming it as its source.
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = held.map(|held| held as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Leaves a server that has fallen silent: its machine is gone, it stands still, or the network swallows everything.
async fn listen(client: Client, replies: Arc<Replies>, mut ended: watch::Receiver<()>) {
    let statistics = client.statistics();
    let asked = || replies.next.load(Ordering::Relaxed);
    let mut heard = (statistics.in_messages.load(Ordering::Relaxed), asked());
    let mut since = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LISTEN_EVERY) => {}
            _ = ended.changed() => return,
        }
        let now = statistics.in_messages.load(Ordering::Relaxed);
        if now != heard.0 || asked() == heard.1 {
            (heard, since) = ((now, asked()), None);
            continue;
        }
        let silence = since.get_or_insert_with(Instant::now).elapsed();
        if silence >= SILENT {
            tracing::warn!(
                nats.silence_seconds = silence.as_secs(),
                "NATS does not answer; connecting to another server"
            );
            metrics::counter!("cameo_nats_silent_total").increment(1);
            // The client has been closed when this fails.
            if client.force_reconnect().await.is_err() {
                return;
            }
            (heard, since) = ((now, asked()), None);
        }
    }
}

fn note(event: &Event, link: &watch::Sender<Link>) {
    match event {
        Event::Connected => {
            link.send_modify(|link| link.up = true);
            metrics::gauge!("cameo_nats_connected").set(1.0);
            tracing::info!("connected to NATS");
        }
        Event::Disconnected | Event::Closed => {
            link.send_modify(|link| *link = Link { up: false, lost: link.lost + 1 });
            metrics::gauge!("cameo_nats_connected").set(0.0);
            tracing::warn!("the connection to NATS was lost; connecting again");
        }
        // Also permission errors come this way, and no other: the publish they belong to is just never answered.
        Event::ServerError(error) => {
            metrics::counter!("cameo_nats_errors_total", "from" => "server").increment(1);
            tracing::warn!(%error, "NATS says that something is wrong");
        }
        Event::ClientError(error) => {
            metrics::counter!("cameo_nats_errors_total", "from" => "client").increment(1);
            tracing::warn!(%error, "the NATS client says that something is wrong");
        }
        Event::SlowConsumer(_) => metrics::counter!("cameo_nats_dropped_messages_total").increment(1),
        Event::LameDuckMode => tracing::info!("a NATS server is about to stop"),
        Event::Draining => {}
    }
}

fn describe_metrics() {
    metrics::describe_gauge!("cameo_nats_connected", "Whether there is a connection to NATS: 1 or 0");
    metrics::describe_counter!("cameo_nats_errors_total", "Errors told by NATS or its client, permissions among them");
    metrics::describe_counter!(
        "cameo_nats_dropped_messages_total",
        "Messages that the client dropped as nobody took them in time; feeds read them again"
    );
    metrics::describe_counter!("cameo_nats_silent_total", "Connections left as the server did not answer any more");
    metrics::gauge!("cameo_nats_connected").set(1.0);
    // Told from the start: Prometheus sees no rise of what was not there before.
    for from in ["server", "client"] {
        metrics::counter!("cameo_nats_errors_total", "from" => from).increment(0);
    }
    metrics::counter!("cameo_nats_dropped_messages_total").increment(0);
    metrics::counter!("cameo_nats_silent_total").increment(0);
}
