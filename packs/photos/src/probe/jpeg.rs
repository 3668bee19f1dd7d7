//! The head of a JPEG: frame size and the EXIF segment before it.
//!
//! Must never: read entropy-coded data; the walk ends at the frame header.

use super::{Probe, Window, ifd};

/// Segments and stray bytes before the frame header. Multi-part ICC and XMP take a few hundred.
const STEPS_MAX: usize = 1024;

/// Reads the JPEG that begins at `base`.
pub(super) fn read(window: &Window<'_>, base: u64, probe: &mut Probe) {
    let mut at = base + 2;
    let mut exif_seen = false;
    for _ in 0..STEPS_MAX {
        let Some([first, marker, high, low]) = window.array(at) else {
            probe.defect = Some("the file ends before its frame header");
            return;
        };
        if first != 0xff {
            // Stray bytes between segments are common enough; the decoder steps over them too.
            let Some(next) = next_in_head(window, at) else {
                probe.defect = Some("a marker is missing before the frame header");
                return;
            };
            at = next;
            continue;
        }
        if marker == 0x00 {
            at += 2;
            continue;
        }
        if marker == 0xff {
            at += 1;
            continue;
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            at += 2;
            continue;
        }
        let length = u64::from(u16::from_be_bytes([high, low]));
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                return frame(window, at + 4, marker, probe);
            }
            0xd9 | 0xda => {
                probe.defect = Some("picture data before the frame header");
                return;
            }
            0xe1 if !exif_seen && window.array(at + 4) == Some(*b"Exif\0\0") => {
                exif_seen = true;
                ifd::exif_block(window, at + 10, &mut probe.exif);
            }
            _ => {}
        }
        if length < 2 {
            probe.defect = Some("a segment has an impossible length");
            return;
        }
        at += 2 + length;
    }
    probe.defect = Some("too many segments before the frame header");
}

/// The next `FF` after `at`, as far as the head reaches.
fn next_in_head(window: &Window<'_>, at: u64) -> Option<u64> {
    let rest = window.head.get(usize::try_from(at).ok()?..)?;
    memchr::memchr(0xff, rest).map(|distance| at + distance as u64)
}

fn frame(window: &Window<'_>, at: u64, marker: u8, probe: &mut Probe) {
    let Some([bits, h1, h0, w1, w0, components]) = window.array(at) else {
        probe.defect = Some("the frame header is cut off");
        return;
    };
    probe.width = u32::from(u16::from_be_bytes([w1, w0]));
    probe.height = u32::from(u16::from_be_bytes([h1, h0]));
    probe.components = components;
    probe.bits_per_sample = bits;
    probe.progressive = matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce);
}
