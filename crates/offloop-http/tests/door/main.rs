//! The door as callers meet it: a real server, real sockets, a store in memory, a CPU lane.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bulk;
mod calls;
mod encoded;
mod events;
mod gates;
mod groups;
mod interim;
mod limits;
mod modes;
mod pages;
mod payload;
mod pulse;
mod routes;
mod schedules;
mod security;
mod stream;
mod support;
mod sweep;
mod usage;
mod wait;
mod work;
