//! What is kept of a body while it comes: counted, hashed, held or written, and within its limit.
//!
//! Must never: take more than the limit, or keep the body of a failure as if it were what was asked for.

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use crate::call::Keep;
use crate::conn::Broken;
use crate::draft::{Draft, DraftError, Drafts, Writing};

/// Believed of a promised length before its bytes have come.
const PROMISED_BYTES_MAX: u64 = 64 << 10;

/// How bodies are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping<'a> {
    pub(crate) keep: Keep,
    pub(crate) bytes_max: u64,
    /// Where files are.
    pub(crate) drafts: Option<&'a Drafts>,
}

/// A body that comes.
pub(crate) struct Arriving {
    held: Option<BytesMut>,
    digest: Option<Sha256>,
    /// On the heap, as what it waits for: each call that is under way has room for this.
    writing: Option<Box<Writing>>,
    len: u64,
    bytes_max: u64,
}

/// A body that has come.
pub(crate) struct Arrived {
    pub(crate) held: Bytes,
    pub(crate) len: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) draft: Option<Draft>,
}

impl Arriving {
    /// `promised`: bytes that are to come, as far as the head says.
    pub(crate) fn new(keeping: Keeping<'_>, status: u16, promised: u64) -> Result<Self, Broken> {
        let Keeping {
            keep,
            bytes_max,
            drafts,
        } = keeping;
        if promised > bytes_max {
            return Err(Broken::TooLarge);
        }
        // The page of an error is nobody's file.
        let keep = match keep {
            Keep::File if !matches!(status, 200..=299) => Keep::Nothing,
            keep => keep,
        };
        let writing = match (keep, drafts) {
            (Keep::File, Some(drafts)) => Some(Box::new(drafts.begin())),
            (Keep::File, None) => {
                return Err(Broken::Storage("there is no folder for bodies".into()));
            }
            _ => None,
        };
        let most = promised.min(PROMISED_BYTES_MAX) as usize;
        Ok(Self {
            held: (keep == Keep::Bytes).then(|| BytesMut::with_capacity(most)),
            digest: (keep != Keep::Nothing).then(Sha256::new),
            writing,
            len: 0,
            bytes_max,
        })
    }

    pub(crate) async fn push(&mut self, data: &Bytes) -> Result<(), Broken> {
        self.len += data.len() as u64;
        if self.len > self.bytes_max {
            return Err(Broken::TooLarge);
        }
        if let Some(digest) = &mut self.digest {
            digest.update(data);
        }
        if let Some(held) = &mut self.held {
            held.extend_from_slice(data);
        }
        if let Some(writing) = &mut self.writing {
            Box::pin(writing.push(data)).await.map_err(of_draft)?;
        }
        Ok(())
    }

    pub(crate) async fn finish(self) -> Result<Arrived, Broken> {
        let draft = match self.writing {
            Some(writing) => Some(Box::pin(writing.finish()).await.map_err(of_draft)?),
            None => None,
        };
        Ok(Arrived {
            held: self.held.map(BytesMut::freeze).unwrap_or_default(),
            len: self.len,
            sha256: self.digest.map(|digest| digest.finalize().into()),
            draft,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn of_draft(error: DraftError) -> Broken {
    Broken::Storage(error.to_string())
}
