//! The HTTP door: routes, server-sent events, the dashboard.
//!
//! A request goes accept -> guard -> auth -> route -> [`offloop_runtime::RuntimeHandle`]. Must
//! never: reach past the handle to a store or a lane, run a task, keep state that a restart would
//! miss, or hold anything without a bound.

mod auth;
mod body;
mod config;
mod conn;
mod door;
mod encoding;
mod figures;
mod files;
mod guard;
mod mark;
mod metrics;
mod pack;
mod problem;
mod query;
mod routes;
mod service;

pub use axum;
pub use body::{Collected, UnderWay, collect, refusal as body_refusal};
pub use config::{DoorConfig, DoorError, TOKEN_BYTES_MIN};
pub use conn::Interim;
pub use door::{Closing, Door, DoorReport};
pub use files::send_file;
pub use mime;
pub use pack::{PackMetrics, PackPage, PackRoutes};
pub use problem::Refusal;
pub use routes::key_of_request;
