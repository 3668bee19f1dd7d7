//! Benchmarks and reliability campaigns, run by hand or by `just`. Each prints its machine, versions
//! and durability, and JSON lines for scripts.

mod campaign;
mod child;
mod fair;
mod http;
mod lanes;
mod path;
mod report;
mod schedules;
mod tell;

use clap::{Parser, Subcommand};
use offloop_lane_process::{SHIM_COMMAND, shim_main};

#[derive(Parser)]
#[command(about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The program over HTTP: speed, pickup, scale, beside a rival
    Http(http::Args),
    /// The lanes alone, beside thread pools and npm's process pools
    Lanes(lanes::Args),
    /// Runtime, embedded store and CPU lane in one process, without HTTP
    Path(path::Args),
    /// Many schedules: how late they are fired
    Schedules(schedules::Args),
    /// Claims under many limited keys, a quiet tenant beside a noisy one, bursts
    Fair(fair::Args),
    /// What campaigns and benches start as a job
    #[command(hide = true, subcommand)]
    Child(child::Child),
    /// A reliability campaign against the whole program
    Campaign(campaign::Args),
}

fn main() -> anyhow::Result<()> {
    // Between a lane and its child this program is the shim, and nothing else.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == SHIM_COMMAND) {
        shim_main(args)
    }
    match Cli::parse().command {
        Command::Http(args) => http::run(&args),
        Command::Child(child) => child.run(),
        Command::Lanes(args) => lanes::run(&args),
        Command::Path(args) => path::run(&args),
        Command::Schedules(args) => schedules::run(&args),
        Command::Fair(args) => fair::run(&args),
        Command::Campaign(args) => campaign::run(&args),
    }
}
