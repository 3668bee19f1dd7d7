//! The heads of PNG, WebP, GIF, BMP, PSD and RAF.
//!
//! Must never: walk more than [`CHUNKS_MAX`] chunks in search of EXIF.

use super::{Probe, Window, ifd, jpeg};

/// Chunks that are stepped over in search of EXIF.
const CHUNKS_MAX: usize = 40;
const CUT_OFF: Option<&str> = Some("the header is cut off");

fn be32(raw: [u8; 4]) -> u32 {
    u32::from_be_bytes(raw)
}

pub(super) fn png(window: &Window<'_>, probe: &mut Probe) {
    let Some(header) = window.array::<18>(8) else {
        probe.defect = CUT_OFF;
        return;
    };
    if header[4..8] != *b"IHDR" {
        probe.defect = Some("the first chunk is not the header");
        return;
    }
    probe.width = be32([header[8], header[9], header[10], header[11]]);
    probe.height = be32([header[12], header[13], header[14], header[15]]);
    probe.bits_per_sample = header[16];
    probe.components = match header[17] {
        0 => 1,
        2 => 3,
        4 => 2,
        // A palette may have transparent entries.
        _ => 4,
    };
    let mut at = 33_u64;
    for _ in 0..CHUNKS_MAX {
        let Some([l3, l2, l1, l0, kind @ ..]) = window.array::<8>(at) else {
            return;
        };
        match &kind {
            b"eXIf" => return ifd::exif_block(window, at + 8, &mut probe.exif),
            // EXIF may follow the pixels, but then a reader of heads has to do without.
            b"IDAT" | b"IEND" => return,
            _ => at += 12 + u64::from(be32([l3, l2, l1, l0])),
        }
    }
}

pub(super) fn webp(window: &Window<'_>, probe: &mut Probe) {
    probe.components = 3;
    let mut at = 12_u64;
    for _ in 0..CHUNKS_MAX {
        let Some([k0, k1, k2, k3, l0, l1, l2, l3]) = window.array::<8>(at) else {
            if probe.width == 0 {
                probe.defect = CUT_OFF;
            }
            return;
        };
        let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        let content = window.array::<10>(at + 8);
        match (&[k0, k1, k2, k3], content) {
            (b"VP8X", Some(c)) => {
                probe.width = 1 + u32::from_le_bytes([c[4], c[5], c[6], 0]);
                probe.height = 1 + u32::from_le_bytes([c[7], c[8], c[9], 0]);
                if c[0] & 0x10 != 0 {
                    probe.components = 4;
                }
                if c[0] & 0x08 == 0 {
                    return;
                }
            }
            (b"VP8 ", Some(c)) if probe.width == 0 => {
                probe.width = u32::from(u16::from_le_bytes([c[6], c[7]]) & 0x3fff);
                probe.height = u32::from(u16::from_le_bytes([c[8], c[9]]) & 0x3fff);
                return;
            }
            (b"VP8L", Some(c)) if probe.width == 0 => {
                let bits = u32::from_le_bytes([c[1], c[2], c[3], c[4]]);
                probe.width = 1 + (bits & 0x3fff);
                probe.height = 1 + (bits >> 14 & 0x3fff);
                probe.components = 4;
                return;
            }
            (b"EXIF", _) => {
                // Some writers keep the JPEG prefix.
                let prefixed = window.array(at + 8) == Some(*b"Exif\0\0");
                let base = at + if prefixed { 14 } else { 8 };
                return ifd::exif_block(window, base, &mut probe.exif);
            }
            _ => {}
        }
        at += 8 + length + (length & 1);
    }
}

pub(super) fn gif(window: &Window<'_>, probe: &mut Probe) {
    let Some([w0, w1, h0, h1]) = window.array(6) else {
        probe.defect = CUT_OFF;
        return;
    };
    probe.width = u32::from(u16::from_le_bytes([w0, w1]));
    probe.height = u32::from(u16::from_le_bytes([h0, h1]));
    probe.components = 4;
}

pub(super) fn bmp(window: &Window<'_>, probe: &mut Probe) {
    let Some(header) = window.array::<16>(14) else {
        probe.defect = CUT_OFF;
        return;
    };
    let word =
        |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let bits = if word(0) == 12 {
        probe.width = word(4) & 0xffff;
        probe.height = word(4) >> 16;
        u16::from_le_bytes([header[10], header[11]])
    } else {
        probe.width = word(4);
        // A negative height means "top row first".
        probe.height = (word(8) as i32).unsigned_abs();
        u16::from_le_bytes([header[14], header[15]])
    };
    probe.components = if bits == 32 { 4 } else { 3 };
}

pub(super) fn psd(window: &Window<'_>, probe: &mut Probe) {
    let Some(header) = window.array::<12>(12) else {
        probe.defect = CUT_OFF;
        return;
    };
    probe.components = header[1];
    probe.height = be32([header[2], header[3], header[4], header[5]]);
    probe.width = be32([header[6], header[7], header[8], header[9]]);
    probe.bits_per_sample = header[11];
}

/// Fujifilm: a full JPEG with EXIF stands at an offset of the header.
pub(super) fn raf(window: &Window<'_>, probe: &mut Probe) {
    match window.array(84).map(be32) {
        Some(offset) if window.array(u64::from(offset)) == Some([0xff, 0xd8]) => {
            jpeg::read(window, u64::from(offset), probe);
        }
        _ => probe.defect = CUT_OFF,
    }
}
