//! A small load balancer that honours `/readyz`: connections go in turn to the nodes that were ready when last asked.
//!
//! It repeats nothing: a node that takes a connection and does not answer is seen by the caller. One that does not even take
//! the connection is passed over, as balancers do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// How often nodes are asked, and how long one may take to answer.
const ASK: Duration = Duration::from_millis(100);
/// How long a node may take to answer that.
const ANSWER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Nodes {
    /// Where they are.
    all: Mutex<Vec<SocketAddr>>,
    /// Those that were ready.
    ready: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
}

/// A balancer that ends with its value.
pub struct Balancer {
    address: SocketAddr,
    nodes: Arc<Nodes>,
    _runtime: tokio::runtime::Runtime,
}

impl Balancer {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let nodes = Arc::new(Nodes::default());
        runtime.spawn(look(Arc::clone(&nodes)));
        let served = Arc::clone(&nodes);
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(forward(near, Arc::clone(&served)));
            }
        });
        Self { address, nodes, _runtime: runtime }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells it which nodes there are.
    pub fn set(&self, nodes: Vec<SocketAddr>) {
        *self.nodes.all.lock() = nodes;
    }

    /// How many of them are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.nodes.ready.lock().len()
    }
}

async fn look(nodes: Arc<Nodes>) {
    let mut tick = tokio::time::interval(ASK);
    loop {
        tick.tick().await;
        let all = nodes.all.lock().clone();
        let asked: Vec<_> = all.into_iter().map(|node| (node, tokio::spawn(is_ready(node)))).collect();
        let mut ready = Vec::new();
        for (node, answer) in asked {
            if answer.await.unwrap_or(false) {
                ready.push(node);
            }
        }
        *nodes.ready.lock() = ready;
    }
}

async fn is_ready(node: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(node).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: cameo.test\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(answer.starts_with(b"HTTP/1.1 200 "))
    };
    tokio::time::timeout(ANSWER, ask).await.ok().flatten().unwrap_or(false)
}

async fn forward(mut near: TcpStream, nodes: Arc<Nodes>) {
    let ready = nodes.ready.lock().clone();
    let turn = nodes.turn.fetch_add(1, Ordering::Relaxed);
    for n in 0..ready.len() {
        if let Ok(mut far) = TcpStream::connect(ready[(turn + n) % ready.len()]).await {
            // How it ended, both sides have seen.
            let _ = copy_bidirectional(&mut near, &mut far).await;
            return;
        }
    }
}
