//! Decodes a baseline or extended sequential scan straight into the planes.
//!
//! Place: called for each SOS of a SOF0/SOF1 frame. Keeps one block of coefficients at a time.
//! Must never: decode a coefficient that the scale does not use; those are passed over.

use super::bits::Bits;
use super::frame::{Component, Frame};
use super::huffman::{Huffman, SkipTable};
use super::idct::{Inverse, ZIGZAG, kept, sample_of_dc};
use super::{JpegError, Scan, Tables};

/// Everything that one component's blocks need.
struct Coder<'t> {
    dc: &'t Huffman,
    ac: &'t Huffman,
    skip: &'t SkipTable,
    quant: [f32; 64],
}

pub(super) fn decode_scan<'a, const N: usize>(
    data: &'a [u8],
    frame: &mut Frame,
    tables: &Tables,
    scan: &Scan,
    stop: &dyn Fn() -> bool,
) -> Result<Bits<'a>, JpegError> {
    let mut coders = Vec::with_capacity(scan.components.len());
    for selected in &scan.components {
        let c = &frame.components[selected.index];
        coders.push(Coder {
            dc: tables.dc(selected.dc)?,
            ac: tables.ac(selected.ac)?,
            skip: tables.skip(selected.ac)?,
            quant: c
                .quant
                .ok_or(JpegError::Corrupt("a quantisation table is missing"))?,
        });
    }
    let inverse = Inverse::<N>::new();
    let mut bits = Bits::new(data, scan.data_at);
    let (wide, high) = scan.grid(frame);
    let mut until_restart = scan.restart_interval;
    for row in 0..high {
        if stop() {
            return Err(JpegError::Cancelled);
        }
        for column in 0..wide {
            if scan.restart_interval > 0 {
                if until_restart == 0 {
                    if !bits.restart() {
                        return Err(JpegError::Truncated { row, rows: high });
                    }
                    until_restart = scan.restart_interval;
                    frame.components.iter_mut().for_each(|c| c.prediction = 0);
                }
                until_restart -= 1;
            }
            for (selected, coder) in scan.components.iter().zip(&coders) {
                let c = &mut frame.components[selected.index];
                let (across, down) = if scan.components.len() == 1 {
                    (1, 1)
                } else {
                    (c.h, c.v)
                };
                for y in row * down..(row + 1) * down {
                    for x in column * across..(column + 1) * across {
                        decode_block::<N>(&mut bits, coder, &inverse, c, x, y);
                    }
                }
            }
        }
        // The last row may lack a few bits: some encoders forget the final padding.
        if bits.overrun() && row + 1 < high {
            return Err(JpegError::Truncated { row, rows: high });
        }
    }
    Ok(bits)
}

#[inline(always)]
fn decode_block<const N: usize>(
    bits: &mut Bits<'_>,
    coder: &Coder<'_>,
    inverse: &Inverse<N>,
    c: &mut Component,
    x: usize,
    y: usize,
) {
    bits.need32();
    let size = u32::from(coder.dc.symbol(bits) & 15);
    c.prediction = c.prediction.wrapping_add(bits.take_signed(size));
    let stride = c.stride_blocks * N;
    let at = y * N * stride + x * N;
    if N == 1 {
        if let Some(pixel) = c.plane.get_mut(at) {
            *pixel = sample_of_dc(c.prediction, coder.quant[0]);
        }
        coder.skip.pass_block(coder.ac, bits, 1);
        return;
    }
    let mut block = [[0.0_f32; N]; N];
    block[0][0] = c.prediction as f32 * coder.quant[0];
    let mut last = 0;
    let mut k = 1_usize;
    while k < kept(N) {
        bits.need32();
        let value = if let Some((run, value)) = coder.skip.value(bits) {
            k += run;
            value
        } else {
            let symbol = coder.ac.symbol(bits);
            let size = u32::from(symbol & 15);
            if size == 0 {
                k += 16;
                if symbol == 0xf0 {
                    continue;
                }
                k = 64;
                break;
            }
            k += usize::from(symbol >> 4);
            bits.take_signed(size)
        };
        if k < kept(N) {
            let (row, column) = (usize::from(ZIGZAG[k] >> 3), usize::from(ZIGZAG[k] & 7));
            if row < N && column < N {
                block[row][column] = value as f32 * coder.quant[k];
                last = k;
            }
        }
        k += 1;
    }
    if k < 64 {
        coder.skip.pass_block(coder.ac, bits, k as u32);
    }
    if let Some(out) = c.plane.get_mut(at..) {
        inverse.write(&block, last, out, stride);
    }
}
