//! A TCP proxy that can be cut, stilled and slowed: the network between a node and NATS.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It carries every byte at once.
    Well,
    /// Every packet takes so long.
    Slow(Duration),
    /// It swallows everything, and nobody is told; what was sent arrives when it is well again.
    Still,
    /// Connections break, and new ones break too.
    Cut,
}

/// One way to one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
}

impl Proxy {
    /// Listens, and connects everybody to `target`, as long as `runtime` runs.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start(runtime: &Runtime, target: String) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (network, seen) = watch::channel(Network::Well);
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connection(near, target.clone(), seen.clone()));
            }
        });
        Self { address, network }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the network does, for connections that are there as well.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn connection(near: TcpStream, target: String, mut network: watch::Receiver<Network>) {
    if passable(&mut network).await.is_none() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Neither side waits for more than it was given.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // When one way ends, so does the other: a half of a connection is of no use to NATS.
    tokio::select! {
        () = carry(near_in, far_out, network.clone()) => {}
        () = carry(far_in, near_out, network) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = network.wait_for(|network| *network == Network::Cut) => return,
        };
        if read == 0 {
            return;
        }
        let Some(delay) = passable(&mut network).await else { return };
        if !delay.is_zero() {
            // Until then, or until the network changes; what a delay is, is just that.
            let changed = network.wait_for(|network| !matches!(network, Network::Slow(_)));
            let _ = tokio::time::timeout(delay, changed).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits while the network is still; the delay of a packet, or nothing when it is cut.
async fn passable(network: &mut watch::Receiver<Network>) -> Option<Duration> {
    match *network.wait_for(|network| *network != Network::Still).await.ok()? {
        Network::Cut => None,
        Network::Slow(delay) => Some(delay),
        Network::Well | Network::Still => Some(Duration::ZERO),
    }
}
