//! Turns a thumbnail upright by its EXIF orientation.
//!
//! Must never: touch samples, only move them.

use super::raster::Raster;
use crate::probe::Orientation;

pub(super) fn upright(raster: Raster, orientation: Orientation) -> Raster {
    if orientation.exif_value() == 1 {
        return raster;
    }
    let (width, height) = (raster.width as usize, raster.height as usize);
    let channels = raster.model.channels();
    let (new_width, new_height) = if orientation.swaps_sides() {
        (height, width)
    } else {
        (width, height)
    };
    let mut samples = Vec::with_capacity(raster.samples.len());
    for y in 0..new_height {
        for x in 0..new_width {
            // Where the upright pixel (x, y) stands in the stored picture.
            let (from_x, from_y) = match orientation.exif_value() {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                8 => (width - 1 - y, x),
                _ => (x, y),
            };
            let at = (from_y * width + from_x) * channels;
            samples.extend_from_slice(&raster.samples[at..at + channels]);
        }
    }
    Raster {
        width: new_width as u32,
        height: new_height as u32,
        samples,
        ..raster
    }
}
