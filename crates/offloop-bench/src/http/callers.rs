//! Many callers that each send one request, wait for its answer, and send the next, on one thread.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::conn::whole;
use super::server::Server;

struct Caller {
    socket: TcpStream,
    buf: Vec<u8>,
    sent_at: Instant,
}

/// Callers with open connections.
pub(super) struct Callers {
    callers: Vec<Caller>,
    poll: rustix::fd::OwnedFd,
}

/// What came of one run.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) took: Duration,
    /// From the send to the whole answer, each.
    pub(super) waits: Vec<Duration>,
}

impl Callers {
    pub(super) fn connect(server: &Server, callers: usize) -> anyhow::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut found = Vec::new();
        for at in 0..callers {
            let socket = TcpStream::connect(server.address)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(at as u64);
            epoll::add(&poll, &socket, data, epoll::EventFlags::IN)?;
            found.push(Caller {
                socket,
                buf: Vec::with_capacity(4 << 10),
                sent_at: Instant::now(),
            });
        }
        Ok(Self {
            callers: found,
            poll,
        })
    }

    /// `jobs` requests in all, each answered with `status`.
    pub(super) fn call(
        &mut self,
        request: &[u8],
        jobs: usize,
        status: u16,
    ) -> anyhow::Result<Called> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(self.callers.len());
        let mut waits = Vec::with_capacity(jobs);
        let began = Instant::now();
        let mut sent = self.callers.len().min(jobs);
        for caller in &mut self.callers[..sent] {
            caller.send(request)?;
        }
        while waits.len() < jobs {
            events.clear();
            epoll::wait(&self.poll, spare_capacity(&mut events), None)?;
            for event in &events {
                let caller = &mut self.callers[event.data.u64() as usize];
                let Some(found) = caller.take()? else {
                    continue;
                };
                ensure!(found == status, "answer {found} instead of {status}");
                waits.push(caller.sent_at.elapsed());
                if sent < jobs {
                    sent += 1;
                    caller.send(request)?;
                }
            }
        }
        Ok(Called {
            took: began.elapsed(),
            waits,
        })
    }
}

impl Caller {
    fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.sent_at = Instant::now();
        let written = self.socket.write(request)?;
        ensure!(written == request.len(), "the socket took half a request");
        Ok(())
    }

    /// The status of an answer that has come whole.
    fn take(&mut self) -> anyhow::Result<Option<u16>> {
        let mut piece = [0; 4 << 10];
        let read = self.socket.read(&mut piece)?;
        ensure!(read > 0, "the server closed the connection");
        if self.buf.is_empty()
            && let Some((status, len)) = whole(&piece[..read])?
        {
            ensure!(len == read, "more than an answer");
            return Ok(Some(status));
        }
        self.buf.extend_from_slice(&piece[..read]);
        let Some((status, _)) = whole(&self.buf)? else {
            return Ok(None);
        };
        self.buf.clear();
        Ok(Some(status))
    }
}
