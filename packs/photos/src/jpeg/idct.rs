//! From coefficients to an N x N block of samples, N = 1, 2, 4 or 8.
//!
//! Place: last step of both scan decoders. A reduced block is the N-point inverse transform of
//! the N x N lowest frequencies (the way of libjpeg's `scale_num`), so a smaller picture costs
//! less than a full one that is shrunk afterwards.
//! Must never: depend on the file's order of scans.

use std::f64::consts::PI;

/// The inverse transform at one size; made once per scan.
#[derive(Debug)]
pub(super) struct Inverse<const N: usize> {
    /// `basis[k][x]`: weight of frequency `k` at sample `x`, the scale of N/8 included.
    basis: [[f32; N]; N],
}

/// Rounds to a sample after the level shift. Adding 2^23 leaves the integer in the low bits.
#[inline(always)]
fn sample(value: f32) -> u8 {
    ((value + 128.0).clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8
}

/// The only sample of a 1 x 1 block.
#[inline(always)]
pub(super) fn sample_of_dc(dc: i32, quant: f32) -> u8 {
    sample(dc as f32 * quant * 0.125)
}

impl<const N: usize> Inverse<N> {
    pub(super) fn new() -> Self {
        let mut basis = [[0.0; N]; N];
        for (k, row) in basis.iter_mut().enumerate() {
            let norm = if k == 0 { 1.0 } else { 2.0_f64 };
            let scale = (norm / 8.0).sqrt();
            for (x, weight) in row.iter_mut().enumerate() {
                let angle = (2 * x + 1) as f64 * k as f64 * PI / (2 * N) as f64;
                *weight = (scale * angle.cos()) as f32;
            }
        }
        Self { basis }
    }

    /// Writes one block of dequantised coefficients. `last` is the zigzag index of the last one
    /// that may be non-zero.
    #[inline(always)]
    pub(super) fn write(&self, block: &[[f32; N]; N], last: usize, out: &mut [u8], stride: usize) {
        if last == 0 {
            let flat = sample(block[0][0] * 0.125);
            for line in out.chunks_mut(stride).take(N) {
                line[..N].fill(flat);
            }
            return;
        }
        let mut horizontal = [[0.0_f32; N]; N];
        for (sums, row) in horizontal.iter_mut().zip(block) {
            // At 8 x 8 most rows are empty; below that a test costs more than the arithmetic.
            if N == 8 && row.iter().all(|&weight| weight == 0.0) {
                continue;
            }
            for (weight, basis) in row.iter().zip(&self.basis) {
                for x in 0..N {
                    sums[x] += weight * basis[x];
                }
            }
        }
        for (y, line) in out.chunks_mut(stride).take(N).enumerate() {
            let mut sums = [0.0_f32; N];
            for (row, basis) in horizontal.iter().zip(&self.basis) {
                for x in 0..N {
                    sums[x] += basis[y] * row[x];
                }
            }
            for (pixel, value) in line[..N].iter_mut().zip(sums) {
                *pixel = sample(value);
            }
        }
    }
}

#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// How many coefficients, in zigzag order, hold the N x N lowest frequencies.
pub(super) const fn kept(n: usize) -> usize {
    match n {
        1 => 1,
        2 => 5,
        4 => 25,
        _ => 64,
    }
}
