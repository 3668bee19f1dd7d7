//! HTTP/1.1 by hand over one kept-alive socket: as little processor time as a client can take, for
//! it runs on the cores of the server that it measures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use memchr::memmem;

const READ_MAX: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }

    pub(super) fn expect(self, status: u16) -> anyhow::Result<Self> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(
            self.status == status,
            "answer {} instead of {status}: {text}",
            self.status
        );
        Ok(self)
    }
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// A head that is complete: status, its length, and that of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    len: usize,
    framing: Framing,
}

fn head(text: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = memmem::find(text, b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = &text[..end + 2];
    let status = text.get(9..12).and_then(|s| std::str::from_utf8(s).ok());
    let status = status.context("no status line")?.parse()?;
    let framing = match memmem::find(text, b"content-length: ") {
        Some(at) => {
            let digits = text[at + 16..].iter().take_while(|b| b.is_ascii_digit());
            Framing::Length(digits.fold(0, |n, b| n * 10 + usize::from(b - b'0')))
        }
        None => Framing::Chunked,
    };
    Ok(Some(Head {
        status,
        len: end + 4,
        framing,
    }))
}

/// Status and length of a whole answer at the front of `text`, if it is there. For answers with a
/// length, as all but streams have.
pub(super) fn whole(text: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(head) = head(text)? else {
        return Ok(None);
    };
    let Framing::Length(body) = head.framing else {
        bail!("a stream where an answer was expected");
    };
    let len = head.len + body;
    Ok((text.len() >= len).then_some((head.status, len)))
}

/// One connection, one request at a time.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) socket: TcpStream,
    buf: Vec<u8>,
}

impl Conn {
    pub(super) fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(READ_MAX))?;
        Ok(Self {
            socket,
            buf: Vec::with_capacity(16 << 10),
        })
    }

    pub(super) fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        let text = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
        self.socket.write_all(text.as_bytes())?;
        self.answer()
    }

    pub(super) fn post(&mut self, path: &str, headers: &str, body: &str) -> anyhow::Result<Answer> {
        self.socket.write_all(&post(path, headers, body))?;
        self.answer()
    }

    pub(super) fn answer(&mut self) -> anyhow::Result<Answer> {
        loop {
            if let Some((status, len)) = whole(&self.buf)? {
                let start = head(&self.buf)?.map_or(0, |head| head.len);
                let body = self.buf[start..len].to_vec();
                self.buf.drain(..len);
                return Ok(Answer { status, body });
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let mut piece = [0; 16 << 10];
        let read = self.socket.read(&mut piece)?;
        ensure!(read > 0, "the server closed the connection");
        self.buf.extend_from_slice(&piece[..read]);
        Ok(())
    }

    /// Begins a stream: everything behind the head, as it comes, chunk marks included.
    pub(super) fn stream(mut self, path: &str) -> anyhow::Result<Stream> {
        let text = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
        self.socket.write_all(text.as_bytes())?;
        loop {
            if let Some(head) = head(&self.buf)? {
                ensure!(head.status == 200, "no stream: answer {}", head.status);
                self.buf.drain(..head.len);
                return Ok(Stream(self));
            }
            self.fill()?;
        }
    }
}

/// Lines of an answer that does not end.
#[derive(Debug)]
pub(super) struct Stream(Conn);

impl Stream {
    /// The next line, without its end; `None` when the socket is closed or `READ_MAX` has passed.
    pub(super) fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.0.buf) {
                let line = self.0.buf[..end].to_vec();
                self.0.buf.drain(..=end);
                return Some(line);
            }
            self.0.fill().ok()?;
        }
    }

    pub(super) fn socket(&self) -> anyhow::Result<TcpStream> {
        Ok(self.0.socket.try_clone()?)
    }
}

/// A whole request.
pub(super) fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{headers}content-length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends `jobs` equal lines as one streamed body and waits for the summary.
pub(super) fn bulk(conn: &mut Conn, line: &str, jobs: usize) -> anyhow::Result<()> {
    const LINES_AT_ONCE: usize = 1024;
    let head = format!(
        "POST /v1/jobs?answer=summary HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        (line.len() + 1) * jobs
    );
    conn.socket.write_all(head.as_bytes())?;
    let piece = format!("{line}\n").repeat(LINES_AT_ONCE);
    let mut left = jobs;
    while left > 0 {
        let lines = left.min(LINES_AT_ONCE);
        let bytes = &piece.as_bytes()[..lines * (line.len() + 1)];
        conn.socket.write_all(bytes)?;
        left -= lines;
    }
    let summary = conn.answer()?.expect(200)?.json()?;
    ensure!(
        summary["accepted"].as_u64() == Some(jobs as u64),
        "not all were accepted: {summary}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let text = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabcHTTP";
        let len = text.len() - 4;
        assert_eq!(whole(text).unwrap(), Some((201, len)));
        assert_eq!(whole(&text[..len - 1]).unwrap(), None);
        assert_eq!(whole(&text[..30]).unwrap(), None);
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
