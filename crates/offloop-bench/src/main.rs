//! Benchmarks and reliability campaigns, run by hand or by `just`. Each prints its machine, versions
//! and durability, and JSON lines for scripts.

mod campaign;
mod child;
mod http;
mod path;
mod report;

use clap::{Parser, Subcommand};

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
    /// Runtime, embedded store and CPU lane in one process, without HTTP
    Path(path::Args),
    /// What campaigns and benches start as a job
    #[command(hide = true, subcommand)]
    Child(child::Child),
    /// A reliability campaign against the whole program
    Campaign(campaign::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Http(args) => http::run(&args),
        Command::Child(child) => child.run(),
        Command::Path(args) => path::run(&args),
        Command::Campaign(args) => campaign::run(&args),
    }
}
