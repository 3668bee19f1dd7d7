//! A socket that tells its [`ConnState`] of bytes that come and of writes that do not go, and writes what its
//! route has to say before it answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::state::ConnState;

#[derive(Debug)]
pub(super) struct Watched {
    socket: TcpStream,
    state: Arc<ConnState>,
    /// Nothing was read yet.
    fresh: bool,
    /// The rest of an interim response.
    interim: Bytes,
}

impl Watched {
    pub(super) fn new(socket: TcpStream, state: Arc<ConnState>) -> Self {
        Self {
            socket,
            state,
            fresh: true,
            interim: Bytes::new(),
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.state.write_blocked(),
            Poll::Ready(Ok(bytes)) => self.state.bytes_written(*bytes),
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// What was begun of an interim response goes to its end before anything else.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let result = Pin::new(&mut self.socket).poll_write(cx, &self.interim);
            let written = ready!(self.wrote(result))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        let came = &buf.filled()[before..];
        if !came.is_empty() {
            if self.fresh {
                self.fresh = false;
                // RFC 9113 §3.4: the preface of HTTP/2.
                if came.starts_with(b"PRI ") {
                    self.state.multiplexed.store(true, Ordering::Release);
                }
            }
            self.state.bytes_read();
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// hyper comes here once all that it had to write is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        if let Some(bytes) = self.state.interim.take() {
            self.interim = bytes;
            ready!(self.poll_interim(cx))?;
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
