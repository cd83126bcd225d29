//! The bytes under a connection, and how they end.
//!
//! A system that has unread bytes when a connection is closed tells the peer so by a reset, and the peer throws away the
//! answer that it has not read yet. So after an answer to a request that was not read to its end the stream is only half
//! closed, and what still comes is read and thrown away, within bounds, until the peer has seen the answer and closes.
//!
//! A caller that begins with HTTP/2 is told in HTTP/1.1 that this is not spoken here; hyper would only hang up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// What is read after an answer, in bytes. Ours: a few of the largest bodies.
const LINGER_BYTES: u64 = 256 << 20;
/// How long it is read at most.
const LINGER_TIME: Duration = Duration::from_secs(30);
/// How long the peer may pause meanwhile. Ours: longer than a lost packet takes to be sent again.
const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// Bytes thrown away at a time.
const SCRATCH_BYTES: usize = 16 << 10;

/// How HTTP/2 without TLS begins (RFC 9113, 3.4); no method of HTTP/1 does.
const PREFACE: &[u8] = b"PRI ";
/// The answer to it.
const NOT_HTTP_2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
content-type: application/problem+json\r\n\
content-length: 134\r\n\
connection: close\r\n\r\n\
{\"type\":\"about:blank\",\"title\":\"HTTP Version Not Supported\",\"status\":505,\"detail\":\"HTTP/2 is not spoken here; \
send HTTP/1.1 requests\"}\n";

/// Whether the request that is being answered still has bytes to come; a connection and its requests share it.
pub(crate) type Unread = Arc<AtomicBool>;

/// What carries the bytes.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Does the same to either.
macro_rules! either {
    ($wire:expr, $inner:ident => $does:expr) => {
        match $wire {
            Wire::Plain($inner) => $does,
            Wire::Tls($inner) => $does,
        }
    };
}

/// A connection's stream.
pub(crate) struct Stream {
    wire: Wire,
    unread: Unread,
    /// Bytes were read.
    begun: bool,
    ending: Option<Ending>,
}

/// A stream that is half closed.
struct Ending {
    /// Something came after the answer, or is expected to.
    waits: bool,
    bytes: u64,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Stream {
    pub(crate) const fn new(wire: Wire, unread: Unread) -> Self {
        Self { wire, unread, begun: false, ending: None }
    }

    fn linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(ending) = &mut self.ending else { return Poll::Ready(Ok(())) };
        let mut scratch = [0; SCRATCH_BYTES];
        while ending.bytes < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match either!(&mut self.wire, inner => Pin::new(inner).poll_read(context, &mut buffer)) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    ending.bytes += buffer.filled().len() as u64;
                    ending.waits = true;
                    ending.timer.as_mut().reset(ending.last.min(Instant::now() + LINGER_PAUSE));
                }
                // The peer has closed too, or is gone.
                Poll::Ready(_) => break,
                Poll::Pending if ending.waits => {
                    ready!(ending.timer.as_mut().poll(context));
                    break;
                }
                Poll::Pending => break,
            }
            if Instant::now() >= ending.last {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        ready!(either!(&mut this.wire, inner => Pin::new(inner).poll_read(context, out)))?;
        if !std::mem::replace(&mut this.begun, true) && out.filled()[before..].starts_with(PREFACE) {
            // A new connection has room for these few bytes; should it not, the caller goes without an answer.
            let _ = either!(&mut this.wire, inner => Pin::new(inner).poll_write(context, NOT_HTTP_2));
            this.unread.store(true, Ordering::Relaxed);
            // For hyper the connection has ended before it began.
            out.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut self.get_mut().wire, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.get_mut().wire, inner => Pin::new(inner).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.wire, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().wire, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending.is_none() {
            ready!(either!(&mut this.wire, inner => Pin::new(inner).poll_shutdown(context)))?;
            let now = Instant::now();
            this.ending = Some(Ending {
                waits: this.unread.load(Ordering::Relaxed),
                bytes: 0,
                last: now + LINGER_TIME,
                timer: Box::pin(tokio::time::sleep_until(now + LINGER_PAUSE)),
            });
        }
        this.linger(context)
    }
}
