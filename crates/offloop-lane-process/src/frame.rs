//! Frames between the lane and a warm child; the page for writers of children is
//! docs/guides/process-protocol.md.
//!
//! A frame is a length (u32, little endian), then as many bytes: a JSON object, and if data follows
//! a newline and the data. Payloads and results travel as data, so that nobody has to parse or
//! escape them on the way.

use std::collections::VecDeque;

use bytes::Bytes;
use offloop_job::Lease;
use offloop_job::limits::RESULT_BYTES_MAX;
use offloop_lane::Work;
use serde::{Deserialize, Serialize};

pub const PROTOCOL_VERSION: u32 = 1;
/// A frame's bytes after its length: a result at its limit, and its header with room to spare.
pub const FRAME_BYTES_MAX: usize = 2 * RESULT_BYTES_MAX;

/// What the lane says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ToChild<'a> {
    Hello {
        protocol: u32,
        task: &'a str,
    },
    Run {
        job: &'a str,
        lease: u64,
        attempt: u16,
        task: &'a str,
        remaining_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace: Option<&'a str>,
    },
    Cancel {
        lease: u64,
        reason: &'a str,
    },
    Ping,
}

impl ToChild<'_> {
    /// The frame as it goes on the wire.
    pub(crate) fn encode(&self, data: &[u8]) -> Vec<u8> {
        let header = serde_json::to_vec(self).unwrap_or_default(); // plain strings and numbers
        let newline = usize::from(!data.is_empty());
        let len = header.len() + newline + data.len();
        let mut frame = Vec::with_capacity(4 + len);
        frame.extend_from_slice(&(len as u32).to_le_bytes());
        frame.extend_from_slice(&header);
        if newline == 1 {
            frame.push(b'\n');
            frame.extend_from_slice(data);
        }
        frame
    }
}

pub(crate) fn run_frame(work: &Work) -> Vec<u8> {
    let mut text = [0; 36];
    let header = ToChild::Run {
        job: work.job.encode(&mut text),
        lease: work.lease.0,
        attempt: work.attempt,
        task: work.task.as_str(),
        remaining_ms: u64::try_from(work.limits.timeout.as_millis()).unwrap_or(u64::MAX),
        trace: work.trace.as_deref(),
    };
    header.encode(&work.payload)
}

/// What a child says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromChild {
    Ready,
    Progress {
        lease: Lease,
        note: Bytes,
    },
    Result {
        lease: Lease,
        result: Bytes,
    },
    Error {
        lease: Lease,
        invalid: bool,
        message: String,
    },
    Pong,
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "type")]
    kind: String,
    protocol: Option<u32>,
    lease: Option<u64>,
    message: Option<String>,
    class: Option<String>,
}

/// How a child broke the protocol. It is ended for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("sent a frame of {len} bytes; the limit is {FRAME_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("sent a frame whose header is not what the protocol asks for: {0}")]
    Header(String),
    #[error("speaks protocol {theirs}; this server speaks {PROTOCOL_VERSION}")]
    Version { theirs: u32 },
    #[error("sent `{0}` when nothing of the kind was awaited")]
    Unexpected(&'static str),
    #[error("answered for lease {theirs}, and runs lease {ours}")]
    OtherLease { theirs: Lease, ours: Lease },
    #[error("was not ready within its start timeout")]
    NotReady,
    #[error("did not answer a ping")]
    Silent,
    #[error("closed its side of the channel")]
    Closed,
}

/// Puts frames together from what was read.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Takes what was read; adds the frames that are complete.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        frames: &mut VecDeque<FromChild>,
    ) -> Result<(), Breach> {
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(prefix) = self.held.get(at..at + 4) {
            let len = u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(Breach::TooLong { len });
            }
            let Some(body) = self.held.get(at + 4..at + 4 + len) else {
                break;
            };
            frames.push_back(parse(body)?);
            at += 4 + len;
        }
        self.held.drain(..at);
        if self.held.is_empty() && self.held.capacity() > 64 << 10 {
            self.held = Vec::new(); // one large result must not stay with each child for ever
        }
        Ok(())
    }
}

fn parse(body: &[u8]) -> Result<FromChild, Breach> {
    let cut = body.iter().position(|byte| *byte == b'\n');
    let (header, data) = match cut {
        Some(at) => (&body[..at], &body[at + 1..]),
        None => (body, &[][..]),
    };
    let bad = |why: String| Breach::Header(why);
    let header: Header = serde_json::from_slice(header).map_err(|e| bad(e.to_string()))?;
    let lease = || {
        header
            .lease
            .map(Lease)
            .ok_or_else(|| bad("no `lease`".into()))
    };
    let data = Bytes::copy_from_slice(data);
    match header.kind.as_str() {
        "ready" => match header.protocol.unwrap_or(PROTOCOL_VERSION) {
            PROTOCOL_VERSION => Ok(FromChild::Ready),
            theirs => Err(Breach::Version { theirs }),
        },
        "progress" => Ok(FromChild::Progress {
            lease: lease()?,
            note: data,
        }),
        "result" => Ok(FromChild::Result {
            lease: lease()?,
            result: data,
        }),
        "error" => Ok(FromChild::Error {
            lease: lease()?,
            invalid: header.class.as_deref() == Some("invalid"),
            message: header.message.unwrap_or_default(),
        }),
        "pong" => Ok(FromChild::Pong),
        other => Err(bad(format!("unknown type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_le_bytes()[..], body].concat()
    }

    #[test]
    fn frames_that_arrive_in_any_pieces_are_the_same_frames() {
        let wire = [
            frame(b"{\"type\":\"ready\",\"protocol\":1,\"tasks\":[\"x\"]}"),
            frame(b"{\"type\":\"result\",\"lease\":7}\n{\"a\":\n1}"),
            frame(b"{\"type\":\"error\",\"lease\":8,\"class\":\"invalid\",\"message\":\"no\"}"),
        ]
        .concat();
        let want = [
            FromChild::Ready,
            FromChild::Result {
                lease: Lease(7),
                result: Bytes::from_static(b"{\"a\":\n1}"),
            },
            FromChild::Error {
                lease: Lease(8),
                invalid: true,
                message: "no".into(),
            },
        ];
        for piece in 1..wire.len() {
            let (mut decoder, mut frames) = (Decoder::default(), VecDeque::new());
            for part in wire.chunks(piece) {
                decoder.push(part, &mut frames).unwrap();
            }
            assert!(frames.iter().eq(want.iter()), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_kept() {
        let rows: [(&[u8], &str); 6] = [
            (b"\xff\xff\xff\xff", "4294967295 bytes"),
            (&frame(b"garbage"), "header"),
            (&frame(b""), "header"),
            (&frame(b"{\"type\":\"dance\"}"), "dance"),
            (&frame(b"{\"type\":\"result\"}"), "lease"),
            (&frame(b"{\"type\":\"ready\",\"protocol\":9}"), "protocol 9"),
        ];
        for (wire, says) in rows {
            let error = Decoder::default()
                .push(wire, &mut VecDeque::new())
                .unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
