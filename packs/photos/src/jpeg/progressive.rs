//! Decodes the scans of a progressive frame, as far as the scale needs them.
//!
//! Place: called for each SOS of a SOF2 frame; `finish` turns coefficients into planes.
//! At 1/8 scale a block is its DC value: AC scans (93 % and more of a file) are skipped unread.
//! At larger scales only the kept coefficients are stored, plus one bit for each of the 64 that
//! says "not zero", which is all that refinement scans need to stay in step (T.81 annex G).
//! Must never: drop a refinement of a kept coefficient; the picture is exact.

use super::bits::Bits;
use super::frame::{Component, Frame};
use super::huffman::Huffman;
use super::idct::{Inverse, ZIGZAG, kept, sample_of_dc};
use super::{JpegError, Scan, Tables};

pub(super) fn decode_scan<'a, const N: usize>(
    data: &'a [u8],
    frame: &mut Frame,
    tables: &Tables,
    scan: &Scan,
    stop: &dyn Fn() -> bool,
) -> Result<Bits<'a>, JpegError> {
    let mut bits = Bits::new(data, scan.data_at);
    let (wide, high) = scan.grid(frame);
    let mut until_restart = scan.restart_interval;
    let mut end_of_band_run = 0_u32;
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
                    end_of_band_run = 0;
                    frame.components.iter_mut().for_each(|c| c.prediction = 0);
                }
                until_restart -= 1;
            }
            for selected in &scan.components {
                let c = &mut frame.components[selected.index];
                let (across, down) = if scan.components.len() == 1 {
                    (1, 1)
                } else {
                    (c.h, c.v)
                };
                for y in row * down..(row + 1) * down {
                    for x in column * across..(column + 1) * across {
                        let block = y * c.stride_blocks + x;
                        if scan.first == 0 {
                            dc_block::<N>(&mut bits, tables, selected.dc, scan, c, block)?;
                        } else {
                            let table = tables.ac(selected.ac)?;
                            let run = &mut end_of_band_run;
                            ac_block::<N>(&mut bits, table, scan, c, block, run);
                        }
                    }
                }
            }
        }
        if bits.overrun() && row + 1 < high {
            return Err(JpegError::Truncated { row, rows: high });
        }
    }
    if scan.first == 0 && scan.low_bit == 0 {
        scan.components
            .iter()
            .for_each(|s| frame.components[s.index].dc_complete = true);
    }
    Ok(bits)
}

#[inline(always)]
fn dc_block<const N: usize>(
    bits: &mut Bits<'_>,
    tables: &Tables,
    slot: usize,
    scan: &Scan,
    c: &mut Component,
    block: usize,
) -> Result<(), JpegError> {
    let at = block * kept(N);
    if scan.high_bit == 0 {
        bits.need32();
        let size = u32::from(tables.dc(slot)?.symbol(bits) & 15);
        c.prediction = c.prediction.wrapping_add(bits.take_signed(size));
        if let Some(dc) = c.coefficients.get_mut(at) {
            *dc = (c.prediction << scan.low_bit) as i16;
        }
    } else if bits.bit()
        && let Some(dc) = c.coefficients.get_mut(at)
    {
        *dc |= 1 << scan.low_bit;
    }
    Ok(())
}

fn ac_block<const N: usize>(
    bits: &mut Bits<'_>,
    table: &Huffman,
    scan: &Scan,
    c: &mut Component,
    block: usize,
    end_of_band_run: &mut u32,
) {
    let at = block * kept(N);
    let (Some(kept_values), Some(nonzero)) = (
        c.coefficients.get_mut(at..at + kept(N)),
        c.nonzero.get_mut(block),
    ) else {
        return;
    };
    if scan.high_bit == 0 {
        ac_first(bits, table, scan, kept_values, nonzero, end_of_band_run);
    } else {
        ac_refine(bits, table, scan, kept_values, nonzero, end_of_band_run);
    }
}

#[inline(always)]
fn ac_first(
    bits: &mut Bits<'_>,
    table: &Huffman,
    scan: &Scan,
    kept_values: &mut [i16],
    nonzero: &mut u64,
    end_of_band_run: &mut u32,
) {
    if *end_of_band_run > 0 {
        *end_of_band_run -= 1;
        return;
    }
    let mut k = scan.first;
    while k <= scan.last {
        bits.need32();
        let symbol = table.symbol(bits);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                *end_of_band_run = (1 << run) - 1 + bits.take(run as u32);
                return;
            }
            k += 16;
            continue;
        }
        k += run;
        let value = bits.take_signed(size) << scan.low_bit;
        if k > scan.last {
            return;
        }
        if let Some(kept_value) = kept_values.get_mut(k) {
            *kept_value = value as i16;
        }
        *nonzero |= 1 << k;
        k += 1;
    }
}

#[inline(always)]
fn ac_refine(
    bits: &mut Bits<'_>,
    table: &Huffman,
    scan: &Scan,
    kept_values: &mut [i16],
    nonzero: &mut u64,
    end_of_band_run: &mut u32,
) {
    let step = 1_i16 << scan.low_bit;
    let mut k = scan.first;
    if *end_of_band_run == 0 {
        while k <= scan.last {
            bits.need32();
            let symbol = table.symbol(bits);
            let mut run = u32::from(symbol >> 4);
            let mut value = 0;
            if symbol.trailing_zeros() >= 4 {
                if run < 15 {
                    *end_of_band_run = (1 << run) + bits.take(run);
                    break;
                }
            } else {
                value = if bits.take(1) == 1 { step } else { -step };
            }
            // Pass `run` zero coefficients; every non-zero one on the way has a correction bit.
            while k <= scan.last {
                if *nonzero >> k & 1 == 1 {
                    correct(bits, kept_values, k, step);
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if value != 0 && k <= scan.last {
                if let Some(kept_value) = kept_values.get_mut(k) {
                    *kept_value = value;
                }
                *nonzero |= 1 << k;
            }
            k += 1;
        }
    }
    if *end_of_band_run > 0 {
        while k <= scan.last {
            if *nonzero >> k & 1 == 1 {
                correct(bits, kept_values, k, step);
            }
            k += 1;
        }
        *end_of_band_run -= 1;
    }
}

#[inline(always)]
fn correct(bits: &mut Bits<'_>, kept_values: &mut [i16], k: usize, step: i16) {
    if bits.bit()
        && let Some(value) = kept_values.get_mut(k)
        && *value & step == 0
    {
        *value = if *value < 0 {
            value.wrapping_sub(step)
        } else {
            value.wrapping_add(step)
        };
    }
}

/// Turns the stored coefficients into samples.
pub(super) fn finish<const N: usize>(
    frame: &mut Frame,
    stop: &dyn Fn() -> bool,
) -> Result<(), JpegError> {
    let inverse = Inverse::<N>::new();
    for c in &mut frame.components {
        let quant = c
            .quant
            .ok_or(JpegError::Corrupt("a component has no scan"))?;
        let stride = c.stride_blocks * N;
        for y in 0..c.rows_blocks {
            if stop() {
                return Err(JpegError::Cancelled);
            }
            for x in 0..c.stride_blocks {
                let from = (y * c.stride_blocks + x) * kept(N);
                let values = &c.coefficients[from..from + kept(N)];
                let at = y * N * stride + x * N;
                if N == 1 {
                    c.plane[at] = sample_of_dc(i32::from(values[0]), quant[0]);
                    continue;
                }
                let mut block = [[0.0_f32; N]; N];
                let mut last = 0;
                for (k, &value) in values.iter().enumerate() {
                    let (row, column) = (usize::from(ZIGZAG[k] >> 3), usize::from(ZIGZAG[k] & 7));
                    if value != 0 && row < N && column < N {
                        block[row][column] = f32::from(value) * quant[k];
                        last = k;
                    }
                }
                inverse.write(&block, last, &mut c.plane[at..], stride);
            }
        }
        c.coefficients = Vec::new();
        c.nonzero = Vec::new();
    }
    Ok(())
}
