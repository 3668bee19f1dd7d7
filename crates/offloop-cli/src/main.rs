//! The program `offloop`: configuration, wiring, commands.
//!
//! Level 7: everything comes together here. Must never: hold logic of the path, of a lane or of a
//! pack.

mod client;
mod commands;
mod config;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Heavy work off your API's event loop, owned to its end.
///
/// Start with `offloop serve`, then look at http://127.0.0.1:7878.
#[derive(Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server: jobs, lanes, HTTP, dashboard
    #[command(
        after_help = "Example:\n  offloop serve --data ./offloop-data --listen 127.0.0.1:7878"
    )]
    Serve(commands::serve::Args),
    /// Check configuration, store and tasks without serving
    #[command(after_help = "Example:\n  offloop check --config offloop.toml")]
    Check(commands::check::Args),
    /// Run a task now and print its answer; nothing is kept
    #[command(
        after_help = "Example:\n  offloop call offloop.spin '{\"cpu_ms\": 50}' --timeout-ms 1000"
    )]
    Call(commands::call::Args),
    /// Ask for a job
    #[command(
        after_help = "Examples:\n  offloop enqueue offloop.spin '{\"cpu_ms\": 500}' --wait 10\n  offloop enqueue report @payload.json --priority 2 --delay 5min"
    )]
    Enqueue(commands::jobs::EnqueueArgs),
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  offloop jobs --state failed --task report --limit 20\n  offloop jobs --class memory_limit"
    )]
    Jobs(commands::jobs::ListArgs),
    /// Show one job: what it is, and what each attempt cost and how it ended
    #[command(after_help = "Example:\n  offloop job 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a --logs")]
    Job(commands::job::ShowArgs),
    /// Cancel a job; a running one is stopped for certain
    #[command(after_help = "Example:\n  offloop cancel 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a")]
    Cancel(commands::jobs::OneArgs),
    /// Give failed, cancelled or expired jobs another life: one, or all that fit
    #[command(
        after_help = "Examples:\n  offloop retry 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a\n  offloop retry --task report --class timeout --since 24h --rate 50\n  offloop retry --state failed --dry-run"
    )]
    Retry(commands::sweep::ManyArgs),
    /// Forget finished jobs: one, or all of a state that fit
    #[command(
        after_help = "Examples:\n  offloop delete 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a\n  offloop delete --state failed --task report --before 30d"
    )]
    Delete(commands::sweep::ManyArgs),
    /// Print jobs as NDJSON, newest first
    #[command(
        after_help = "Examples:\n  offloop export --state failed --since 7d > dead.ndjson\n  offloop export --state failed --as-jobs | curl -s http://127.0.0.1:7878/v1/jobs -H 'content-type: application/x-ndjson' --data-binary @-"
    )]
    Export(commands::sweep::ExportArgs),
    /// List groups of jobs that settle together, newest first
    #[command(after_help = "Example:\n  offloop groups --state open")]
    Groups(commands::groups::ListArgs),
    /// Show one group and its members; seal or cancel it
    #[command(
        after_help = "Examples:\n  offloop group 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a\n  offloop group 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a --cancel"
    )]
    Group(commands::groups::OneArgs),
    /// Show queues and what is in them; pause, drain and resume one
    #[command(after_help = "Examples:\n  offloop queues\n  offloop queues --pause default")]
    Queues(commands::queues::Args),
    /// Show the tasks that can be run; pause, drain and resume one
    #[command(after_help = "Examples:\n  offloop tasks\n  offloop tasks --pause report")]
    Tasks(commands::tasks::Args),
    /// Show schedules and their ledger; make, change, trigger, pause and delete them
    #[command(
        after_help = "Examples:\n  offloop schedules\n  offloop schedules put nightly '{\"task\": \"report\", \"cron\": \"0 3 * * *\", \"timezone\": \"Europe/Berlin\"}'\n  offloop schedules next nightly --count 3\n  offloop schedules ledger nightly\n  offloop schedules trigger nightly"
    )]
    Schedules(commands::schedules::Args),
    /// Show the server as it is now: event loops and what blocks them, lanes, tasks, memory
    #[command(
        after_help = "Examples:\n  offloop pulse\n  offloop pulse --watch\n  offloop pulse --json"
    )]
    Pulse(commands::pulse::Args),
    /// Show what attempts cost, summed by task, queue or tag
    #[command(after_help = "Examples:\n  offloop usage\n  offloop usage --by tag --since 7d")]
    Usage(commands::usage::Args),
    /// Show, set and remove limits: what runs at once and how fast, by queue, task and key
    #[command(
        after_help = "Examples:\n  offloop limits\n  offloop limits set queue:mail --concurrency 4 --rate 100/s --burst 20\n  offloop limits set 'key:*' --concurrency 2\n  offloop limits remove queue:mail"
    )]
    Limits(commands::limits::Args),
    /// Show what operators changed at run time: who, when, from what to what
    #[command(after_help = "Example:\n  offloop audit --subject queue:mail")]
    Audit(commands::limits::AuditArgs),
    /// Call the URLs of a list: bounded, retried within a budget, and never inside
    #[command(
        after_help = "Examples:\n  offloop fetch urls.txt --limit 50\n  offloop fetch calls.ndjson --out answers.ndjson --retries 5 --hedge p95\n  generate-urls | offloop fetch - --deadline 5min --json"
    )]
    Fetch(commands::fetch::Args),
    /// Store a file or URL of delimited text in a target: a database, a topic, a file or jobs
    #[command(
        after_help = "Examples:\n  offloop ingest people.csv --target people\n  offloop ingest people.csv.gz --target people --server http://127.0.0.1:7878\n  offloop ingest people.csv --target people --infer >> offloop.toml\n  offloop ingest https://example.org/people.csv.gz --target people\n  generate-rows | offloop ingest - --target people --rejects bad.ndjson"
    )]
    Ingest(commands::ingest::Args),
    /// Scan a folder of photos and convert them, with a progress bar
    #[command(after_help = "Example:\n  offloop scan ~/Pictures")]
    Scan(commands::scan::Args),
    /// Measure what heavy work does to an event loop on this machine, by where it runs
    #[command(
        after_help = "Examples:\n  offloop lab --svg lab.svg\n  offloop lab --cpu-time-ms 50 --offered 0.8 --only inline,cpu\n  offloop lab serve"
    )]
    Lab(commands::lab::Args),
    /// A warm child of the lab; not for people
    #[command(name = commands::lab::WARM, hide = true)]
    LabWarm,
    /// One piece of the lab's work; not for people
    #[command(name = commands::lab::ONCE, hide = true)]
    LabOnce,
    /// Make, rotate, retire and list the keys of the vault
    #[command(
        after_help = "Examples:\n  offloop vault keygen documents --folder ./keys\n  offloop vault keygen invoices --algorithm ed25519 --folder ./keys\n  offloop vault rotate documents --folder ./keys\n  offloop vault keys --folder ./keys"
    )]
    Vault(commands::vault::Args),
    /// Measure what work costs on this machine, and how many cores or pods a load needs
    #[command(
        after_help = "Examples:\n  offloop plan --mix 'seal:1KiB + sign:rsa2048' --cpu 1500m --pods 3\n  offloop plan --mix hash:argon2id --target-rps 500\n  offloop plan --mix 'task:report=@payload.json' --validate --svg plan.svg"
    )]
    Plan(commands::plan::Args),
    /// Starts a child of a lane; not for people
    #[command(name = "__shim", hide = true, disable_help_flag = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
}

/// Exit codes: 0 done, 1 failed, 2 usage (clap's own).
fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Call(args) => commands::call::run(&args),
        Command::Enqueue(args) => commands::jobs::enqueue(&args),
        Command::Jobs(args) => commands::jobs::list(&args),
        Command::Job(args) => commands::job::show(&args),
        Command::Cancel(args) => commands::jobs::order(&args, "cancel"),
        Command::Retry(args) => commands::sweep::retry(&args),
        Command::Delete(args) => commands::sweep::delete(&args),
        Command::Export(args) => commands::sweep::export(&args),
        Command::Groups(args) => commands::groups::list(&args),
        Command::Group(args) => commands::groups::show(&args),
        Command::Queues(args) => commands::queues::run(&args),
        Command::Tasks(args) => commands::tasks::run(&args),
        Command::Schedules(args) => commands::schedules::run(&args),
        Command::Pulse(args) => commands::pulse::run(&args),
        Command::Usage(args) => commands::usage::run(&args),
        Command::Limits(args) => commands::limits::run(&args),
        Command::Audit(args) => commands::limits::audit(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Ingest(args) => commands::ingest::run(&args),
        Command::Scan(args) => commands::scan::run(&args),
        Command::Lab(args) => commands::lab::run(&args),
        Command::LabWarm => commands::lab::warm(),
        Command::LabOnce => commands::lab::once(),
        Command::Vault(args) => commands::vault::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Shim { arguments } => offloop::lane_process::shim_main(arguments.into_iter()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("offloop: {error:#}");
            ExitCode::FAILURE
        }
    }
}
