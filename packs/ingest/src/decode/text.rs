//! From the text's encoding to UTF-8, in pieces. UTF-8 itself passes unchecked but for its byte
//! order mark: `check` looks at fields, so that one bad byte costs one row.
//!
//! Must never: replace what is malformed by U+FFFD, which nobody could tell from data.

use encoding_rs::{DecoderResult, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::{DecodeError, Encoding};

/// Stands for what its encoding cannot mean. No UTF-8 holds it.
const MALFORMED: u8 = 0xff;

pub(super) enum Text {
    /// The first bytes, while they may be a byte order mark.
    Utf8Start(Vec<u8>),
    Utf8,
    Latin1,
    /// The first bytes of `utf-16`.
    Utf16Start(Vec<u8>),
    Other(Box<encoding_rs::Decoder>),
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Utf8Start(_) | Self::Utf8 => "Utf8",
            Self::Latin1 => "Latin1",
            Self::Utf16Start(_) => "Utf16Start",
            Self::Other(decoder) => decoder.encoding().name(),
        })
    }
}

impl Text {
    pub(super) fn new(encoding: Encoding) -> Self {
        let with_mark = |encoding: &'static encoding_rs::Encoding| {
            Self::Other(Box::new(encoding.new_decoder_with_bom_removal()))
        };
        match encoding {
            Encoding::Utf8 => Self::Utf8Start(Vec::new()),
            Encoding::Latin1 => Self::Latin1,
            Encoding::Windows1252 => {
                Self::Other(Box::new(WINDOWS_1252.new_decoder_without_bom_handling()))
            }
            Encoding::Utf16 => Self::Utf16Start(Vec::new()),
            Encoding::Utf16Le => with_mark(UTF_16LE),
            Encoding::Utf16Be => with_mark(UTF_16BE),
        }
    }

    pub(super) fn step(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        loop {
            match self {
                Self::Utf8 => out.extend_from_slice(input),
                Self::Latin1 => latin1(input, out),
                Self::Other(decoder) => decode(decoder, input, false, out),
                Self::Utf8Start(head) => {
                    const MARK: &[u8] = b"\xef\xbb\xbf";
                    while head.len() < MARK.len() && MARK.starts_with(head) && !input.is_empty() {
                        head.push(input[0]);
                        input = &input[1..];
                    }
                    if head.len() < MARK.len() && MARK.starts_with(head) {
                        return Ok(());
                    }
                    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
                        return Err(DecodeError::Utf16);
                    }
                    if let [first @ (0xff | 0xfe)] = head[..] {
                        // Half of UTF-16's mark: the other half decides.
                        match input.first() {
                            None => return Ok(()),
                            Some(second) if *second == first ^ 1 => return Err(DecodeError::Utf16),
                            Some(_) => {}
                        }
                    }
                    if head != MARK {
                        out.append(head);
                    }
                    *self = Self::Utf8;
                    continue;
                }
                Self::Utf16Start(head) => {
                    while head.len() < 2 && !input.is_empty() {
                        head.push(input[0]);
                        input = &input[1..];
                    }
                    let encoding = match head[..] {
                        [] | [_] => return Ok(()),
                        [0xff, 0xfe] => UTF_16LE,
                        [0xfe, 0xff] => UTF_16BE,
                        _ => return Err(DecodeError::NoByteOrderMark),
                    };
                    *self = Self::Other(Box::new(encoding.new_decoder_without_bom_handling()));
                    continue;
                }
            }
            return Ok(());
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            Self::Utf8Start(head) => out.append(head),
            Self::Utf16Start(head) if !head.is_empty() => return Err(DecodeError::NoByteOrderMark),
            Self::Utf8 | Self::Latin1 | Self::Utf16Start(_) => {}
            Self::Other(decoder) => decode(decoder, &[], true, out),
        }
        Ok(())
    }
}

fn latin1(input: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + input.len() * 2, 0);
    let made = encoding_rs::mem::convert_latin1_to_utf8(input, &mut out[from..]);
    out.truncate(from + made);
}

fn decode(decoder: &mut encoding_rs::Decoder, mut input: &[u8], last: bool, out: &mut Vec<u8>) {
    loop {
        let from = out.len();
        let room = decoder
            .max_utf8_buffer_length_without_replacement(input.len())
            .unwrap_or(4 * input.len() + 16);
        out.resize(from + room, 0);
        let (result, used, made) =
            decoder.decode_to_utf8_without_replacement(input, &mut out[from..], last);
        out.truncate(from + made);
        input = &input[used..];
        match result {
            DecoderResult::InputEmpty => return,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => out.push(MALFORMED),
        }
    }
}
