//! The picture's frame: its components, their planes and their place in the grid of blocks.
//!
//! Place: made from the SOF segment, filled by the scan decoders.
//! Must never: allocate before the caller's limits were asked (they see the header first).

use super::{JpegError, Scale};

/// One colour component and what has been decoded of it.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors, 1..=4.
    pub(super) h: usize,
    pub(super) v: usize,
    pub(super) quant_slot: usize,
    /// Blocks that hold picture; scans with one component cover only these.
    pub(super) blocks_wide: usize,
    pub(super) blocks_high: usize,
    /// Blocks in memory, rounded up to whole MCUs.
    pub(super) stride_blocks: usize,
    pub(super) rows_blocks: usize,
    /// Quantisation in zigzag order, fixed at the component's first scan.
    pub(super) quant: Option<[f32; 64]>,
    /// Samples: `stride_blocks * N` wide.
    pub(super) plane: Vec<u8>,
    /// Progressive only: the kept coefficients of each block, in zigzag order.
    pub(super) coefficients: Vec<i16>,
    /// Progressive only, N > 1: which of the 64 coefficients are known to be non-zero.
    pub(super) nonzero: Vec<u64>,
    pub(super) prediction: i32,
    /// Progressive only: the DC value has its last bit.
    pub(super) dc_complete: bool,
}

/// What the SOF segment says.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) h_max: usize,
    pub(super) v_max: usize,
    pub(super) mcus_wide: usize,
    pub(super) mcus_high: usize,
    pub(super) progressive: bool,
    pub(super) components: Vec<Component>,
}

impl Frame {
    /// Reads a SOF0, SOF1 or SOF2 segment.
    pub(super) fn parse(segment: &[u8], progressive: bool) -> Result<Self, JpegError> {
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = segment else {
            return Err(JpegError::Corrupt("the frame header is too short"));
        };
        if precision != 8 {
            return Err(JpegError::Unsupported(
                "JPEG with more than 8 bits per sample",
            ));
        }
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        if width == 0 || height == 0 {
            return Err(JpegError::Corrupt("the frame has no width or no height"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError::Unsupported(
                "JPEG with other than 1, 3 or 4 components",
            ));
        }
        if rest.len() < usize::from(count) * 3 {
            return Err(JpegError::Corrupt("the frame header is too short"));
        }
        let mut components = Vec::with_capacity(usize::from(count));
        for entry in rest.chunks_exact(3).take(usize::from(count)) {
            let (h, v) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || entry[2] > 3 {
                return Err(JpegError::Corrupt("a component's sampling is out of range"));
            }
            components.push(Component::new(entry[0], h, v, usize::from(entry[2])));
        }
        // One component alone is never subsampled against another (T.81 A.2.2).
        if let [only] = components.as_mut_slice() {
            (only.h, only.v) = (1, 1);
        }
        let h_max = components.iter().map(|c| c.h).max().unwrap_or(1);
        let v_max = components.iter().map(|c| c.v).max().unwrap_or(1);
        let mcus_wide = width.div_ceil(8 * h_max);
        let mcus_high = height.div_ceil(8 * v_max);
        for c in &mut components {
            c.blocks_wide = (width * c.h).div_ceil(h_max).div_ceil(8);
            c.blocks_high = (height * c.v).div_ceil(v_max).div_ceil(8);
            c.stride_blocks = mcus_wide * c.h;
            c.rows_blocks = mcus_high * c.v;
        }
        Ok(Self {
            width,
            height,
            h_max,
            v_max,
            mcus_wide,
            mcus_high,
            progressive,
            components,
        })
    }

    /// Bytes that [`Frame::allocate`] will take.
    pub(super) fn bytes_needed(&self, scale: Scale) -> u64 {
        let n = scale.samples();
        let kept = super::idct::kept(n) as u64;
        let per_block = (n * n) as u64
            + if self.progressive {
                kept * 2 + if n > 1 { 8 } else { 0 }
            } else {
                0
            };
        self.components
            .iter()
            .map(|c| (c.stride_blocks * c.rows_blocks) as u64 * per_block)
            .sum()
    }

    pub(super) fn allocate(&mut self, scale: Scale) {
        let n = scale.samples();
        for c in &mut self.components {
            let blocks = c.stride_blocks * c.rows_blocks;
            c.plane = vec![0; blocks * n * n];
            if self.progressive {
                c.coefficients = vec![0; blocks * super::idct::kept(n)];
                c.nonzero = vec![0; if n > 1 { blocks } else { 0 }];
            }
        }
    }
}

impl Component {
    fn new(id: u8, h: usize, v: usize, quant_slot: usize) -> Self {
        Self {
            id,
            h,
            v,
            quant_slot,
            blocks_wide: 0,
            blocks_high: 0,
            stride_blocks: 0,
            rows_blocks: 0,
            quant: None,
            plane: Vec::new(),
            coefficients: Vec::new(),
            nonzero: Vec::new(),
            prediction: 0,
            dc_complete: false,
        }
    }
}
