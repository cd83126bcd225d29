//! Metrics of the streams of a cluster, as JetStream itself sees them: how large they are, who leads them, and whether
//! their replicas keep up. The control plane tells them, as it may look at all streams and there is one of it.

use std::time::Duration;

use bytes::Bytes;
use cameo_nats::{Nats, RequestError};
use metrics::{describe_gauge, gauge};
use serde::Deserialize;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What JetStream says about a stream; without a cluster of servers there is one replica, that of the only server.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    state: State,
    #[serde(default)]
    config: Bounds,
    cluster: Option<Group>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    messages: u64,
    bytes: u64,
}

/// What a stream takes at most; 0 or less: no bound.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Bounds {
    max_bytes: i64,
    max_msgs: i64,
}

/// The servers that hold a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Group {
    leader: Option<String>,
    replicas: Vec<Peer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Peer {
    current: bool,
    offline: bool,
    lag: u64,
}

/// What a look at a stream came to.
enum Look {
    /// What its leader says.
    Told(Answer),
    /// There is no such stream.
    None,
    /// It has no leader: there is a connection, and nobody answers on it.
    Leaderless,
    /// Nothing was heard, of this stream or any other.
    Unheard,
}

/// Looks at streams again and again; ends with the process.
pub(super) async fn measure(nats: Nats, streams: Vec<String>) {
    describe_gauge!("cameo_stream_messages", "Messages in a stream of NATS");
    describe_gauge!("cameo_stream_bytes", "Bytes of a stream, of one replica");
    describe_gauge!(
        "cameo_stream_fullness",
        "How much of its bound a stream has used, of bytes or of messages; at 1 it refuses"
    );
    describe_gauge!(
        "cameo_stream_replicas_current",
        "Servers that hold a stream and have all of it, its leader among them"
    );
    describe_gauge!("cameo_stream_replicas_lag", "Operations that the slowest replica of a stream is behind");
    describe_gauge!("cameo_stream_leader", "1 if a stream has a leader, which takes writes; 0 during elections");
    loop {
        for stream in &streams {
            look(&nats, stream).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(nats: &Nats, stream: &str) {
    let losses = nats.losses();
    let asked = nats.request(&format!("$JS.API.STREAM.INFO.{stream}"), Bytes::new(), PATIENCE).await;
    let connected = nats.is_up() && nats.losses() == losses;
    let label = |name: &'static str| gauge!(name, "stream" => stream.to_owned());
    match heard(asked, connected) {
        Look::None | Look::Unheard => {}
        Look::Told(Answer { state, config, cluster, .. }) => {
            if let Some(fullness) = fullness(&state, &config) {
                label("cameo_stream_fullness").set(fullness);
            }
            label("cameo_stream_messages").set(state.messages as f64);
            label("cameo_stream_bytes").set(state.bytes as f64);
            let group = cluster.unwrap_or_else(|| Group { leader: Some(String::new()), replicas: Vec::new() });
            label("cameo_stream_leader").set(f64::from(u8::from(group.leader.is_some())));
            label("cameo_stream_replicas_current").set(group.current() as f64);
            label("cameo_stream_replicas_lag").set(group.lag() as f64);
        }
        Look::Leaderless => label("cameo_stream_leader").set(0.0),
    }
}

/// It is the leader of a stream that answers. Without a connection that says nothing: the streams go on without us.
fn heard(asked: Result<Bytes, RequestError>, connected: bool) -> Look {
    match asked.ok().and_then(|answer| serde_json::from_slice::<Answer>(&answer).ok()) {
        Some(Answer { error: Some(_), .. }) => Look::None,
        Some(answer) => Look::Told(answer),
        None if connected => Look::Leaderless,
        None => Look::Unheard,
    }
}

/// The larger share of a stream's bounds that is used, if it has any.
fn fullness(state: &State, bounds: &Bounds) -> Option<f64> {
    let used = [(state.bytes, bounds.max_bytes), (state.messages, bounds.max_msgs)].into_iter();
    used.filter(|(_, bound)| *bound > 0).map(|(used, bound)| used as f64 / bound as f64).max_by(f64::total_cmp)
}

impl Group {
    fn current(&self) -> usize {
        usize::from(self.leader.is_some()) + self.replicas.iter().filter(|peer| peer.current && !peer.offline).count()
    }

    fn lag(&self) -> u64 {
        self.replicas.iter().map(|peer| peer.lag).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_as_full_as_the_nearest_of_its_bounds() {
        let of = |max_bytes, max_msgs| fullness(&State { messages: 50, bytes: 1000 }, &Bounds { max_bytes, max_msgs });
        assert_eq!(
            [of(-1, -1), of(0, 0), of(4000, -1), of(4000, 100), of(4000, 50)],
            [None, None, Some(0.25), Some(0.5), Some(1.0)]
        );
    }

    #[test]
    fn a_stream_is_leaderless_only_if_there_is_a_connection_to_hear_its_leader_on() {
        let silence = || Err(RequestError::Timeout("$JS.API.STREAM.INFO.S".into()));
        assert!(matches!(heard(silence(), true), Look::Leaderless));
        assert!(matches!(heard(silence(), false), Look::Unheard));
        assert!(matches!(heard(Err(RequestError::Disconnected), false), Look::Unheard));
        let none = Bytes::from_static(br#"{"error":{"code":404,"err_code":10059}}"#);
        assert!(matches!(heard(Ok(none), true), Look::None));
        assert!(matches!(heard(Ok(Bytes::from_static(b"{}")), true), Look::Told(_)));
    }

    #[test]
    fn a_leader_counts_as_a_replica_that_has_everything() {
        let answer = r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","state":{"messages":7,"bytes":99},
            "cluster":{"name":"cameo","leader":"nats-2","replicas":[
                {"name":"nats-1","current":true,"active":12},
                {"name":"nats-3","current":true,"offline":true,"active":99,"lag":4}]}}"#;
        let answer: Answer = serde_json::from_str(answer).unwrap();
        let group = answer.cluster.unwrap();
        assert_eq!((answer.state.messages, group.current(), group.lag()), (7, 2, 4));
        let refused: Answer = serde_json::from_str(r#"{"error":{"code":404,"err_code":10059}}"#).unwrap();
        assert!(refused.error.is_some() && refused.cluster.is_none());
    }
}
