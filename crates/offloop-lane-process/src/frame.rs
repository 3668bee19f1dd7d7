//! Frames between the lane and a warm child; the page for writers of children is
//! docs/guides/process-protocol.md.
//!
//! A frame is a length (u32, little endian), then as many bytes: a JSON object, and if data follows
//! a newline and the data. Payloads and results travel as data, so that nobody has to parse or
//! escape them on the way. `lines` is the other way to say the same.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::limits::RESULT_BYTES_MAX;
use offloop_job::{FailureClass, Input, JobState, Lease};
use offloop_lane::Work;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub const PROTOCOL_VERSION: u32 = 1;
/// What this server understands beyond the first version; told in `hello`, so that a child knows
/// before it relies on it.
pub(crate) const FEATURES: [&str; 3] = ["checkpoint", "partial", "snooze"];
/// A frame's bytes after its length: a result at its limit, and its header with room to spare.
pub const FRAME_BYTES_MAX: usize = 2 * RESULT_BYTES_MAX;
/// A frame that misses more is read to where it stays.
const DIRECT_BYTES: usize = 64 << 10;

/// What the lane says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ToChild<'a> {
    Hello {
        protocol: u32,
        task: &'a str,
        features: [&'static str; 3],
    },
    Run {
        job: &'a str,
        lease: u64,
        attempt: u16,
        task: &'a str,
        remaining_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace: Option<&'a str>,
        /// What an earlier attempt left.
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoint: Option<&'a RawValue>,
        /// What became of the jobs that it waited for.
        #[serde(skip_serializing_if = "<[Sent]>::is_empty")]
        inputs: &'a [Sent],
    },
    #[serde(rename = "checkpoint_ack")]
    CheckpointAck {
        lease: u64,
        number: u64,
        kept: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    },
    Cancel {
        lease: u64,
        reason: &'a str,
    },
    Ping,
}

/// One job that was waited for, as a child reads it.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    id: String,
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    /// JSON text is JSON here too; anything else is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    omitted: bool,
}

impl From<&Input> for Sent {
    fn from(input: &Input) -> Self {
        let result = input.result.as_ref().and_then(|result| {
            let text = on_one_line(result);
            let raw = RawValue::from_string(text.clone().into_owned());
            raw.or_else(|_| serde_json::value::to_raw_value(&text)).ok()
        });
        Self {
            id: input.id.to_string(),
            state: input.state.map(JobState::as_str),
            class: input.class.map(FailureClass::as_str),
            result,
            omitted: input.omitted,
        }
    }
}

/// A message as it goes on the wire: what was made for it, and a payload that is not copied.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) head: Vec<u8>,
    pub(crate) data: Bytes,
    /// Of both together, what the channel took already.
    pub(crate) sent: usize,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.data.len()
    }

    /// What is still to be sent.
    pub(crate) fn rest(&self) -> (&[u8], &[u8]) {
        let head = self.head.get(self.sent..).unwrap_or_default();
        let in_data = self.sent.saturating_sub(self.head.len());
        (head, self.data.get(in_data..).unwrap_or_default())
    }
}

impl ToChild<'_> {
    pub(crate) fn header(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default() // plain strings and numbers
    }

    /// The frame of this message.
    pub(crate) fn encode(&self, data: Bytes) -> Outgoing {
        let mut head = Vec::with_capacity(256);
        head.extend_from_slice(&[0; 4]);
        let _ = serde_json::to_writer(&mut head, self); // plain strings and numbers, into memory
        if !data.is_empty() {
            head.push(b'\n');
        }
        let len = (head.len() - 4 + data.len()) as u32;
        head[..4].copy_from_slice(&len.to_le_bytes());
        Outgoing {
            head,
            data,
            sent: 0,
        }
    }
}

/// Calls `send` with the message that hands a job to a child.
pub(crate) fn with_run<T>(work: &Work, now: Instant, send: impl FnOnce(&ToChild<'_>) -> T) -> T {
    let mut text = [0; 36];
    let mut remaining = work.limits.timeout;
    if let Some(deadline) = work.deadline {
        remaining = remaining.min(deadline.saturating_duration_since(now));
    }
    let checkpoint = work.checkpoint.as_deref().map(on_one_line);
    let checkpoint = checkpoint
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok());
    let inputs: Vec<Sent> = work.inputs.iter().map(Sent::from).collect();
    send(&ToChild::Run {
        job: work.job.encode(&mut text),
        lease: work.lease.0,
        attempt: work.attempt,
        task: work.task.as_str(),
        remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
        trace: work.trace.as_deref(),
        checkpoint,
        inputs: &inputs,
    })
}

/// JSON text as it may stand in a header: a line break in it is blank space, since within a string it
/// would be escaped.
fn on_one_line(text: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    if text.contains(['\n', '\r']) {
        return text.replace(['\n', '\r'], " ").into();
    }
    text
}

/// What a child says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromChild {
    Ready,
    Progress {
        lease: Lease,
        note: Bytes,
    },
    Checkpoint {
        lease: Lease,
        /// The child's own, to know the answer by.
        number: u64,
        data: Bytes,
    },
    Partial {
        lease: Lease,
        data: Bytes,
    },
    Result {
        lease: Lease,
        result: Bytes,
    },
    Snooze {
        lease: Lease,
        after: Duration,
    },
    Error {
        lease: Lease,
        class: FailureClass,
        message: String,
    },
    Pong,
    /// The child wants to be replaced.
    Recycle,
}

/// What a child may write beside the data; the fields of all messages together.
#[derive(Deserialize)]
pub(crate) struct Header {
    #[serde(rename = "type")]
    kind: String,
    protocol: Option<u32>,
    lease: Option<u64>,
    number: Option<u64>,
    after_ms: Option<u64>,
    message: Option<String>,
    class: Option<String>,
}

impl Header {
    /// The message, with its data wherever that was.
    pub(crate) fn message(self, data: Bytes) -> Result<FromChild, Breach> {
        let bad = |why: &str| Breach::Header(why.to_owned());
        let lease = self.lease.map(Lease).ok_or_else(|| bad("no `lease`"));
        match self.kind.as_str() {
            "ready" => match self.protocol.unwrap_or(PROTOCOL_VERSION) {
                PROTOCOL_VERSION => Ok(FromChild::Ready),
                theirs => Err(Breach::Version { theirs }),
            },
            "progress" => lease.map(|lease| FromChild::Progress { lease, note: data }),
            "checkpoint" => lease.map(|lease| FromChild::Checkpoint {
                lease,
                number: self.number.unwrap_or(0),
                data,
            }),
            "partial" => lease.map(|lease| FromChild::Partial { lease, data }),
            "snooze" => {
                let after = self.after_ms.ok_or_else(|| bad("no `after_ms`"))?;
                lease.map(|lease| FromChild::Snooze {
                    lease,
                    after: Duration::from_millis(after),
                })
            }
            "result" => lease.map(|lease| FromChild::Result {
                lease,
                result: data,
            }),
            "error" => lease.map(|lease| FromChild::Error {
                lease,
                class: match self.class.as_deref() {
                    Some("invalid") => FailureClass::Invalid,
                    Some("output_limit") => FailureClass::OutputLimit,
                    _ => FailureClass::Error,
                },
                message: self.message.unwrap_or_default(),
            }),
            "pong" => Ok(FromChild::Pong),
            "recycle" | "recycle-me" => Ok(FromChild::Recycle),
            other => Err(bad(&format!("unknown type {other:?}"))),
        }
    }
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
    #[error(
        "printed {0:?} to standard output, which is the channel in json_lines mode; \
         print to standard error"
    )]
    Printed(String),
}

/// Puts frames together from what was read.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Where to read to while the rest of a large frame is awaited: it needs no copy then.
    pub(crate) fn rest_of_large(&mut self) -> Option<&mut Vec<u8>> {
        let whole = 4 + length(&self.held)?;
        let missing = whole.checked_sub(self.held.len())?;
        if missing < DIRECT_BYTES || whole > 4 + FRAME_BYTES_MAX {
            return None;
        }
        self.held.reserve_exact(missing);
        // Not a byte of the next frame: this one is to leave whole.
        (self.held.capacity() == whole).then_some(&mut self.held)
    }

    /// Takes what was read; adds the frames that are complete.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        frames: &mut VecDeque<FromChild>,
    ) -> Result<(), Breach> {
        if !self.held.is_empty() {
            self.held.extend_from_slice(bytes);
            return self.take(frames);
        }
        // Most often a read is a frame.
        let used = split(bytes, frames)?;
        self.held.extend_from_slice(&bytes[used..]);
        Ok(())
    }

    /// Adds the frames that are complete in what is held.
    pub(crate) fn take(&mut self, frames: &mut VecDeque<FromChild>) -> Result<(), Breach> {
        let only_one = length(&self.held).is_some_and(|len| 4 + len == self.held.len());
        if only_one && self.held.len() > DIRECT_BYTES {
            let frame = Bytes::from(std::mem::take(&mut self.held));
            frames.push_back(parse(&frame[4..], |data| frame.slice_ref(data))?);
            return Ok(());
        }
        let used = split(&self.held, frames)?;
        self.held.drain(..used);
        if self.held.is_empty() && self.held.capacity() > DIRECT_BYTES {
            self.held = Vec::new(); // one large result must not stay with each child for ever
        }
        Ok(())
    }
}

fn length(held: &[u8]) -> Option<usize> {
    let prefix = held.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*prefix) as usize)
}

/// Adds the complete frames; answers how many bytes they were.
fn split(held: &[u8], frames: &mut VecDeque<FromChild>) -> Result<usize, Breach> {
    let mut at = 0;
    while let Some(len) = length(&held[at..]) {
        if len > FRAME_BYTES_MAX {
            return Err(Breach::TooLong { len });
        }
        let Some(body) = held.get(at + 4..at + 4 + len) else {
            break;
        };
        frames.push_back(parse(body, Bytes::copy_from_slice)?);
        at += 4 + len;
    }
    Ok(at)
}

fn parse<'a>(body: &'a [u8], keep: impl FnOnce(&'a [u8]) -> Bytes) -> Result<FromChild, Breach> {
    let cut = body.iter().position(|byte| *byte == b'\n');
    let (header, data) = match cut {
        Some(at) => (&body[..at], &body[at + 1..]),
        None => (body, &[][..]),
    };
    let header: Header =
        serde_json::from_slice(header).map_err(|e| Breach::Header(e.to_string()))?;
    header.message(keep(data))
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
                class: FailureClass::Invalid,
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
