//! The descriptors of a child: none of them ever waits.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, read, write, writev};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::frame::{Breach, Decoder, FromChild, Outgoing, ToChild};
use crate::lines::{self, LineDecoder};

/// Read at a time.
pub(super) const READ_BYTES: usize = 64 << 10;
/// Read in one turn: a child that prints without end must not hold the others up.
const TURN_BYTES_MAX: usize = 1 << 20;
/// The channel of a warm child.
#[derive(Debug)]
pub(super) struct Channel {
    ends: Ends,
    decoder: Decoding,
    /// What the other side did not take yet.
    pending: VecDeque<Outgoing>,
}

#[derive(Debug)]
enum Ends {
    /// Both ways.
    Socket(OwnedFd),
    /// To the child's standard input, and from its standard output.
    Pipes { to: OwnedFd, from: OwnedFd },
}

#[derive(Debug)]
enum Decoding {
    Frames(Decoder),
    Lines(LineDecoder),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// The rest goes when the other side takes more.
    Partly,
    /// Not a byte: nobody reads.
    Refused,
}

/// What one turn of reading brought.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) messages: VecDeque<FromChild>,
    pub(super) breach: Option<Breach>,
    pub(super) closed: bool,
    pub(super) bytes: u64,
}

impl Channel {
    pub(super) fn frames(socket: OwnedFd) -> Self {
        Self::over(Ends::Socket(socket), Decoding::Frames(Decoder::default()))
    }

    pub(super) fn lines(to: OwnedFd, from: OwnedFd) -> Self {
        // More than the usual 64 KiB where the system allows it.
        let _ = rustix::pipe::fcntl_setpipe_size(&to, READ_BYTES * 16);
        let _ = rustix::pipe::fcntl_setpipe_size(&from, READ_BYTES * 16);
        let decoder = Decoding::Lines(LineDecoder::default());
        Self::over(Ends::Pipes { to, from }, decoder)
    }

    fn over(ends: Ends, decoder: Decoding) -> Self {
        Self {
            ends,
            decoder,
            pending: VecDeque::new(),
        }
    }

    pub(super) fn reader(&self) -> &OwnedFd {
        match &self.ends {
            Ends::Socket(fd) | Ends::Pipes { from: fd, .. } => fd,
        }
    }

    pub(super) fn writer(&self) -> &OwnedFd {
        match &self.ends {
            Ends::Socket(fd) | Ends::Pipes { to: fd, .. } => fd,
        }
    }

    /// One descriptor for both ways.
    pub(super) const fn is_socket(&self) -> bool {
        matches!(self.ends, Ends::Socket(_))
    }

    /// `payload`: of a message that has one.
    pub(super) fn send(&mut self, message: &ToChild<'_>, payload: Option<&Bytes>) -> Sent {
        let mut outgoing = match self.decoder {
            Decoding::Frames(_) => message.encode(payload.cloned().unwrap_or_default()),
            Decoding::Lines(_) => lines::encode(message, payload),
        };
        if !self.pending.is_empty() {
            self.pending.push_back(outgoing);
            return Sent::Partly;
        }
        match self.write(&mut outgoing) {
            Ok(true) => Sent::Whole,
            Ok(false) => {
                self.pending.push_back(outgoing);
                Sent::Partly
            }
            Err(_) => Sent::Refused,
        }
    }

    /// Sends on. True: all is sent. An error shows as the end of the child.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(mut outgoing) = self.pending.pop_front() {
            if let Ok(false) = self.write(&mut outgoing) {
                self.pending.push_front(outgoing);
                return false;
            }
        }
        true
    }

    /// True: the whole message is sent.
    fn write(&self, outgoing: &mut Outgoing) -> Result<bool, Errno> {
        while outgoing.sent < outgoing.len() {
            let (head, data) = outgoing.rest();
            let parts = [IoSlice::new(head), IoSlice::new(data)];
            let wrote = match &self.ends {
                Ends::Socket(fd) => {
                    let mut none = SendAncillaryBuffer::default();
                    sendmsg(fd, &parts, &mut none, SendFlags::NOSIGNAL)
                }
                Ends::Pipes { to, .. } => writev(to, &parts),
            };
            match wrote {
                Ok(count) => outgoing.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(_) if outgoing.sent > 0 => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what is there.
    pub(super) fn hear(&mut self, buffer: &mut [u8]) -> Heard {
        let mut heard = Heard::default();
        while heard.bytes < TURN_BYTES_MAX as u64 && heard.breach.is_none() {
            let (ends, decoder) = (&self.ends, &mut self.decoder);
            let (Ends::Socket(fd) | Ends::Pipes { from: fd, .. }) = ends;
            let direct = match decoder {
                Decoding::Frames(frames) => frames.rest_of_large(),
                Decoding::Lines(_) => None,
            };
            let (room, got) = match direct {
                Some(held) => {
                    let room = held.capacity() - held.len();
                    (
                        room,
                        read(fd, spare_capacity(held)).map(|count| (count, true)),
                    )
                }
                None => (buffer.len(), read(fd, &mut *buffer).map(|n| (n, false))),
            };
            match got {
                Ok((0, _)) => {
                    heard.closed = true;
                    break;
                }
                Ok((count, direct)) => {
                    heard.bytes += count as u64;
                    let decoded = match decoder {
                        Decoding::Frames(frames) if direct => frames.take(&mut heard.messages),
                        Decoding::Frames(frames) => {
                            frames.push(&buffer[..count], &mut heard.messages)
                        }
                        Decoding::Lines(lines) => lines.push(&buffer[..count], &mut heard.messages),
                    };
                    heard.breach = decoded.err();
                    if count < room {
                        break; // most likely empty now; the poll says if not
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    heard.closed = true;
                    break;
                }
            }
        }
        heard
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
