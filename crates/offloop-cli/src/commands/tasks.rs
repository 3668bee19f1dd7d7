//! `tasks`: what can be run here, and whether it is.

use std::process::ExitCode;

use super::queues::shut;
use crate::client::{Client, ServerArgs, escape};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Give no more jobs of this task out, in any queue; what runs goes on
    #[arg(long, value_name = "TASK", conflicts_with_all = ["resume", "drain"])]
    pause: Option<String>,
    /// Take them in and give them out again
    #[arg(long, value_name = "TASK")]
    resume: Option<String>,
    /// Take no new jobs of this task; what is there runs to its end
    #[arg(long, value_name = "TASK", conflicts_with = "resume")]
    drain: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let orders = [
        ("pause", &args.pause),
        ("resume", &args.resume),
        ("drain", &args.drain),
    ];
    for (order, task) in orders {
        if let Some(task) = task {
            let path = format!("/v1/tasks/{}/{order}", escape(task));
            client.post(&path, "", &[])?.ok()?;
        }
    }
    let answer = client.get("/v1/tasks")?.ok()?;
    if args.server.json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<28} {:<24} {:>10}  about", "task", "lane", "timeout");
    for task in answer["tasks"].as_array().into_iter().flatten() {
        let text = |field: &str| task[field].as_str().unwrap_or("?").to_owned();
        let limit = std::time::Duration::from_millis(task["timeout_ms"].as_u64().unwrap_or(0));
        println!(
            "{:<28} {:<24} {:>10}  {}{}",
            text("name"),
            text("lane"),
            humantime::format_duration(limit).to_string(),
            text("about"),
            shut(&task["mode"]),
        );
    }
    Ok(ExitCode::SUCCESS)
}
