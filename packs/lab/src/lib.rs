//! The experiment behind offloop: one loop thread serves `/` while heavy work comes in and is done
//! in one of seven ways. How long does `/` take, how much work is done, and what is left running
//! when a client hangs up?
//!
//! [`serve`] is the server with an endpoint for each way; [`run`] starts it once for each of them,
//! loads it, probes `/` and answers with a [`Record`]; [`table`], [`chart`] and the record's
//! conclusion say what was found.
//!
//! Must never: be part of a server in production. It burns processor time for whoever asks.

mod child;
mod measure;
mod report;
mod server;
mod strategy;
mod work;

pub use child::{once, warm};
pub use measure::{LabError, Plan, Progress, ServerCommand, run};
pub use report::{
    HangUp, Machine, Parameters, Probe, Record, Row, WorkDone, chart, conclusion, table,
};
pub use server::{
    CPU_TIME_MS_MAX, Ready, ServeError, ServeOptions, TIMEOUT_MS_MAX, scratch, serve,
};
pub use strategy::Kind;
pub use work::{Chain, Done, Pace, Piece, compute};
