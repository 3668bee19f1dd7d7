//! Segments between markers: tables, colour hints, ICC parts.
//!
//! Place: the decoder's walk over the file uses these for everything but frame and scan headers.
//! Must never: believe a length that the file does not hold.

use super::bits::next_marker;
use super::huffman::Huffman;
use super::{JpegError, Tables};

/// Bytes of an ICC profile, over all its APP2 parts.
const ICC_BYTES_MAX: usize = 4 << 20;

/// The next marker at or after `at`, its segment without the length, and where to go on.
pub(super) fn segment(data: &[u8], at: usize) -> Result<(u8, &[u8], usize), JpegError> {
    const ENDS: JpegError = JpegError::Corrupt("the file ends before its picture");
    let marker_at = next_marker(data, at).ok_or(ENDS)?;
    let marker = data[marker_at + 1];
    let body = marker_at + 2;
    if matches!(marker, 0x01 | 0xd0..=0xd9) {
        return Ok((marker, &[], body));
    }
    let length = data.get(body..body + 2).ok_or(ENDS)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length < 2 {
        return Err(JpegError::Corrupt("a segment has an impossible length"));
    }
    let content = data.get(body + 2..body + length).ok_or(ENDS)?;
    Ok((marker, content, body + length))
}

/// The first marker at or after `from` that is not a restart marker.
pub(super) fn end_of_scan(data: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(marker) = next_marker(data, at) {
        if !matches!(data[marker + 1], 0xd0..=0xd7) {
            return marker;
        }
        at = marker + 2;
    }
    data.len()
}

/// Adobe's colour transform from an APP14 segment.
pub(super) fn adobe(segment: &[u8]) -> Option<u8> {
    if segment.starts_with(b"Adobe") {
        segment.get(11).copied()
    } else {
        None
    }
}

/// Reads DQT, DHT and DRI; every other segment is none of our business.
pub(super) fn read_tables(
    marker: u8,
    segment: &[u8],
    tables: &mut Tables,
    restart_interval: &mut u32,
) -> Result<(), JpegError> {
    match marker {
        0xdb => quantisation(segment, tables),
        0xc4 => huffman(segment, tables),
        0xdd => {
            if let [high, low, ..] = *segment {
                *restart_interval = u32::from(u16::from_be_bytes([high, low]));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn quantisation(mut rest: &[u8], tables: &mut Tables) -> Result<(), JpegError> {
    const BAD: JpegError = JpegError::Corrupt("a quantisation table is malformed");
    while let Some((&head, tail)) = rest.split_first() {
        let (wide, slot) = (head >> 4 != 0, usize::from(head & 15));
        let bytes = if wide { 128 } else { 64 };
        let (content, tail) = tail.split_at_checked(bytes).ok_or(BAD)?;
        let mut table = [0.0; 64];
        for (k, value) in table.iter_mut().enumerate() {
            *value = if wide {
                f32::from(u16::from_be_bytes([content[2 * k], content[2 * k + 1]]))
            } else {
                f32::from(content[k])
            };
        }
        *tables.quant.get_mut(slot).ok_or(BAD)? = Some(table);
        rest = tail;
    }
    Ok(())
}

fn huffman(mut rest: &[u8], tables: &mut Tables) -> Result<(), JpegError> {
    const BAD: JpegError = JpegError::Corrupt("a Huffman table is malformed");
    while let Some((&head, tail)) = rest.split_first() {
        let (ac, slot) = (head >> 4 != 0, usize::from(head & 15));
        let (counts, tail) = tail.split_first_chunk::<16>().ok_or(BAD)?;
        let total: usize = counts.iter().map(|&n| usize::from(n)).sum();
        let (symbols, tail) = tail.split_at_checked(total).ok_or(BAD)?;
        let table = Huffman::build(counts, symbols).ok_or(BAD)?;
        if slot > 3 {
            return Err(BAD);
        }
        if ac {
            tables.ac[slot] = Some(table);
            tables.skip[slot] = None;
        } else {
            tables.dc[slot] = Some(table);
        }
        rest = tail;
    }
    Ok(())
}

/// The APP2 parts of an ICC profile, in the order of their sequence numbers.
#[derive(Debug, Default)]
pub(super) struct IccParts {
    parts: Vec<(u8, Vec<u8>)>,
    bytes: usize,
}

impl IccParts {
    pub(super) fn add(&mut self, segment: &[u8]) {
        let Some([number, _count, content @ ..]) = segment.strip_prefix(b"ICC_PROFILE\0") else {
            return;
        };
        self.bytes += content.len();
        if self.bytes <= ICC_BYTES_MAX {
            self.parts.push((*number, content.to_vec()));
        }
    }

    pub(super) fn join(mut self) -> Option<Vec<u8>> {
        if self.parts.is_empty() || self.bytes > ICC_BYTES_MAX {
            return None;
        }
        self.parts.sort_by_key(|(number, _)| *number);
        Some(
            self.parts
                .into_iter()
                .flat_map(|(_, content)| content)
                .collect(),
        )
    }
}
