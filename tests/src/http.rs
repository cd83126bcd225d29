//! A small blocking HTTP/1.1 client of the tests' own: it shows every byte, keeps connections, reads answers that come
//! before the body was sent, and can send what no client would. Not fast, not complete.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// No answer takes this long unless something is broken.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Bodies above this are sent by a thread of their own, so that an early answer is seen while sending.
const SEND_AT_ONCE: usize = 32 * 1024;
/// More head than any answer of ours has.
const HEAD_LIMIT: usize = 64 * 1024;

/// What to ask.
#[derive(Clone, Debug)]
pub struct Request {
    /// The verb.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers beside `Content-Length`; without a `Host` among them it is `cameo.test`.
    pub headers: Vec<(String, String)>,
    /// The body; none is sent for none.
    pub body: Option<Vec<u8>>,
}

impl Request {
    /// Any verb, without a body.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: None }
    }

    /// GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// POST.
    #[must_use]
    pub fn post(path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path).header("Content-Type", content_type).body(body)
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The bytes before the body.
    #[must_use]
    pub fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: cameo.test\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header `name` (lower case), or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none; the message shows the answer.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {} {}", self.status, self.text()))
    }

    /// Itself, if the status is this.
    ///
    /// # Panics
    /// When it is another; the message shows the answer.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// What carries the bytes.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One connection, kept between requests.
#[derive(Debug)]
pub struct Connection {
    stream: Wire,
    // Bytes read and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_for(address, READ_TIMEOUT)
    }

    /// Connects to a server that may stand still: nothing on this connection is waited for longer than this.
    ///
    /// # Errors
    /// As the system says.
    pub fn open_for(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Wire::Plain(stream), buffer: Vec::new() })
    }

    /// Connects over TLS to a server whose certificate an authority of a PEM file has signed for its address.
    ///
    /// # Errors
    /// As the system says; a certificate that is not trusted only shows with the first request.
    ///
    /// # Panics
    /// When the file holds no authority.
    pub fn open_tls(address: SocketAddr, ca: &Path) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).expect("a file of authorities") {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::from(address.ip())).expect("a connection");
        let Self { stream: Wire::Plain(stream), .. } = Self::open(address)? else { unreachable!("it is plain") };
        Ok(Self { stream: Wire::Tls(Box::new(StreamOwned::new(tls, stream))), buffer: Vec::new() })
    }

    /// Sends a request and reads its answer, which may come before the whole body was sent.
    ///
    /// # Errors
    /// When the connection ends before the answer does, or the answer is not HTTP.
    pub fn send(&mut self, request: &Request) -> io::Result<Response> {
        let head = request.head();
        let body = request.body.as_deref().unwrap_or_default();
        let plain = match &self.stream {
            Wire::Plain(stream) if body.len() > SEND_AT_ONCE => stream,
            _ => {
                self.write(&[head.as_bytes(), body].concat())?;
                return self.read();
            }
        };
        let (mut writer, both) = (plain.try_clone()?, plain.try_clone()?);
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)));
            let answer = self.read();
            if answer.is_err() {
                // Nothing more will come: the sender must not wait for room either.
                let _ = both.shutdown(std::net::Shutdown::Both);
            }
            // An early answer may end the sending; the answer counts.
            let _ = sent.join();
            answer
        })
    }

    /// The same connection, for a thread that sends while this one reads.
    ///
    /// # Errors
    /// As the system says.
    pub fn second_handle(&self) -> io::Result<Self> {
        match &self.stream {
            Wire::Plain(stream) => Ok(Self { stream: Wire::Plain(stream.try_clone()?), buffer: Vec::new() }),
            Wire::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// As the system says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes),
        }
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// As the system says.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Wire::Plain(stream) => stream.shutdown(std::net::Shutdown::Write),
            Wire::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        }
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// When the connection ends before the answer does, or the answer is not HTTP.
    pub fn read(&mut self) -> io::Result<Response> {
        loop {
            let (status, headers) = self.read_head()?;
            // 100 Continue announces another answer.
            if status >= 200 {
                let body = self.read_body(status, &headers)?;
                return Ok(Response { status, headers, body });
            }
        }
    }

    fn read_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(invalid("the head of the answer does not end"));
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line.strip_prefix("HTTP/1.").and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| invalid(line))?;
        let headers =
            lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
        Ok((status, headers.collect()))
    }

    fn read_body(&mut self, status: u16, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        if status == 204 || status == 304 {
            return Ok(Vec::new());
        }
        if header("transfer-encoding") == Some("chunked") {
            return self.read_chunks();
        }
        match header("content-length") {
            Some(length) => self.take(length.parse().map_err(|_| invalid(length))?),
            None => {
                // Until the end of the connection.
                while self.fill().is_ok() {}
                Ok(std::mem::take(&mut self.buffer))
            }
        }
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break at;
                }
                self.fill()?;
            };
            let line = String::from_utf8_lossy(&self.take(end + 2)?).into_owned();
            let length = usize::from_str_radix(line.trim(), 16).map_err(|_| invalid(&line))?;
            body.extend_from_slice(&self.take(length)?);
            self.take(2)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let read = match &mut self.stream {
            Wire::Plain(stream) => stream.read(&mut chunk)?,
            Wire::Tls(stream) => stream.read(&mut chunk)?,
        };
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the answer did"));
        }
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {what}"))
}

#[cfg(test)]
mod tests;
