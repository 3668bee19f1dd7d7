//! Pieces of an input on their way into a load: a queue of one piece, so that a slow sink is felt
//! where the bytes come from, and hundreds of loads that wait hold little.
//!
//! Must never: take a feed that was dropped for one that ended.

use bytes::Bytes;
use tokio::sync::mpsc;

/// A longer piece is taken in parts of this size.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
const PIECES_MAX: usize = 1;

/// A feed and the intake it leads to.
pub fn feed() -> (Feed, Intake) {
    let (to, from) = mpsc::channel(PIECES_MAX);
    (Feed { to }, Intake { from })
}

#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// All of the input was fed.
    End,
    /// No more comes, and why.
    Cut(String),
}

/// Where an input's bytes are put. Dropped without [`Feed::end`], the load is cut short: what is
/// complete is stored, and the load can be taken up again.
#[derive(Debug)]
pub struct Feed {
    to: mpsc::Sender<Piece>,
}

/// The load has ended, and wants no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the load has ended")]
pub struct Ended;

impl Feed {
    /// Waits until a piece would be taken at once. Whoever takes bytes from a socket asks first:
    /// then what waits is with the sender, not here.
    pub async fn ready(&self) -> Result<(), Ended> {
        self.to.reserve().await.map(drop).map_err(|_| Ended)
    }

    /// Waits while the load is behind: do not read on meanwhile.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
            self.to.send(Piece::Bytes(part)).await.map_err(|_| Ended)?;
        }
        Ok(())
    }

    /// The same from a thread that is not a runtime's.
    pub fn send_blocking(&self, mut bytes: Bytes) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
            self.to
                .blocking_send(Piece::Bytes(part))
                .map_err(|_| Ended)?;
        }
        Ok(())
    }

    /// The input is whole.
    pub async fn end(self) -> Result<(), Ended> {
        self.to.send(Piece::End).await.map_err(|_| Ended)
    }

    /// The same from a thread that is not a runtime's.
    pub fn end_blocking(self) -> Result<(), Ended> {
        self.to.blocking_send(Piece::End).map_err(|_| Ended)
    }

    /// Nothing more comes, and why: a deadline, a connection that broke.
    pub async fn cut(self, reason: impl Into<String>) {
        let _ended = self.to.send(Piece::Cut(reason.into())).await;
    }
}

/// The load's end of a [`Feed`].
#[derive(Debug)]
pub struct Intake {
    from: mpsc::Receiver<Piece>,
}

impl Intake {
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Piece {
        match self.from.recv().await {
            Some(piece) => piece,
            None => Piece::Cut("the sender left".into()),
        }
    }
}
