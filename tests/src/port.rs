//! Ports of loopback for servers of a test's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that systems give to outgoing connections: none of these takes one between the look and the server's start.
const PORTS: (u16, u16) = (10_000, 32_000);

/// An address whose port nobody uses, and no other test of this process is given soon.
#[must_use]
pub fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.1 - PORTS.0);
    loop {
        // Processes that run side by side begin at places of their own.
        let n = std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let port = PORTS.0 + u16::try_from(n).expect("fewer than there are ports");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
