//! From coefficients to an N x N block of samples, N = 1, 2, 4 or 8.
//!
//! Place: last step of both scan decoders. A reduced block is the N-point inverse transform of
//! the N x N lowest frequencies (the way of libjpeg's `scale_num`), so a smaller picture costs
//! less than a full one that is shrunk afterwards.
//! Must never: depend on the file's order of scans.

use std::f64::consts::PI;
use std::sync::LazyLock;

/// `basis[k * N + x]`: weight of frequency `k` at sample `x`, the scale of N/8 included.
struct Basis([[f32; 64]; 4]);

static BASIS: LazyLock<Basis> = LazyLock::new(|| {
    let mut all = [[0.0; 64]; 4];
    for (slot, n) in [(0, 1_usize), (1, 2), (2, 4), (3, 8)] {
        for k in 0..n {
            let norm = if k == 0 { 1.0 } else { 2.0_f64 };
            let scale = (norm / n as f64 * (n as f64 / 8.0)).sqrt();
            for x in 0..n {
                let angle = (2 * x + 1) as f64 * k as f64 * PI / (2 * n) as f64;
                all[slot][k * n + x] = (scale * angle.cos()) as f32;
            }
        }
    }
    Basis(all)
});

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

/// Writes one block. `coefficients` is N x N, row-major and dequantised; `rows` has bit `r` set
/// when row `r` holds something.
#[inline(always)]
pub(super) fn write_block<const N: usize>(
    coefficients: &[f32; 64],
    rows: u32,
    out: &mut [u8],
    stride: usize,
) {
    let basis = &BASIS.0[N.trailing_zeros() as usize];
    let mut horizontal = [0.0_f32; 64];
    for r in 0..N {
        if rows >> r & 1 == 0 {
            continue;
        }
        let mut sums = [0.0_f32; N];
        for c in 0..N {
            let weight = coefficients[r * N + c];
            if weight != 0.0 {
                for x in 0..N {
                    sums[x] += weight * basis[c * N + x];
                }
            }
        }
        horizontal[r * N..r * N + N].copy_from_slice(&sums);
    }
    for y in 0..N {
        let mut sums = [0.0_f32; N];
        for r in 0..N {
            if rows >> r & 1 != 0 {
                let weight = basis[r * N + y];
                for x in 0..N {
                    sums[x] += weight * horizontal[r * N + x];
                }
            }
        }
        if let Some(line) = out.get_mut(y * stride..y * stride + N) {
            for (pixel, value) in line.iter_mut().zip(sums) {
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
