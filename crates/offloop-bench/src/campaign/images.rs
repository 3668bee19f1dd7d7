//! Pictures made by code: sound small ones, and ones that claim more than they are.

use std::fs;
use std::path::Path;

use super::dice::Dice;

/// A grey PNG of noise in stored (uncompressed) blocks.
pub(crate) fn png(width: u32, height: u32, dice: &mut Dice) -> Vec<u8> {
    let mut rows = Vec::new();
    for _ in 0..height {
        rows.push(0);
        rows.extend((0..width).map(|_| dice.roll() as u8));
    }
    png_of(width, height, &[], &zlib_stored(&rows))
}

/// `before`: chunks between the header and the pixels.
fn png_of(width: u32, height: u32, before: &[(&[u8; 4], Vec<u8>)], pixels: &[u8]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut head = Vec::new();
    head.extend(width.to_be_bytes());
    head.extend(height.to_be_bytes());
    head.extend([8, 0, 0, 0, 0]); // 8 bits, grey
    chunk(&mut out, *b"IHDR", &head);
    for (name, data) in before {
        chunk(&mut out, **name, data);
    }
    chunk(&mut out, *b"IDAT", pixels);
    chunk(&mut out, *b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let from = out.len();
    out.extend(name);
    out.extend(data);
    let sum = crc32(&out[from..]);
    out.extend(sum.to_be_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

fn zlib_stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut pieces = data.chunks(65_535).peekable();
    while let Some(piece) = pieces.next() {
        let length = piece.len() as u16;
        out.push(u8::from(pieces.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(piece);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// Bits of a deflate stream, lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, bits: u32, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }
}

/// About `mebibytes` of zero bytes in 1/158 of it: one literal, then longest matches of distance 1
/// (fixed codes, RFC 1951 3.2.6). The checksum is wrong; nobody should get as far.
fn zlib_bomb(mebibytes: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.push(0b011, 3); // last block, fixed codes
    bits.push(0b0000_1100, 8); // literal 0: code 00110000, first bit first
    for _ in 0..(mebibytes << 20) / 258 {
        bits.push(0b1010_0011, 8); // length 258: code 11000101
        bits.push(0, 5); // distance 1
    }
    bits.push(0, 7); // end of block
    bits.push(0, 7);
    let mut out = vec![0x78, 0x9c];
    out.extend(bits.bytes);
    out.extend([0; 4]);
    out
}

/// The luminance DC codes of ITU T.81 table K.3: code and its length, by category.
const DC_CODES: [(u32, u32); 12] = [
    (0b00, 2),
    (0b010, 3),
    (0b011, 3),
    (0b100, 3),
    (0b101, 3),
    (0b110, 3),
    (0b1110, 4),
    (0b1_1110, 5),
    (0b11_1110, 6),
    (0b111_1110, 7),
    (0b1111_1110, 8),
    (0b1_1111_1110, 9),
];

/// A grey baseline JPEG of blocks of one brightness each. `claimed`: size in the header, if another.
pub(crate) fn jpeg(
    width: u16,
    height: u16,
    claimed: Option<(u16, u16)>,
    dice: &mut Dice,
) -> Vec<u8> {
    let (claimed_width, claimed_height) = claimed.unwrap_or((width, height));
    let mut out = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    out.extend([1; 64]); // no quantisation
    out.extend([0xff, 0xc0, 0, 11, 8]);
    out.extend(claimed_height.to_be_bytes());
    out.extend(claimed_width.to_be_bytes());
    out.extend([1, 1, 0x11, 0]);
    out.extend([
        0xff, 0xc4, 0, 31, 0, 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0,
    ]);
    out.extend(0..12);
    // One AC code, of one bit: end of block.
    out.extend([
        0xff, 0xc4, 0, 20, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    out.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    let (mut held, mut count, mut last) = (0_u64, 0_u32, 0_i32);
    let mut put = |bits: u32, length: u32, out: &mut Vec<u8>| {
        held = (held << length) | u64::from(bits);
        count += length;
        while count >= 8 {
            let byte = (held >> (count - 8)) as u8;
            out.push(byte);
            if byte == 0xff {
                out.push(0);
            }
            count -= 8;
        }
    };
    for _ in 0..u32::from(width).div_ceil(8) * u32::from(height).div_ceil(8) {
        let value = dice.between(0, 2000) as i32 - 1000;
        let step = value - last;
        last = value;
        let category = 32 - step.unsigned_abs().leading_zeros();
        let (code, length) = DC_CODES[category as usize];
        put(code, length, &mut out);
        let bits = if step < 0 { step - 1 } else { step };
        put(bits as u32 & ((1 << category) - 1), category, &mut out);
        put(0, 1, &mut out);
    }
    put(0x7f, 7, &mut out);
    out.extend([0xff, 0xd9]);
    out
}

/// A folder of `count` sound pictures.
pub(crate) fn library(folder: &Path, count: u32, dice: &mut Dice) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    for number in 0..count {
        write_sound(folder, number, dice)?;
    }
    Ok(())
}

/// Writes picture `number` anew: another content, another time.
pub(crate) fn write_sound(folder: &Path, number: u32, dice: &mut Dice) -> anyhow::Result<()> {
    let (width, height) = (dice.between(40, 500) as u16, dice.between(40, 400) as u16);
    let (name, bytes) = if number.is_multiple_of(2) {
        (
            format!("{number}.png"),
            png(width.into(), height.into(), dice),
        )
    } else {
        (format!("{number}.jpg"), jpeg(width, height, None, dice))
    };
    // As tools do: a scan sees the old one or the new one.
    let draft = folder.join(format!(".{name}"));
    fs::write(&draft, bytes)?;
    fs::rename(draft, folder.join(name))?;
    Ok(())
}

/// Cut and damaged ones.
const DAMAGED: u32 = 120;

/// Pictures that claim more than they are, cut ones and damaged ones. Returns how many.
pub(crate) fn hostile(folder: &Path, dice: &mut Dice) -> anyhow::Result<usize> {
    fs::create_dir_all(folder)?;
    let text = |name: &[u8; 4], mebibytes: usize| -> Vec<u8> {
        let start: &[u8] = if name == b"iTXt" {
            b"x\0\x01\0\0\0"
        } else {
            b"x\0\0"
        };
        [start, &zlib_bomb(mebibytes)].concat()
    };
    let pixel = zlib_stored(&[0, 0]);
    let mut progressive = jpeg(64, 64, Some((65_535, 65_535)), dice);
    if let Some(at) = progressive.windows(2).position(|two| two == [0xff, 0xc0]) {
        progressive[at + 1] = 0xc2;
    }
    let mut bmp = b"BM\x3e\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bmp.extend([0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 24, 0]);
    bmp.extend([0; 32]);
    let gif = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;";
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("png-65535.png", png_of(65_535, 65_535, &[], &pixel)),
        ("png-100k.png", png_of(100_000, 100_000, &[], &pixel)),
        ("png-2g.png", png_of(0x7fff_ffff, 0x7fff_ffff, &[], &pixel)),
        ("png-wide.png", png_of(100_000_000, 1, &[], &pixel)),
        ("png-pixels.png", png_of(9_000, 9_000, &[], &zlib_bomb(78))),
        (
            "png-too-many-pixels.png",
            png_of(100, 100, &[], &zlib_bomb(600)),
        ),
        (
            "png-ztxt.png",
            png_of(1, 1, &[(b"zTXt", text(b"zTXt", 600))], &pixel),
        ),
        (
            "png-itxt.png",
            png_of(1, 1, &[(b"iTXt", text(b"iTXt", 600))], &pixel),
        ),
        (
            "png-iccp.png",
            png_of(1, 1, &[(b"iCCP", text(b"iCCP", 600))], &pixel),
        ),
        ("jpeg-65535.jpg", jpeg(8, 8, Some((65_535, 65_535)), dice)),
        ("jpeg-progressive.jpg", progressive),
        ("gif-65535.gif", gif.to_vec()),
        ("bmp-65535.bmp", bmp),
        ("empty.jpg", Vec::new()),
    ];
    for (name, bytes) in &files {
        fs::write(folder.join(name), bytes)?;
    }
    for number in 0..DAMAGED {
        let (mut bytes, kind) = if number.is_multiple_of(2) {
            (png(120, 90, dice), "png")
        } else {
            (jpeg(320, 240, None, dice), "jpg")
        };
        if number % 4 < 2 {
            bytes.truncate(dice.between(1, bytes.len() as u64) as usize);
        } else {
            for _ in 0..dice.between(1, 20) {
                let at = dice.between(0, bytes.len() as u64) as usize;
                bytes[at] = dice.roll() as u8;
            }
        }
        fs::write(folder.join(format!("damaged-{number}.{kind}")), bytes)?;
    }
    Ok(files.len() + DAMAGED as usize)
}
