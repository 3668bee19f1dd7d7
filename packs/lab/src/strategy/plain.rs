//! What tokio alone offers.

use offloop::http::Refusal;

use super::{Answer, Ask, Strategy};
use crate::work::{Chain, Pace, compute};

/// Between two yields, milliseconds of processor time.
const CHUNK_MS: u32 = 1;

/// In the handler. Nobody else is served meanwhile, and a client that hangs up changes nothing: the
/// loop that would notice it is busy.
pub(super) struct Inline;

impl Strategy for Inline {
    fn run(&self, ask: Ask) -> Answer {
        Box::pin(async move { compute(ask.piece, || false).ok_or_else(ended) })
    }
}

/// In the handler, with a yield after each millisecond. Stops at the next yield when the client
/// hangs up. With n of them under way, everyone else waits for n milliseconds.
pub(super) struct Chunked {
    pub(super) pace: Pace,
}

impl Strategy for Chunked {
    fn run(&self, ask: Ask) -> Answer {
        let chunk = self.pace.piece(CHUNK_MS, 0).rounds;
        Box::pin(async move {
            let mut chain = Chain::new(ask.piece);
            loop {
                if let Some(done) = chain.advance(chunk) {
                    return Ok(done);
                }
                tokio::task::yield_now().await;
            }
        })
    }
}

/// On one of up to 512 threads, behind an endless line. A client that hangs up changes nothing:
/// what is begun, and what is in line, is done to its end.
pub(super) struct SpawnBlocking;

impl Strategy for SpawnBlocking {
    #[expect(
        clippy::disallowed_methods,
        reason = "the lab measures what it does to a loop"
    )]
    fn run(&self, ask: Ask) -> Answer {
        let work = tokio::task::spawn_blocking(move || compute(ask.piece, || false));
        Box::pin(async move { work.await.ok().flatten().ok_or_else(ended) })
    }
}

fn ended() -> Refusal {
    Refusal::unavailable("the work ended before its end")
}
