//! The programs behind `process` and `exec`: the same piece of work in a child.
//!
//! [`warm`] speaks the protocol of docs/guides/process-protocol.md and looks at its channel between
//! slices of work, so that a cancel ends the work and not the child. [`once`] reads its payload from
//! standard input, as every command of the exec lane.
#![allow(unsafe_code, reason = "the channel arrives as a descriptor number")]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, FromRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

use crate::work::{Chain, Piece, compute};

/// As the lane: docs/guides/process-protocol.md.
const FRAME_BYTES_MAX: usize = 2 << 20;
/// Between two looks at the channel: some hundred microseconds.
const ROUNDS_BETWEEN_LOOKS: u64 = 256;

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    lease: u64,
}

/// A frame: its header, and the data behind it.
struct Frame(Header, Vec<u8>);

struct Channel {
    socket: UnixStream,
}

impl Channel {
    /// Whether a frame, or the end, is there to be read.
    fn is_readable(&self) -> io::Result<bool> {
        let fd = self.socket.as_fd();
        let mut wanted = [PollFd::new(&fd, PollFlags::IN)];
        let at_once = Timespec::default();
        Ok(poll(&mut wanted, Some(&at_once))? > 0)
    }

    /// Waits for the next frame; `None` at the end: the server is gone.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        let mut length = [0; 4];
        match self.socket.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            let why = format!("a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        let cut = body.iter().position(|byte| *byte == b'\n');
        let header = serde_json::from_slice(&body[..cut.unwrap_or(length)])?;
        let data = cut.map_or_else(Vec::new, |at| body.split_off(at + 1));
        Ok(Some(Frame(header, data)))
    }

    fn put(&mut self, header: &str, data: &[u8]) -> io::Result<()> {
        let gap: &[u8] = if data.is_empty() { b"" } else { b"\n" };
        let length = (header.len() + gap.len() + data.len()) as u32;
        let frame = [&length.to_le_bytes(), header.as_bytes(), gap, data].concat();
        self.socket.write_all(&frame)
    }

    fn fail(&mut self, lease: u64, class: &str, message: &str) -> io::Result<()> {
        let header = serde_json::json!({
            "type": "error", "lease": lease, "class": class, "message": message,
        });
        self.put(&header.to_string(), b"")
    }
}

/// A warm child on the channel `fd`, the number in `OFFLOOP_FD`. Returns when the server is gone.
pub fn warm(fd: RawFd) -> io::Result<()> {
    // SAFETY: the lane opened this descriptor for this process alone, and says its number; nothing
    // else in this program owns it.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    let mut channel = Channel { socket };
    channel.put("{\"type\":\"ready\",\"protocol\":1}", b"")?;
    while let Some(Frame(header, data)) = channel.take()? {
        match header.kind.as_str() {
            "run" => match serde_json::from_slice(&data) {
                Ok(piece) => run(&mut channel, header.lease, piece)?,
                Err(error) => channel.fail(header.lease, "invalid", &error.to_string())?,
            },
            "ping" => channel.put("{\"type\":\"pong\"}", b"")?,
            _ => {} // hello, a cancel of what was answered, and what later versions say
        }
    }
    Ok(())
}

fn run(channel: &mut Channel, lease: u64, piece: Piece) -> io::Result<()> {
    let mut chain = Chain::new(piece);
    loop {
        if let Some(done) = chain.advance(ROUNDS_BETWEEN_LOOKS) {
            let header = format!("{{\"type\":\"result\",\"lease\":{lease}}}");
            return channel.put(&header, &serde_json::to_vec(&done)?);
        }
        while channel.is_readable()? {
            let Some(Frame(header, _)) = channel.take()? else {
                return Ok(()); // nobody is left to answer
            };
            match header.kind.as_str() {
                "cancel" if header.lease == lease => {
                    return channel.fail(lease, "error", "stopped on request");
                }
                "ping" => channel.put("{\"type\":\"pong\"}", b"")?,
                _ => {}
            }
        }
    }
}

/// One piece: the payload on `input`, the result on `output`. SIGTERM ends it, by the system's own
/// rule.
pub fn once(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    input
        .by_ref()
        .take(FRAME_BYTES_MAX as u64)
        .read_to_end(&mut text)?;
    let piece: Piece = serde_json::from_slice(&text)?;
    if let Some(done) = compute(piece, || false) {
        serde_json::to_writer(&mut output, &done)?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd as _;
    use std::thread;

    const RUN: &str = "{\"type\":\"run\",\"lease\":5,\"attempt\":1,\"task\":\"lab.process\"}";

    fn piece(rounds: u64) -> Vec<u8> {
        serde_json::to_vec(&Piece { rounds, seed: 3 }).unwrap()
    }

    fn child() -> (Channel, thread::JoinHandle<io::Result<()>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.into_raw_fd();
        let child = thread::spawn(move || warm(fd));
        let mut channel = Channel { socket: ours };
        assert_eq!(channel.take().unwrap().unwrap().0.kind, "ready");
        (channel, child)
    }

    #[test]
    fn a_child_works_answers_a_ping_meanwhile_and_ends_with_its_server() {
        let (mut channel, child) = child();
        channel.put(RUN, &piece(500)).unwrap();
        let Frame(header, data) = channel.take().unwrap().unwrap();
        assert_eq!((header.kind.as_str(), header.lease), ("result", 5));
        let done: crate::Done = serde_json::from_slice(&data).unwrap();
        let want = compute(serde_json::from_slice(&piece(500)).unwrap(), || false).unwrap();
        assert_eq!((done.checksum, done.rounds), (want.checksum, 500));
        // Without end, so that the ping and the cancel come while it works.
        channel.put(RUN, &piece(u64::MAX)).unwrap();
        channel.put("{\"type\":\"ping\"}", b"").unwrap();
        assert_eq!(channel.take().unwrap().unwrap().0.kind, "pong");
        let other = "{\"type\":\"cancel\",\"lease\":4,\"reason\":\"cancelled\"}";
        channel.put(other, b"").unwrap();
        channel.put(&other.replace('4', "5"), b"").unwrap();
        let Frame(header, _) = channel.take().unwrap().unwrap();
        assert_eq!((header.kind.as_str(), header.lease), ("error", 5));
        drop(channel);
        child.join().unwrap().unwrap();
    }

    #[test]
    fn a_payload_that_is_none_is_told_and_leaves_the_child_well() {
        let (mut channel, child) = child();
        channel.put(RUN, b"{\"rounds\":1}").unwrap();
        assert_eq!(channel.take().unwrap().unwrap().0.kind, "error");
        channel.put(RUN, &piece(1)).unwrap();
        assert_eq!(channel.take().unwrap().unwrap().0.kind, "result");
        drop(channel);
        child.join().unwrap().unwrap();
        assert!(once(&b"[]"[..], Vec::new()).is_err());
    }
}
