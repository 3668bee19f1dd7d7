//! A small HTTP/1.1 client over one kept connection that knows what it does not know: whether a
//! call that broke off was carried out.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

#[derive(Debug)]
pub(crate) struct Client {
    to: SocketAddr,
    patience: Duration,
    stream: Option<BufReader<TcpStream>>,
}

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn is_problem(&self) -> bool {
        self.content_type.starts_with("application/problem+json")
    }
}

/// How a call can go wrong.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection: the server has seen nothing of it.
    NotSent,
    /// It broke off; `read` is what had come of the answer. It may have been carried out.
    Cut { read: Answer },
}

impl Client {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self {
            to,
            patience: Duration::from_secs(10),
            stream: None,
        }
    }

    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, CallError> {
        let mut stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => self.connect().map_err(|_| CallError::NotSent)?,
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.to);
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.extend(["content-length: ", &body.len().to_string(), "\r\n\r\n"]);
        let mut text = head.into_bytes();
        text.extend_from_slice(body);
        let mut read = Answer::default();
        let sent = stream.get_mut().write_all(&text);
        // An early refusal may be there although not everything was taken.
        let Ok(closes) = read_answer(&mut stream, &mut read) else {
            return Err(CallError::Cut { read });
        };
        if !closes && sent.is_ok() {
            self.stream = Some(stream);
        }
        Ok(read)
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        self.call("GET", path, &[], b"")
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Result<Answer, CallError> {
        let json = [("content-type", "application/json")];
        self.call("POST", path, &json, body.to_string().as_bytes())
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.to, self.patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        Ok(BufReader::with_capacity(16 << 10, stream))
    }
}

/// Whether the other side has not closed it meanwhile, as servers do with idle connections.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let socket = stream.get_ref();
    let looked = socket
        .set_nonblocking(true)
        .and_then(|()| socket.peek(&mut [0]));
    let quiet = looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    quiet && socket.set_nonblocking(false).is_ok()
}

/// Status and JSON of a whole answer after which the connection was closed; 0 if it is none.
pub(crate) fn parse(text: &[u8]) -> (u16, Value) {
    let text = String::from_utf8_lossy(text);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // The body may come in chunks: its object is what counts.
    let object = body.find('{').zip(body.rfind('}'));
    let object = object.map_or("", |(from, to)| &body[from..=to]);
    let value = serde_json::from_str(object).unwrap_or_default();
    (status.unwrap_or(0), value)
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut text = String::new();
    stream.read_line(&mut text)?;
    if !text.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Whether the connection ends with this answer.
fn read_answer(stream: &mut BufReader<TcpStream>, into: &mut Answer) -> io::Result<bool> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let status = line(stream)?;
    let number = status.split(' ').nth(1).and_then(|text| text.parse().ok());
    into.status = number.ok_or_else(bad)?;
    let (mut length, mut chunked, mut closes) = (0_usize, false, false);
    loop {
        let header = line(stream)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(bad)?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().map_err(|_| bad())?,
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => closes = value.eq_ignore_ascii_case("close"),
            "content-type" => value.clone_into(&mut into.content_type),
            _ => {}
        }
    }
    if !chunked {
        take(stream, length, &mut into.body)?;
        return Ok(closes);
    }
    loop {
        let size = usize::from_str_radix(&line(stream)?, 16).map_err(|_| bad())?;
        take(stream, size, &mut into.body)?;
        line(stream)?;
        if size == 0 {
            return Ok(closes);
        }
    }
}

/// What has come stays in `into`, also when the rest does not.
fn take(stream: &mut BufReader<TcpStream>, bytes: usize, into: &mut Vec<u8>) -> io::Result<()> {
    let read = stream.by_ref().take(bytes as u64).read_to_end(into)?;
    if read < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
