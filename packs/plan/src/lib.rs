//! Capacity planning: what a mix of work costs on this machine, how many requests so many cores carry,
//! how long they take by load, and whether that is true.
//!
//! [`mix`] says what a request does; [`measure`] finds its costs on the real [`server`] under [`load`];
//! [`predict`] makes capacity of them, with [`queueing`] for the waits; [`validate`] holds it against
//! the server; [`report`] tells it.
//!
//! A pack without tasks or routes: the program runs it. Built on the facade alone. Must never: assume
//! what it can measure, or touch the operator's data, keys or running server.

pub mod cores;
mod load;
pub mod measure;
pub mod mix;
mod operation;
pub mod predict;
mod proc;
pub mod queueing;
pub mod report;
mod server;
mod setup;
pub mod validate;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use offloop::TaskName;

pub use cores::{Cores, CoresError};
pub use measure::{MakeKeys, Measured};
pub use mix::{Mix, MixError};
pub use server::ServerCommand;
pub use setup::UserConfig;
pub use validate::Validation;

/// Why a plan was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    #[error("no folder for the trial server's data and keys")]
    Folder(#[source] io::Error),
    #[error("cannot make the trial keys: {0}")]
    Keys(String),
    #[error("cannot start the trial server")]
    Spawn(#[source] io::Error),
    #[error("the trial server does not listen; what it printed above says why")]
    NotListening,
    #[error("the task `{name}` is not declared; declared are {known}")]
    UnknownTask { name: TaskName, known: String },
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    #[error("the payload {}: {why}", file.display())]
    Payload { file: PathBuf, why: String },
    #[error("{operation} does not work, so it cannot be measured")]
    Operation {
        operation: String,
        #[source]
        cause: io::Error,
    },
    #[error("stopped before it was done")]
    Stopped,
    #[error("the load's client failed")]
    Load(#[source] io::Error),
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    pub mix: &'a Mix,
    pub command: &'a ServerCommand,
    pub user: &'a UserConfig,
    /// For the whole measurement, about; 0.2 and more. Longer where calls are long.
    pub seconds: f64,
    /// For the validation, about; `None`: none.
    pub validate_seconds: Option<f64>,
    /// Of the times at which calls come.
    pub seed: u64,
    /// Set: it ends with [`PlanError::Stopped`], and leaves nothing behind.
    pub stop: &'a AtomicBool,
}

/// What was found out about a mix.
#[derive(Clone, Debug)]
pub struct Findings {
    pub measured: Measured,
    pub validation: Option<Validation>,
}

/// Measures, and validates if that is asked for. `tell`: part that is done, 0 to 1, and what comes.
pub fn run(
    trial: &Trial<'_>,
    make_keys: &MakeKeys<'_>,
    tell: &mut dyn FnMut(f64, &str),
) -> Result<Findings, PlanError> {
    let bench = measure::Bench::new(trial, make_keys)?;
    let more = trial.validate_seconds.unwrap_or(0.0);
    let part = trial.seconds / (trial.seconds + more);
    let measured = measure::measure(&bench, trial.seconds, &mut |done, what| {
        tell(done * part, what);
    })?;
    let validation = match trial.validate_seconds {
        None => None,
        Some(seconds) => Some(validate::validate(
            &bench,
            &measured,
            seconds,
            &mut |done, what| {
                tell(part + done * (1.0 - part), what);
            },
        )?),
    };
    Ok(Findings {
        measured,
        validation,
    })
}
