//! `check`: whether `serve` would start, and with what.

use std::process::ExitCode;

use serde_json::json;

use super::serve;
use crate::config::{self, Flags, TaskLane};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Reads the configuration, then opens the store and the lanes as `serve` does, and closes them.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.flags)?;
    let server = serve::build(&config).start()?;
    let tasks: Vec<_> = server
        .handle()
        .tasks()
        .iter()
        .map(|task| json!({ "task": task.info.name.as_str(), "lane": task.lane }))
        .collect();
    let engine = server.handle().capability().engine;
    drop(server);
    let declared = config
        .tasks
        .iter()
        .filter(|task| matches!(task.lane, TaskLane::Process { .. }));
    if args.json {
        println!(
            "{}",
            json!({ "ok": true, "data": config.data, "listen": config.listen.to_string(), "store": engine, "tasks": tasks })
        );
    } else {
        println!("data    {}", config.data.display());
        println!("listen  {}", config.listen);
        println!("store   {engine}");
        for task in &tasks {
            let text = |key: &str| task[key].as_str().unwrap_or("").to_owned();
            println!("task    {:<24} on {}", text("task"), text("lane"));
        }
        println!(
            "ok: {} tasks, {} with warm children",
            tasks.len(),
            declared.count()
        );
    }
    Ok(ExitCode::SUCCESS)
}
