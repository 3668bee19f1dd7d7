//! The vault pack: passwords, seals and signatures at request time, off the event loop.
//!
//! The core, from the outside in: [`ops`] carries one request out, of [`password`]s (by [`argon`] and
//! [`bcrypt`]), [`envelope`]s (sealed by [`seal`], signed by [`sign`]) with the [`keys`] of a folder;
//! [`body`] reads and writes what travels.
//!
//! [`VaultPack`] is the pack around it: call lanes, routes, a page.
//!
//! Must never: let a secret into a log, an error, a `Debug` text or the store; say of a broken
//! ciphertext why it is broken; make a nonce from anything but the kernel's generator.

pub mod argon;
pub mod bcrypt;
pub mod body;
pub mod envelope;
mod error;
pub mod keys;
pub mod ops;
mod pack;
pub mod password;
pub mod seal;
pub mod sign;
mod wipe;

pub use error::{Kind, VaultError};
pub use pack::{VaultOptions, VaultPack};
pub use wipe::Wiped;
