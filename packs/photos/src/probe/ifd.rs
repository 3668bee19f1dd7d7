//! TIFF directories: EXIF blocks inside other formats, TIFF files, and raw files built on TIFF.
//!
//! Place: called by the readers of every format that carries EXIF.
//! Reads the dozen tags that a photo library shows and nothing else, by random access: a
//! directory at the end of a 100 MB file costs one small read. Maker notes are not entered, and
//! no directory leads to another one of its kind, so a loop of offsets cannot be followed.
//! Must never: trust a count or an offset.

use super::text::{Taken, clean, local_time, zone};
use super::{Exif, Format, Orientation, Probe, Window};

/// Entries of one directory; real ones have up to about 100.
const ENTRIES_MAX: usize = 512;
/// Bytes of one text value that are looked at.
const TEXT_BYTES_MAX: usize = 128;

#[derive(Clone, Copy)]
struct Tiff<'a> {
    window: &'a Window<'a>,
    /// Where offsets count from.
    base: u64,
    little: bool,
}

/// One directory entry, value undecoded.
#[derive(Clone, Copy)]
struct Field {
    tag: u16,
    kind: u16,
    count: u32,
    /// The value if it fits 4 bytes, else its offset.
    raw: [u8; 4],
}

/// Reads the EXIF block at `base` (its TIFF header) into `exif`. Damage loses fields, no more.
pub(super) fn exif_block(window: &Window<'_>, base: u64, exif: &mut Exif) {
    if let Some((tiff, first)) = Tiff::open(window, base) {
        let main = tiff.main_directory(first);
        main.fill(tiff, exif);
    }
}

/// Reads a TIFF file, or a raw file with a TIFF header.
pub(super) fn tiff_file(window: &Window<'_>, probe: &mut Probe) {
    let Some((tiff, first)) = Tiff::open(window, 0) else {
        probe.defect = Some("the TIFF header is damaged");
        return;
    };
    let main = tiff.main_directory(first);
    main.fill(tiff, &mut probe.exif);
    if main.is_raw {
        probe.format = Format::Raw;
    }
    probe.width = main.width;
    probe.height = main.height;
    probe.components = main.samples.clamp(1, 16) as u8;
    probe.bits_per_sample = main.bits.clamp(1, 64) as u8;
    if probe.format == Format::Raw && main.full_width > main.width {
        (probe.width, probe.height) = (main.full_width, main.full_height);
    }
    if !main.found {
        probe.defect = Some("the first directory is missing or damaged");
    }
}

/// What the first directory and its EXIF and GPS children say.
#[derive(Default)]
struct Main {
    found: bool,
    width: u32,
    height: u32,
    samples: u32,
    bits: u32,
    is_raw: bool,
    full_width: u32,
    full_height: u32,
    orientation: u16,
    make: Option<Field>,
    model: Option<Field>,
    changed: Option<Field>,
    taken: Option<Field>,
    digitised: Option<Field>,
    zone: Option<Field>,
    zone_taken: Option<Field>,
    gps: [Option<Field>; 5],
}

impl Main {
    fn fill(&self, tiff: Tiff<'_>, exif: &mut Exif) {
        exif.orientation = Orientation::from_exif(self.orientation);
        let text = |field: Option<Field>| field.and_then(|f| tiff.text(f));
        exif.make = text(self.make).and_then(|raw| clean(&raw));
        exif.model = text(self.model).and_then(|raw| clean(&raw));
        let local = [self.taken, self.digitised, self.changed]
            .into_iter()
            .find_map(|field| text(field).and_then(|raw| local_time(&raw)));
        exif.taken = local.map(|local| Taken {
            local,
            offset_minutes: [self.zone_taken, self.zone]
                .into_iter()
                .find_map(|field| text(field).and_then(|raw| zone(&raw))),
        });
        exif.position = self.position(tiff);
    }

    fn position(&self, tiff: Tiff<'_>) -> Option<(f64, f64)> {
        let side = |reference: usize, value: usize, negative: u8, limit: f64| {
            let degrees = tiff.degrees(self.gps[value]?)?;
            let sign = self.gps[reference].map_or(b' ', |f| f.raw[0].to_ascii_uppercase());
            (degrees <= limit).then_some(if sign == negative { -degrees } else { degrees })
        };
        Some((side(1, 2, b'S', 90.0)?, side(3, 4, b'W', 180.0)?))
    }
}

impl<'a> Tiff<'a> {
    /// Checks the header at `base`; also gives the offset of the first directory.
    fn open(window: &'a Window<'a>, base: u64) -> Option<(Self, u32)> {
        let header = window.array::<8>(base)?;
        let little = match &header[..2] {
            b"II" => true,
            b"MM" => false,
            _ => return None,
        };
        let tiff = Self {
            window,
            base,
            little,
        };
        Some((tiff, tiff.u32([header[4], header[5], header[6], header[7]])))
    }

    fn u16(self, raw: [u8; 2]) -> u16 {
        if self.little {
            u16::from_le_bytes(raw)
        } else {
            u16::from_be_bytes(raw)
        }
    }

    fn u32(self, raw: [u8; 4]) -> u32 {
        if self.little {
            u32::from_le_bytes(raw)
        } else {
            u32::from_be_bytes(raw)
        }
    }

    /// Calls `take` for each entry of the directory at `offset`; whether there was one.
    fn directory(self, offset: u32, mut take: impl FnMut(Field)) -> bool {
        let at = self.base + u64::from(offset);
        let Some(count) = (offset >= 8).then(|| self.window.array::<2>(at)).flatten() else {
            return false;
        };
        let mut scratch = Vec::new();
        let mut count = usize::from(self.u16(count)).min(ENTRIES_MAX);
        // A directory that is cut off still has its first entries.
        let entries = loop {
            if count == 0 {
                return false;
            }
            if let Some(entries) = self.window.get(at + 2, count * 12, &mut scratch) {
                break entries.to_vec();
            }
            count /= 2;
        };
        for entry in entries.chunks_exact(12) {
            take(Field {
                tag: self.u16([entry[0], entry[1]]),
                kind: self.u16([entry[2], entry[3]]),
                count: self.u32([entry[4], entry[5], entry[6], entry[7]]),
                raw: [entry[8], entry[9], entry[10], entry[11]],
            });
        }
        true
    }

    fn main_directory(self, first: u32) -> Main {
        let mut main = Main::default();
        let (mut exif_at, mut gps_at) = (None, None);
        let mut subfile = 0;
        let mut has_children = false;
        main.found = self.directory(first, |field| match field.tag {
            0x00fe => subfile = self.number(field),
            0x0100 => main.width = self.number(field),
            0x0101 => main.height = self.number(field),
            0x0102 => main.bits = self.first_short(field),
            // Nikon, Sony and Pentax mark their sensor data so in the first directory.
            0x0103 if matches!(self.number(field), 32767 | 34713 | 65000 | 65535) => {
                main.is_raw = true;
            }
            0x010f => main.make = Some(field),
            0x0110 => main.model = Some(field),
            0x0112 => main.orientation = self.number(field) as u16,
            0x0115 => main.samples = self.number(field),
            0x0132 => main.changed = Some(field),
            0x014a => has_children = true,
            0x8769 => exif_at = Some(self.number(field)),
            0x8825 => gps_at = Some(self.number(field)),
            0xc612 => main.is_raw = true,
            _ => {}
        });
        // A camera's raw file shows a preview first and the sensor's data in a child directory.
        main.is_raw |= subfile & 1 == 1 && has_children;
        if let Some(offset) = exif_at {
            self.directory(offset, |field| match field.tag {
                0x9003 => main.taken = Some(field),
                0x9004 => main.digitised = Some(field),
                0x9010 => main.zone = Some(field),
                0x9011 => main.zone_taken = Some(field),
                0xa002 => main.full_width = self.number(field),
                0xa003 => main.full_height = self.number(field),
                _ => {}
            });
        }
        if let Some(offset) = gps_at {
            self.directory(offset, |field| {
                if let Some(slot) = main.gps.get_mut(usize::from(field.tag)) {
                    *slot = Some(field);
                }
            });
        }
        main
    }

    /// A SHORT, LONG or BYTE that stands in the entry; 0 for anything else.
    fn number(self, field: Field) -> u32 {
        match field.kind {
            1 | 7 => u32::from(field.raw[0]),
            3 => u32::from(self.u16([field.raw[0], field.raw[1]])),
            4 | 9 | 13 => self.u32(field.raw),
            _ => 0,
        }
    }

    /// The first of several SHORTs, which may stand elsewhere.
    fn first_short(self, field: Field) -> u32 {
        if field.kind == 3 && field.count > 2 {
            let at = self.base + u64::from(self.u32(field.raw));
            return self
                .window
                .array(at)
                .map_or(0, |raw| u32::from(self.u16(raw)));
        }
        self.number(field)
    }

    fn text(self, field: Field) -> Option<Vec<u8>> {
        if !matches!(field.kind, 1 | 2 | 7 | 129) {
            return None;
        }
        let length = (field.count as usize).min(TEXT_BYTES_MAX);
        if length <= 4 {
            return Some(field.raw[..length].to_vec());
        }
        let at = self.base + u64::from(self.u32(field.raw));
        let mut scratch = Vec::new();
        self.window
            .get(at, length, &mut scratch)
            .map(<[u8]>::to_vec)
    }

    /// Three rationals: degrees, minutes, seconds.
    fn degrees(self, field: Field) -> Option<f64> {
        if !matches!(field.kind, 5 | 10) || field.count != 3 {
            return None;
        }
        let raw = self
            .window
            .array::<24>(self.base + u64::from(self.u32(field.raw)))?;
        let mut sum = 0.0;
        for (part, unit) in raw.chunks_exact(8).zip([1.0, 60.0, 3600.0]) {
            let above = self.u32([part[0], part[1], part[2], part[3]]);
            let below = self.u32([part[4], part[5], part[6], part[7]]);
            // 0/0 for seconds is how some cameras say "not given".
            if below == 0 && (above != 0 || unit < 2.0) {
                return None;
            }
            if below != 0 {
                sum += f64::from(above) / f64::from(below) / unit;
            }
        }
        Some(sum)
    }
}
