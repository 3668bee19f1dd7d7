//! The routes over a real door.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod bad;
mod good;
mod leaving;
mod secrets;
mod support;
