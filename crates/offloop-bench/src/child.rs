//! Programs that campaigns and benches hand to the lanes as jobs: this binary is a task, too.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::Context;

use crate::campaign;

#[derive(clap::Subcommand)]
pub(crate) enum Child {
    /// Prints so many bytes over so many milliseconds
    Talk { bytes: u64, over_ms: u64 },
    /// Speaks the protocol of warm children and answers each job with its payload
    Echo,
    /// Speaks the protocol and never ends a job
    Spin,
    /// Speaks the protocol and ends a job when it is asked to stop
    Wait,
    /// Is a worker elsewhere: server, task, and where its marks and the answers to it go
    Pull {
        server: SocketAddr,
        task: String,
        marks: PathBuf,
        answers: PathBuf,
    },
}

impl Child {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Talk { bytes, over_ms } => campaign::talk(*bytes, *over_ms),
            Self::Echo => serve(Way::Echo),
            Self::Spin => serve(Way::Spin),
            Self::Wait => serve(Way::Wait),
            Self::Pull {
                server,
                task,
                marks,
                answers,
            } => campaign::work(*server, task, marks, answers),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Echo,
    Spin,
    Wait,
}

/// docs/guides/process-protocol.md, no more of it than an echo needs.
fn serve(way: Way) -> anyhow::Result<()> {
    let mut channel = channel();
    send(&mut channel, br#"{"type":"ready","protocol":1}"#, None)?;
    let mut frame = Vec::new();
    loop {
        let mut length = [0; 4];
        if channel.read_exact(&mut length).is_err() {
            return Ok(()); // the server is gone
        }
        frame.resize(u32::from_le_bytes(length) as usize, 0);
        channel.read_exact(&mut frame)?;
        let cut = memchr::memchr(b'\n', &frame).unwrap_or(frame.len());
        let (header, payload) = (&frame[..cut], frame.get(cut + 1..));
        if memchr::memmem::find(header, br#""type":"ping""#).is_some() {
            send(&mut channel, br#"{"type":"pong"}"#, None)?;
        }
        let kind = match way {
            Way::Wait => &br#""type":"cancel""#[..],
            Way::Echo | Way::Spin => br#""type":"run""#,
        };
        if memchr::memmem::find(header, kind).is_none() {
            continue;
        }
        if way == Way::Spin {
            loop {
                std::hint::spin_loop();
            }
        }
        let at = memchr::memmem::find(header, br#""lease":"#).context("a run without a lease")?;
        let digits = &header[at + br#""lease":"#.len()..];
        let end = digits.iter().position(|byte| !byte.is_ascii_digit());
        let lease = &digits[..end.unwrap_or(digits.len())];
        let (kind, rest) = match way {
            Way::Wait => (&b"error"[..], &br#","message":"asked"}"#[..]),
            Way::Echo | Way::Spin => (&b"result"[..], &b"}"[..]),
        };
        let answer = [br#"{"type":""#, kind, br#"","lease":"#, lease, rest].concat();
        send(&mut channel, &answer, payload)?;
    }
}

#[expect(unsafe_code, reason = "the channel arrives as a descriptor number")]
fn channel() -> UnixStream {
    // SAFETY: descriptor 3 is the channel, given to this process and owned by nobody else in it.
    unsafe { OwnedFd::from_raw_fd(3) }.into()
}

fn send(channel: &mut UnixStream, header: &[u8], data: Option<&[u8]>) -> anyhow::Result<()> {
    let length = header.len() + data.map_or(0, |data| data.len() + 1);
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&(length as u32).to_le_bytes());
    frame.extend_from_slice(header);
    if let Some(data) = data {
        frame.push(b'\n');
        frame.extend_from_slice(data);
    }
    channel.write_all(&frame)?;
    Ok(())
}
