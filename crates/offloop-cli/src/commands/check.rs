//! `check`: whether `serve` would start, and with what.

use std::process::ExitCode;

use serde_json::json;

use super::serve;
use crate::config::{self, Flags};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Reads the configuration, opens the store, and starts one child of each lane that keeps them warm;
/// then closes everything. No job is taken. What workers elsewhere run cannot be tried, and is said to be
/// so.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.flags)?;
    let checked = serve::build(&config).check()?;
    let bad = checked.lanes.iter().filter(|lane| lane.problem.is_some());
    let bad = bad.count();
    if args.json {
        let lanes: Vec<_> = checked
            .lanes
            .iter()
            .map(|lane| {
                let tasks: Vec<_> = lane.tasks.iter().map(offloop::TaskName::as_str).collect();
                let tried = !lane.elsewhere;
                json!({ "lane": lane.name, "tasks": tasks, "problem": lane.problem, "tried": tried })
            })
            .collect();
        println!(
            "{}",
            json!({ "ok": bad == 0, "data": config.data, "listen": config.listen.to_string(), "store": checked.engine, "system": checked.means.to_string(), "lanes": lanes })
        );
        return Ok(if bad == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    println!("data    {}", config.data.display());
    println!("listen  {}", config.listen);
    println!("store   {}", checked.engine);
    println!("system  {}", checked.means);
    for lane in &checked.lanes {
        for task in &lane.tasks {
            let untried = if lane.elsewhere {
                ", by workers elsewhere: declared, cannot be tried from here"
            } else {
                ""
            };
            println!("task    {:<24} on {}{untried}", task.as_str(), lane.name);
        }
        if let Some(problem) = &lane.problem {
            println!("problem {problem}");
        }
    }
    let count = |elsewhere: bool| {
        let lanes = checked.lanes.iter();
        let lanes = lanes.filter(|lane| lane.elsewhere == elsewhere);
        lanes.map(|lane| lane.tasks.len()).sum::<usize>()
    };
    let (here, elsewhere) = (count(false), count(true));
    if bad > 0 {
        println!("not ok: {bad} of {} lanes cannot work", checked.lanes.len());
        return Ok(ExitCode::FAILURE);
    }
    match elsewhere {
        0 => println!("ok: {here} tasks"),
        _ => println!("ok: {here} tasks; {elsewhere} more of workers elsewhere were not tried"),
    }
    Ok(ExitCode::SUCCESS)
}
