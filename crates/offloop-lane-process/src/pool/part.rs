//! The descriptors of children in the poll set, and what is taken off them.

use std::os::fd::{AsFd, OwnedFd};

use offloop_job::limits::RESULT_BYTES_MAX;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::Shared;
use super::channel::{Channel, read_some};
use super::child::Child;

/// The descriptors of a child, as the low bits of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Channel = 0,
    Stdout = 1,
    Stderr = 2,
    Stdin = 3,
    Death = 4,
}

impl Part {
    pub(super) const ALL: [Self; 5] = [
        Self::Channel,
        Self::Stdout,
        Self::Stderr,
        Self::Stdin,
        Self::Death,
    ];

    pub(super) const fn token(self, number: u64) -> u64 {
        number << 3 | self as u64
    }

    pub(super) fn of(token: u64) -> (u64, Option<Self>) {
        (token >> 3, Self::ALL.get((token & 7) as usize).copied())
    }
}

impl Shared {
    pub(super) fn watch(&self, fd: &impl AsFd, token: u64, flags: EventFlags) {
        if let Some(epoll) = self.epoll.get() {
            let _ = epoll::add(epoll, fd, EventData::new_u64(token), flags);
        }
    }

    /// Looks, or no longer looks, for room on the way to a child.
    pub(super) fn watch_room(&self, channel: &Channel, number: u64, wanted: bool) {
        let Some(epoll) = self.epoll.get() else {
            return;
        };
        let fd = channel.writer();
        if channel.is_socket() {
            let data = EventData::new_u64(Part::Channel.token(number));
            let flags = if wanted {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            let _ = epoll::modify(epoll, fd, data, flags);
        } else if wanted {
            let data = EventData::new_u64(Part::Stdin.token(number));
            let _ = epoll::add(epoll, fd, data, EventFlags::OUT);
        } else {
            let _ = epoll::delete(epoll, fd);
        }
    }
}

/// Takes what a child printed, so that it never waits for a reader.
pub(super) fn drain(child: &mut Child, part: Part, buffer: &mut [u8]) {
    let fd: Option<OwnedFd> = match part {
        Part::Stdout => child.stdout.take(),
        Part::Stderr => child.stderr.take(),
        Part::Channel | Part::Stdin | Part::Death => None,
    };
    let Some(fd) = fd else { return };
    let capture = part == Part::Stdout && child.captures;
    let (log, said, live) = (&mut child.log, &mut child.said, &mut child.live);
    let (printed, cut) = (&mut child.printed, &mut child.printed_cut);
    let mut total = 0;
    let read = read_some(&fd, buffer, |bytes| {
        total += bytes.len() as u64;
        log.push(bytes);
        if live.listened {
            live.printed.extend_from_slice(bytes);
        }
        if capture {
            let room = RESULT_BYTES_MAX - printed.len();
            *cut |= bytes.len() > room;
            printed.extend_from_slice(&bytes[..room.min(bytes.len())]);
        } else {
            said.push(bytes);
        }
    });
    if let Some(flight) = child.flight.as_mut() {
        flight.printed_bytes += total;
    }
    if !read.unwrap_or(true) {
        match part {
            Part::Stdout => child.stdout = Some(fd),
            _ => child.stderr = Some(fd),
        }
    }
}
