//! The photo pack: scan a library fast, convert it in the background.
//!
//! The engine, in the order of a photo's way: [`walk`] finds and opens files, [`probe`] reads
//! their heads, [`budget`] predicts what a conversion costs, [`convert`] makes thumbnails with
//! the decoder of [`jpeg`] and those of the `image` crate.
//!
//! [`PhotosPack`] is the library around it: rows, tasks, routes, a page.
//!
//! The engine must never: read the clock or the environment, start a process, or hold state between photos.

pub mod budget;
pub mod convert;
pub mod jpeg;
mod library;
pub mod probe;
pub mod source;
pub mod walk;

pub use library::{Converter, PhotosOptions, PhotosPack, Status};
