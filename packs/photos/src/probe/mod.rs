//! Reads what a photo's head says: format, size, and a few EXIF fields.
//!
//! Place: phase 1, once per file, between `walk` and the row in the table. One read of 64 KiB
//! answers for nearly every file; more is read only where a marker or an offset points, at most
//! [`EXTRA_READS_MAX`] small pieces.
//! The format comes from the first bytes, never from the name.
//! Must never: decode pixels, follow an offset twice, or hand on text with control characters.

mod bmff;
mod ifd;
mod jpeg;
mod simple;
mod text;

use std::cell::Cell;
use std::io;

pub use text::Taken;

use crate::source::Source;

/// Bytes of the first read.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Small reads behind the head, per file.
const EXTRA_READS_MAX: u32 = 48;
/// Bytes of one of them.
const EXTRA_BYTES_MAX: usize = 8 * 1024;

/// What kind of picture the first bytes announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Tiff,
    Bmp,
    Heic,
    Avif,
    /// A camera's raw file of any maker (CR2, CR3, NEF, ARW, DNG, RAF, ORF, RW2, ...).
    Raw,
    Jpeg2000,
    JpegXl,
    Psd,
}

impl Format {
    /// Whether `convert` can make thumbnails of it.
    pub const fn convertible(self) -> bool {
        match self {
            Self::Jpeg | Self::Png | Self::WebP | Self::Gif | Self::Tiff | Self::Bmp => true,
            Self::Heic | Self::Avif | Self::Raw | Self::Jpeg2000 | Self::JpegXl | Self::Psd => {
                false
            }
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::Heic => "heic",
            Self::Avif => "avif",
            Self::Raw => "raw",
            Self::Jpeg2000 => "jpeg2000",
            Self::JpegXl => "jpegxl",
            Self::Psd => "psd",
        }
    }
}

/// How the stored picture must be turned to stand upright (EXIF 2.32, tag 0x0112).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation(u8);

impl Orientation {
    /// Values outside 1..=8 mean "as it is".
    pub const fn from_exif(value: u16) -> Self {
        if value >= 1 && value <= 8 {
            Self(value as u8 - 1)
        } else {
            Self(0)
        }
    }

    /// 1..=8.
    pub const fn exif_value(self) -> u8 {
        self.0 + 1
    }

    /// Whether width and height change places.
    pub const fn swaps_sides(self) -> bool {
        self.0 >= 4
    }
}

/// The EXIF fields that a photo library shows. Text is capped and free of control characters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exif {
    pub orientation: Orientation,
    pub taken: Option<Taken>,
    pub make: Option<String>,
    pub model: Option<String>,
    /// Degrees, north and east positive; -90..=90 and -180..=180.
    pub position: Option<(f64, f64)>,
}

/// What the head says.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub format: Format,
    /// As stored, before orientation; 0 where `defect` says why it is not known.
    pub width: u32,
    pub height: u32,
    /// Colour channels per pixel, alpha included.
    pub components: u8,
    pub bits_per_sample: u8,
    /// Progressive JPEG.
    pub progressive: bool,
    pub exif: Exif,
    /// Set when the format is clear but the head is damaged or the size cannot be found.
    pub defect: Option<&'static str>,
}

impl Probe {
    fn new(format: Format) -> Self {
        Self {
            format,
            width: 0,
            height: 0,
            components: 0,
            bits_per_sample: 8,
            progressive: false,
            exif: Exif::default(),
            defect: None,
        }
    }
}

/// Why a file is no photo.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    #[error("the file is empty")]
    Empty,
    #[error("no picture format is known that begins like this")]
    UnknownFormat,
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
}

/// Probes files one after the other, with one buffer.
#[derive(Debug)]
pub struct Prober {
    head: Vec<u8>,
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl Prober {
    pub fn new() -> Self {
        Self {
            head: vec![0; HEAD_BYTES],
        }
    }

    /// Reads the head of `source` and what it says.
    pub fn probe<S: Source + ?Sized>(&mut self, source: &S) -> Result<Probe, ProbeError> {
        let filled = source.read_at(0, &mut self.head).map_err(ProbeError::Io)?;
        if filled == 0 {
            return Err(ProbeError::Empty);
        }
        let read_more = |offset: u64, buffer: &mut [u8]| source.read_at(offset, buffer);
        let window = Window {
            head: &self.head[..filled],
            whole: filled < HEAD_BYTES,
            read_more: &read_more,
            reads_left: Cell::new(EXTRA_READS_MAX),
        };
        let format = sniff(window.head).ok_or(ProbeError::UnknownFormat)?;
        let mut probe = Probe::new(format);
        match format {
            Format::Jpeg => jpeg::read(&window, 0, &mut probe),
            Format::Png => simple::png(&window, &mut probe),
            Format::WebP => simple::webp(&window, &mut probe),
            Format::Gif => simple::gif(&window, &mut probe),
            Format::Bmp => simple::bmp(&window, &mut probe),
            Format::Psd => simple::psd(&window, &mut probe),
            Format::Raw if window.head.starts_with(b"FUJIFILMCCD-RAW") => {
                simple::raf(&window, &mut probe);
            }
            Format::Raw if bmff::is(window.head) => bmff::canon(&window, &mut probe),
            Format::Tiff | Format::Raw => ifd::tiff_file(&window, &mut probe),
            Format::Heic | Format::Avif => bmff::heif(&window, &mut probe),
            Format::Jpeg2000 | Format::JpegXl => {
                probe.defect = Some("its size is not read");
            }
        }
        if probe.defect.is_none() && (probe.width == 0 || probe.height == 0) {
            probe.defect = Some("no width or no height");
        }
        Ok(probe)
    }
}

/// Format by the first bytes.
fn sniff(head: &[u8]) -> Option<Format> {
    let begins = |magic: &[u8]| head.starts_with(magic);
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    Some(match head {
        _ if begins(&[0xff, 0xd8, 0xff]) => Format::Jpeg,
        _ if begins(b"\x89PNG\r\n\x1a\n") => Format::Png,
        _ if begins(b"GIF87a") || begins(b"GIF89a") => Format::Gif,
        _ if begins(b"RIFF") && at(8, b"WEBP") => Format::WebP,
        _ if begins(b"FUJIFILMCCD-RAW") => Format::Raw,
        _ if begins(b"II*\0") && at(8, b"CR\x02") => Format::Raw,
        _ if begins(b"IIRO") || begins(b"IIRS") || begins(b"MMOR") || begins(b"IIU\0") => {
            Format::Raw
        }
        _ if begins(b"II*\0") || begins(b"MM\0*") => Format::Tiff,
        _ if begins(b"BM") && head.len() >= 18 && head[15..18] == [0; 3] => Format::Bmp,
        _ if begins(b"8BPS") => Format::Psd,
        _ if begins(b"\0\0\0\x0cjP  ") => Format::Jpeg2000,
        _ if begins(b"\0\0\0\x0cJXL ") || begins(&[0xff, 0x0a]) => Format::JpegXl,
        _ if bmff::is(head) => return bmff::brand(head),
        _ => return None,
    })
}

/// The file as the parsers see it: the head for nothing, other places for one of a few reads.
struct Window<'a> {
    head: &'a [u8],
    /// The head is the whole file.
    whole: bool,
    read_more: &'a dyn Fn(u64, &mut [u8]) -> io::Result<usize>,
    reads_left: Cell<u32>,
}

impl Window<'_> {
    /// `length` bytes from `offset`, from the head or read into `scratch`. `None` when the file
    /// does not hold them, cannot be read there, or the file has used up its reads.
    fn get<'b>(&'b self, offset: u64, length: usize, scratch: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        let end = offset.checked_add(length as u64)?;
        if end <= self.head.len() as u64 {
            return self.head.get(offset as usize..end as usize);
        }
        if self.whole || length > EXTRA_BYTES_MAX || self.reads_left.get() == 0 {
            return None;
        }
        self.reads_left.set(self.reads_left.get() - 1);
        scratch.resize(length, 0);
        match (self.read_more)(offset, scratch) {
            Ok(count) if count == length => Some(scratch),
            _ => None,
        }
    }

    /// As [`Window::get`] for a few bytes.
    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut scratch = Vec::new();
        self.get(offset, N, &mut scratch)
            .and_then(|bytes| bytes.try_into().ok())
    }
}
