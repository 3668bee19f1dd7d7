//! The descriptors of a child: none of them ever waits.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::io::{Errno, read, write};
use rustix::net::{SendFlags, send};

use crate::frame::Decoder;

/// Read at a time.
pub(super) const READ_BYTES: usize = 64 << 10;
/// Read in one turn: a child that prints without end must not hold the others up.
const TURN_BYTES_MAX: usize = 1 << 20;

/// The framed channel of a warm child.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) fd: OwnedFd,
    pub(super) decoder: Decoder,
    /// What the socket did not take.
    pending: Vec<u8>,
    sent: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// The rest goes when the socket takes more.
    Partly,
    /// Not a byte: nobody reads.
    Refused,
}

impl Channel {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            decoder: Decoder::default(),
            pending: Vec::new(),
            sent: 0,
        }
    }

    pub(super) fn send(&mut self, frame: Vec<u8>) -> Sent {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(&frame);
            return Sent::Partly;
        }
        match self.write(&frame) {
            Ok(taken) if taken == frame.len() => Sent::Whole,
            Ok(taken) => {
                self.pending = frame;
                self.sent = taken;
                Sent::Partly
            }
            Err(_) => Sent::Refused,
        }
    }

    /// Sends on. True: all is sent. An error shows as the end of the child.
    pub(super) fn flush(&mut self) -> bool {
        let rest = self.pending.split_off(self.sent);
        self.pending.clear();
        self.sent = 0;
        match self.write(&rest) {
            Ok(taken) if taken < rest.len() => {
                self.pending = rest;
                self.sent = taken;
                false
            }
            _ => true,
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut taken = 0;
        while taken < bytes.len() {
            match send(&self.fd, &bytes[taken..], SendFlags::NOSIGNAL) {
                Ok(count) => taken += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) if taken > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }
}

/// Standard input of a command.
#[derive(Debug)]
pub(super) struct Stdin {
    pub(super) fd: OwnedFd,
    data: Bytes,
}

impl Stdin {
    pub(super) fn new(fd: OwnedFd, data: Bytes) -> Self {
        Self { fd, data }
    }

    /// True: all is written, or nobody reads; close it.
    pub(super) fn pump(&mut self) -> bool {
        while !self.data.is_empty() {
            match write(&self.fd, &self.data) {
                Ok(count) => drop(self.data.split_to(count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
        true
    }
}

/// Reads what is there. True: the other side is closed.
pub(super) fn read_some(
    fd: &OwnedFd,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<bool> {
    let mut total = 0;
    while total < TURN_BYTES_MAX {
        match read(fd, &mut *buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                take(&buffer[..count]);
                total += count;
                if count < buffer.len() {
                    break; // most likely empty now; the poll says if not
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
