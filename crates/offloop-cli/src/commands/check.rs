//! `check`: whether `serve` would start, and with what.

use std::process::ExitCode;

use anyhow::Context;
use offloop::Checked;
use offloop_ingest::Sink;
use offloop_ingest::pack::{Opener, try_out};
use serde_json::{Value, json};

use super::serve;
use crate::config::{self, Config, Flags};

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
    let targets = targets(&config, &checked)?;
    let consumers = consumers(&config)?;
    let bad = checked.lanes.iter().filter(|lane| lane.problem.is_some());
    let bad_targets = targets.iter().filter(|(_, problem)| problem.is_some());
    let bad_consumers = consumers.iter().filter(|tried| !tried.1.is_empty()).count();
    let (bad, bad_targets) = (bad.count(), bad_targets.count());
    let is_good = bad == 0 && bad_targets == 0 && bad_consumers == 0;
    if args.json {
        let mut view = view(&config, &checked, &targets, is_good);
        let consumers = consumers.iter();
        let consumers =
            consumers.map(|(name, problems)| json!({ "consumer": name, "problems": problems }));
        view["consumers"] = consumers.collect();
        println!("{view}");
        return Ok(if is_good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    println!("data    {}", config.data.display());
    println!("listen  {}", config.listen);
    println!("store   {}", checked.engine);
    println!("system  {}", checked.means);
    print_lanes(&checked);
    let count = |elsewhere: bool| {
        let lanes = checked.lanes.iter();
        let lanes = lanes.filter(|lane| lane.elsewhere == elsewhere);
        lanes.map(|lane| lane.tasks.len()).sum::<usize>()
    };
    let (here, elsewhere) = (count(false), count(true));
    print_places(&targets, &consumers);
    if bad_consumers > 0 {
        println!(
            "not ok: {bad_consumers} of {} consumers cannot read or cannot put messages aside",
            consumers.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    if bad_targets > 0 {
        println!(
            "not ok: {bad_targets} of {} targets cannot be written",
            targets.len()
        );
        return Ok(ExitCode::FAILURE);
    }
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

fn print_lanes(checked: &Checked) {
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
}

/// Where rows go and messages come from.
fn print_places(targets: &[Tried], consumers: &[TriedConsumer]) {
    for (name, problem) in targets {
        println!("target  {name}");
        if let Some(problem) = problem {
            println!("problem ingest.targets.{name}: {problem}");
        }
    }
    for (name, problems) in consumers {
        println!("consumer {name}");
        for problem in problems {
            println!("problem {problem}");
        }
    }
}

fn view(config: &Config, checked: &Checked, targets: &[Tried], is_good: bool) -> Value {
    let lanes = checked.lanes.iter().map(|lane| {
        let tasks: Vec<_> = lane.tasks.iter().map(offloop::TaskName::as_str).collect();
        let tried = !lane.elsewhere;
        json!({ "lane": lane.name, "tasks": tasks, "problem": lane.problem, "tried": tried })
    });
    let targets = targets.iter();
    let targets = targets.map(|(name, problem)| json!({ "target": name, "problem": problem }));
    json!({
        "ok": is_good,
        "data": config.data,
        "listen": config.listen.to_string(),
        "store": checked.engine,
        "system": checked.means.to_string(),
        "lanes": lanes.collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
    })
}

/// A target's name, and what is wrong with its place.
type Tried = (String, Option<String>);

fn is_task(checked: &Checked, name: &str) -> bool {
    let mut tasks = checked.lanes.iter().flat_map(|lane| &lane.tasks);
    tasks.any(|task| task.as_str() == name)
}

/// Each target's place: whether it is there and is what the declaration says.
fn targets(config: &Config, checked: &Checked) -> anyhow::Result<Vec<Tried>> {
    let Some(ingest) = &config.ingest else {
        return Ok(Vec::new());
    };
    let runtime = runtime()?;
    let mut opener = Opener::new(ingest.places(&config.data.join("ingest"), None));
    let mut tried = Vec::new();
    for target in &ingest.targets {
        let problem = match target.sink() {
            // No place of its own: its server's lanes are what it needs.
            Sink::Jobs { task } => (!is_task(checked, task))
                .then(|| format!("no task `{task}` is declared; declare [tasks.{task}]")),
            _ => runtime.block_on(try_out(target, &mut opener)).err(),
        };
        tried.push((target.name().to_owned(), problem));
    }
    Ok(tried)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().context("cannot start")
}

/// A consumer's name, and what is wrong with its topics.
type TriedConsumer = (String, Vec<String>);

/// Each consumer's topics: whether they are there, and take what it brings.
#[cfg(feature = "kafka")]
fn consumers(config: &Config) -> anyhow::Result<Vec<TriedConsumer>> {
    let Some(ingest) = &config.ingest else {
        return Ok(Vec::new());
    };
    // Consumers without a cluster were refused when the configuration was read.
    let Some(kafka) = &ingest.kafka else {
        return Ok(Vec::new());
    };
    let runtime = runtime()?;
    let tried = ingest.consumers.iter().map(|consumer| {
        let tried = runtime.block_on(offloop_ingest::pack::try_consumer(consumer, kafka));
        let problems = tried.err().unwrap_or_default();
        let problems = problems.iter().map(ToString::to_string).collect();
        (consumer.name().to_owned(), problems)
    });
    Ok(tried.collect())
}

/// There are none in this build.
#[cfg(not(feature = "kafka"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
fn consumers(_: &Config) -> anyhow::Result<Vec<TriedConsumer>> {
    Ok(Vec::new())
}
