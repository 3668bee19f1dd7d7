//! Boxes of ISO base media files: HEIC, AVIF and Canon's CR3.
//!
//! Place: these cannot be converted, but their rows keep size and EXIF where the boxes are sound.
//! Must never: descend deeper than the paths that are named here.

use super::{Format, Probe, Window, ifd};

/// Boxes on one level.
const BOXES_MAX: usize = 64;
/// Entries of an item table.
const ITEMS_MAX: usize = 4096;
/// Offsets beyond this are nonsense, whatever the file system.
const FILE_BYTES_MAX: u64 = 1 << 48;
/// Bytes of one item table.
const TABLE_BYTES_MAX: u64 = 8 * 1024;

pub(super) fn is(head: &[u8]) -> bool {
    head.get(4..8) == Some(b"ftyp")
}

/// Major brand first, then the compatible ones.
pub(super) fn brand(head: &[u8]) -> Option<Format> {
    let length = u32::from_be_bytes(*head.first_chunk()?) as usize;
    let brands = head.get(8..length.min(head.len()).min(256))?;
    brands.chunks_exact(4).find_map(|brand| match brand {
        b"avif" | b"avis" => Some(Format::Avif),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
            Some(Format::Heic)
        }
        b"crx " => Some(Format::Raw),
        _ => None,
    })
}

/// Start and end of a box's content.
type Span = (u64, u64);

/// Calls `take` for each box in `span` with its kind and content.
fn boxes(window: &Window<'_>, span: Span, mut take: impl FnMut([u8; 4], Span)) {
    let mut at = span.0;
    for _ in 0..BOXES_MAX {
        if at.saturating_add(8) > span.1 {
            return;
        }
        let Some([l3, l2, l1, l0, kind @ ..]) = window.array::<8>(at) else {
            return;
        };
        let (start, length) = match u64::from(u32::from_be_bytes([l3, l2, l1, l0])) {
            0 => (at + 8, span.1 - at),
            1 => match window.array(at + 8) {
                Some(wide) => (at + 16, u64::from_be_bytes(wide)),
                None => return,
            },
            short => (at + 8, short),
        };
        let Some(end) = at.checked_add(length).filter(|end| *end >= start) else {
            return;
        };
        take(kind, (start, end.min(span.1)));
        at = end;
    }
}

pub(super) fn heif(window: &Window<'_>, probe: &mut Probe) {
    let mut meta = None;
    boxes(window, (0, u64::MAX), |kind, span| {
        if &kind == b"meta" {
            meta = meta.or(Some((span.0 + 4, span.1)));
        }
    });
    let Some(meta) = meta else {
        probe.defect = Some("no item table");
        return;
    };
    let (mut names, mut places, mut properties) = (None, None, None);
    boxes(window, meta, |kind, span| match &kind {
        b"iinf" => names = Some(span),
        b"iloc" => places = Some(span),
        b"iprp" => properties = Some(span),
        _ => {}
    });
    if let Some(span) = properties {
        size(window, span, probe);
    }
    if let (Some(names), Some(places)) = (names, places)
        && let Some(item) = exif_item(window, names)
        && let Some(at) = item_offset(window, places, item)
        // The item begins with the distance to the TIFF header.
        && let Some(skip) = window.array(at).map(u32::from_be_bytes)
    {
        ifd::exif_block(window, at + 4 + u64::from(skip), &mut probe.exif);
        // HEIF turns pictures by its own property; EXIF's must not be applied again.
        probe.exif.orientation = super::Orientation::default();
    }
    probe.components = 3;
}

/// The largest `ispe`: tiles and previews are smaller than the picture.
fn size(window: &Window<'_>, span: Span, probe: &mut Probe) {
    boxes(window, span, |kind, span| {
        if &kind != b"ipco" {
            return;
        }
        boxes(window, span, |kind, span| {
            if &kind == b"ispe"
                && let Some([_, _, _, _, w3, w2, w1, w0, h3, h2, h1, h0]) = window.array(span.0)
            {
                let width = u32::from_be_bytes([w3, w2, w1, w0]);
                let height = u32::from_be_bytes([h3, h2, h1, h0]);
                if u64::from(width) * u64::from(height)
                    > u64::from(probe.width) * u64::from(probe.height)
                {
                    (probe.width, probe.height) = (width, height);
                }
            }
        });
    });
}

fn exif_item(window: &Window<'_>, span: Span) -> Option<u32> {
    let [version, _, _, _] = window.array(span.0)?;
    let entries = if version == 0 { 6 } else { 8 };
    let mut found = None;
    boxes(window, (span.0 + entries, span.1), |kind, span| {
        if &kind == b"infe"
            && let Some([version, _, _, _, a, b, c, d, e, f, g, h, i, j]) = window.array(span.0)
        {
            let (id, item_kind) = match version {
                2 => (u32::from(u16::from_be_bytes([a, b])), [e, f, g, h]),
                3 => (u32::from_be_bytes([a, b, c, d]), [g, h, i, j]),
                _ => return,
            };
            if &item_kind == b"Exif" {
                found = found.or(Some(id));
            }
        }
    });
    found
}

/// Reads numbers from a table, front to back.
struct Table<'a>(&'a [u8]);

impl Table<'_> {
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front.iter().fold(0, |sum, &b| sum << 8 | u64::from(b)))
    }
}

/// Where the first extent of `wanted` lies in the file (ISO/IEC 14496-12, 8.11.3).
fn item_offset(window: &Window<'_>, span: Span, wanted: u32) -> Option<u64> {
    let length = (span.1 - span.0).min(TABLE_BYTES_MAX) as usize;
    let mut scratch = Vec::new();
    let mut table = Table(window.get(span.0, length, &mut scratch)?);
    let version = table.number(4)? >> 24;
    let sizes = table.number(2)?;
    let (offset_bytes, length_bytes) = ((sizes >> 12 & 15) as usize, (sizes >> 8 & 15) as usize);
    let base_bytes = (sizes >> 4 & 15) as usize;
    let index_bytes = if version == 0 {
        0
    } else {
        (sizes & 15) as usize
    };
    if [offset_bytes, length_bytes, base_bytes, index_bytes]
        .iter()
        .any(|&n| n > 8)
    {
        return None;
    }
    let id_bytes = if version < 2 { 2 } else { 4 };
    let items = table.number(id_bytes)? as usize;
    for _ in 0..items.min(ITEMS_MAX) {
        let id = table.number(id_bytes)?;
        let method = if version == 0 {
            0
        } else {
            table.number(2)? & 15
        };
        table.number(2)?;
        let base = table.number(base_bytes)?;
        let extents = table.number(2)?;
        if id == u64::from(wanted) && method == 0 && extents > 0 {
            table.number(index_bytes)?;
            let at = base.checked_add(table.number(offset_bytes)?)?;
            return (at < FILE_BYTES_MAX).then_some(at);
        }
        let extent_bytes = index_bytes + offset_bytes + length_bytes;
        table.0 = table.0.get(extents as usize * extent_bytes..)?;
    }
    None
}

/// CR3: `moov` / Canon's `uuid` / `CMT1` is a TIFF block with make, model and orientation.
pub(super) fn canon(window: &Window<'_>, probe: &mut Probe) {
    let mut block = None;
    boxes(window, (0, u64::MAX), |kind, span| {
        if &kind == b"moov" {
            boxes(window, span, |kind, span| {
                if &kind == b"uuid" {
                    boxes(window, (span.0 + 16, span.1), |kind, span| {
                        if &kind == b"CMT1" {
                            block = block.or(Some(span.0));
                        }
                    });
                }
            });
        }
    });
    match block {
        Some(at) => {
            let mut inner = Probe::new(Format::Raw);
            ifd::exif_block(window, at, &mut inner.exif);
            probe.exif = inner.exif;
            probe.defect = Some("its size is not read");
        }
        None => probe.defect = Some("no metadata where Canon keeps it"),
    }
}
