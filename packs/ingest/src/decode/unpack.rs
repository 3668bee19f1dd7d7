//! gzip and zstd in push mode. A step unfolds one slice at most, whatever the input would give.
//!
//! Must never: allocate by what the data says (zstd windows over 8 MiB are refused, the size that
//! RFC 8878 asks decoders to support), or let a damaged or cut stream end as if it were whole.

use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{DecodeError, SLICE};

const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How bytes are packed, once it is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Plain,
    Gzip,
    Zstd,
}

pub(super) enum Unpack {
    Plain,
    Gzip {
        state: Decompress,
        place: Place,
        scratch: Vec<u8>,
    },
    Zstd {
        state: DCtx<'static>,
        place: Place,
        scratch: Vec<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing was read.
    Start,
    /// In a member or frame.
    Inside,
    /// Behind a whole one.
    Between,
    /// In zeros behind the last gzip member.
    Padding,
}

impl std::fmt::Debug for Unpack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Gzip { .. } => "Gzip",
            Self::Zstd { .. } => "Zstd",
        })
    }
}

impl Unpack {
    pub(super) fn new(kind: Kind) -> Self {
        let (place, scratch) = (Place::Start, vec![0; SLICE]);
        match kind {
            Kind::Plain => Self::Plain,
            Kind::Gzip => Self::Gzip {
                state: Decompress::new_gzip(15),
                place,
                scratch,
            },
            Kind::Zstd => Self::Zstd {
                state: DCtx::create(),
                place,
                scratch,
            },
        }
    }

    pub(super) fn is_packed(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Bytes used, and what they unfold to (`None`: themselves). `at`: bytes used before.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        at: u64,
    ) -> Result<(usize, Option<&[u8]>), DecodeError> {
        let (used, made, scratch) = match self {
            Self::Plain => return Ok((input.len(), None)),
            Self::Gzip {
                state,
                place,
                scratch,
            } => {
                let (used, made) = gzip_step(state, place, scratch, input, at)?;
                (used, made, scratch)
            }
            Self::Zstd {
                state,
                place,
                scratch,
            } => {
                let (used, made) = zstd_step(state, place, scratch, input, at)?;
                (used, made, scratch)
            }
        };
        Ok((used, Some(&scratch[..made])))
    }

    /// Nothing follows.
    pub(super) fn finish(&self, at: u64) -> Result<(), DecodeError> {
        let (format, place) = match self {
            Self::Plain => return Ok(()),
            Self::Gzip { place, .. } => ("gzip", place),
            Self::Zstd { place, .. } => ("zstd", place),
        };
        if matches!(place, Place::Start | Place::Inside) {
            return Err(DecodeError::Truncated { format, at });
        }
        Ok(())
    }
}

fn gzip_step(
    state: &mut Decompress,
    place: &mut Place,
    scratch: &mut [u8],
    input: &[u8],
    at: u64,
) -> Result<(usize, usize), DecodeError> {
    let mut used = 0;
    if matches!(place, Place::Between | Place::Padding) {
        while input.get(used) == Some(&0) {
            *place = Place::Padding;
            used += 1;
        }
        match input.get(used) {
            None => return Ok((used, 0)),
            Some(0x1f) if *place == Place::Between => {
                *state = Decompress::new_gzip(15);
                *place = Place::Inside;
            }
            Some(_) => {
                return Err(DecodeError::TrailingGarbage {
                    at: at + used as u64,
                });
            }
        }
    }
    if input.len() > used {
        *place = Place::Inside;
    }
    let (before_in, before_out) = (state.total_in(), state.total_out());
    let status = state
        .decompress(&input[used..], scratch, FlushDecompress::None)
        .map_err(|error| DecodeError::Damaged {
            format: "gzip",
            at: at + (state.total_in() - before_in),
            cause: error.message().unwrap_or("not what gzip writes").to_owned(),
        })?;
    if status == Status::StreamEnd {
        *place = Place::Between;
    }
    used += (state.total_in() - before_in) as usize;
    Ok((used, (state.total_out() - before_out) as usize))
}

fn zstd_step(
    state: &mut DCtx<'static>,
    place: &mut Place,
    scratch: &mut [u8],
    input: &[u8],
    at: u64,
) -> Result<(usize, usize), DecodeError> {
    let damaged = |code, used: usize| DecodeError::Damaged {
        format: "zstd",
        at: at + used as u64,
        cause: zstd_safe::get_error_name(code).to_owned(),
    };
    if *place == Place::Start {
        state
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
            .map_err(|code| damaged(code, 0))?;
    }
    // Between frames nothing can be pending, and zstd would take "no input" for a new frame.
    if input.is_empty() && *place != Place::Inside {
        return Ok((0, 0));
    }
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(scratch);
    let hint = state
        .decompress_stream(&mut to, &mut from)
        .map_err(|code| damaged(code, from.pos()))?;
    *place = if hint == 0 {
        Place::Between
    } else {
        Place::Inside
    };
    Ok((from.pos(), to.pos()))
}
