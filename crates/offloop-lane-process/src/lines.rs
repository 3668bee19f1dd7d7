//! The protocol as JSON lines: one object a line, for languages that cannot open a descriptor.
//!
//! The messages are those of `frame`; payload, result and note are fields of theirs. A line is
//! bounded as a frame is.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::frame::{Breach, FRAME_BYTES_MAX, FromChild, Header, Outgoing, ToChild};

/// Of a line that is none of ours, for the sentence that says so.
const QUOTE_CHARS_MAX: usize = 80;

/// One line; `payload`, if there is one, is JSON text.
pub(crate) fn encode(message: &ToChild<'_>, payload: Option<&Bytes>) -> Outgoing {
    let mut head = message.header();
    if let Some(payload) = payload {
        head.pop(); // the closing brace
        head.extend_from_slice(b",\"payload\":");
        match payload.trim_ascii() {
            b"" => head.extend_from_slice(b"null"),
            // A line break in JSON text is blank space: within a string it would be escaped.
            text => head.extend(text.iter().map(|byte| match byte {
                b'\n' | b'\r' => b' ',
                other => *other,
            })),
        }
        head.push(b'}');
    }
    head.push(b'\n');
    Outgoing {
        head,
        ..Outgoing::default()
    }
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    note: Option<&'a RawValue>,
    #[serde(borrow)]
    checkpoint: Option<&'a RawValue>,
    #[serde(borrow)]
    partial: Option<&'a RawValue>,
}

/// Puts lines together from what was read.
#[derive(Debug, Default)]
pub(crate) struct LineDecoder {
    held: Vec<u8>,
    /// Of what is held, known to be without a line's end.
    searched: usize,
}

impl LineDecoder {
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        messages: &mut VecDeque<FromChild>,
    ) -> Result<(), Breach> {
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(end) = self.held[self.searched..].iter().position(|b| *b == b'\n') {
            let end = self.searched + end;
            let line = self.held[at..end].trim_ascii();
            if !line.is_empty() {
                messages.push_back(parse(line)?);
            }
            at = end + 1;
            self.searched = at;
        }
        self.held.drain(..at);
        self.searched = self.held.len();
        if self.held.len() > FRAME_BYTES_MAX {
            let len = self.held.len();
            return Err(Breach::TooLong { len });
        }
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<FromChild, Breach> {
    let printed = || {
        let text = String::from_utf8_lossy(line);
        Breach::Printed(text.chars().take(QUOTE_CHARS_MAX).collect())
    };
    if line.len() > FRAME_BYTES_MAX {
        return Err(Breach::TooLong { len: line.len() });
    }
    if line.first() != Some(&b'{') {
        return Err(printed());
    }
    let data: Data<'_> = serde_json::from_slice(line).map_err(|_| printed())?;
    let header: Header = serde_json::from_slice(line).map_err(|e| Breach::Header(e.to_string()))?;
    let data = data
        .result
        .or(data.note)
        .or(data.checkpoint)
        .or(data.partial);
    let data = data.map_or("", RawValue::get);
    header.message(Bytes::copy_from_slice(data.as_bytes()))
}

#[cfg(test)]
mod tests {
    use offloop_job::Lease;

    use super::*;

    #[test]
    fn lines_that_arrive_in_any_pieces_are_the_same_messages() {
        let wire = b"{\"type\":\"ready\"}\r\n\n{\"type\":\"result\",\"lease\":7,\"result\":{\"a\": 1.50}}\n\
            {\"type\":\"result\",\"lease\":8}\n{\"type\":\"recycle\"}\n{\"type\":\"progress\",\"lease\":9,\"note\":[1]}\n";
        let result = |lease, text| FromChild::Result {
            lease: Lease(lease),
            result: Bytes::from_static(text),
        };
        let want = [
            FromChild::Ready,
            result(7, b"{\"a\": 1.50}"),
            result(8, b""),
            FromChild::Recycle,
            FromChild::Progress {
                lease: Lease(9),
                note: Bytes::from_static(b"[1]"),
            },
        ];
        for piece in 1..wire.len() {
            let (mut decoder, mut messages) = (LineDecoder::default(), VecDeque::new());
            for part in wire.chunks(piece) {
                decoder.push(part, &mut messages).unwrap();
            }
            assert!(messages.iter().eq(want.iter()), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_message_is_told_apart_from_a_message_that_is_wrong() {
        let rows: [(&[u8], &str); 5] = [
            (b"hello\n", "printed \"hello\" to standard output"),
            (b"{hello}\n", "print to standard error"),
            (b"[1]\n", "json_lines"),
            (b"{\"type\":\"dance\"}\n", "dance"),
            (b"{\"type\":\"result\"}\n", "lease"),
        ];
        for (wire, says) in rows {
            let error = LineDecoder::default().push(wire, &mut VecDeque::new());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let endless = vec![b'x'; FRAME_BYTES_MAX + 1];
        let error = LineDecoder::default().push(&endless, &mut VecDeque::new());
        assert!(matches!(error, Err(Breach::TooLong { .. })), "{error:?}");
    }

    #[test]
    fn a_payload_over_several_lines_becomes_one() {
        let text = Bytes::from_static(b"{\n  \"a\": \"x\\ny\"\r\n}\n");
        let line = encode(&ToChild::Ping, Some(&text)).head;
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"type\":\"ping\",\"payload\":{   \"a\": \"x\\ny\"  }}\n"
        );
    }
}
