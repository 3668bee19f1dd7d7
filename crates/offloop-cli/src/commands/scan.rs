//! `scan`: a folder of photos, with a bar for each phase.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder to scan, on the server's machine
    folder: PathBuf,
    /// Do not wait for the conversion: ask for the scan and return
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const POLL: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = std::fs::canonicalize(&args.folder)
        .with_context(|| format!("cannot find the folder {}", args.folder.display()))?;
    let path = folder
        .to_str()
        .context("the folder's path is not UTF-8; the API cannot name it")?;
    let client = Client::new(&args.server);
    let body = json!({ "path": path }).to_string();
    let answer = client.post("/v1/photos/scan", &body, &[])?.ok()?;
    if args.detach {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    let status = follow(&client, &answer)?;
    if args.server.json {
        println!("{status}");
    } else {
        println!("{}", summary(&status));
    }
    let failed = status["scan"]["state"] == "failed";
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn count(status: &Value, label: &str) -> u64 {
    status["counts"][label].as_u64().unwrap_or(0)
}

/// Until the scan has ended and nothing waits for conversion.
fn follow(client: &Client, scan: &Value) -> anyhow::Result<Value> {
    let bars = MultiProgress::new();
    let spinner = ProgressStyle::with_template("{spinner} scan     {msg}")?;
    let found = bars.add(ProgressBar::new_spinner().with_style(spinner));
    let style = "  convert  [{bar:32}] {pos}/{len}  {msg}";
    let style = ProgressStyle::with_template(style)?.progress_chars("=> ");
    let converted = bars.add(ProgressBar::new(0).with_style(style));
    let job = scan["job"]
        .as_str()
        .or(scan["id"].as_str())
        .unwrap_or("")
        .to_owned();
    loop {
        let status = client.get("/v1/photos/status")?.ok()?;
        let scan_over = job.is_empty() || {
            let job = client.get(&format!("/v1/jobs/{job}"))?.ok()?;
            matches!(
                job["state"].as_str(),
                Some("completed" | "failed" | "cancelled" | "expired")
            )
        };
        let open = count(&status, "PENDING_CONVERSION") + count(&status, "CONVERTING");
        let ended = count(&status, "DONE") + count(&status, "FAILED");
        found.set_message(format!("{} photos", open + ended));
        found.tick();
        converted.set_length(open + ended);
        converted.set_position(ended);
        let rate = status["rate"].as_f64().unwrap_or(0.0);
        let eta = status["eta_ms"]
            .as_u64()
            .map(|ms| Duration::from_secs(ms.div_ceil(1000)));
        let eta = eta.map_or("-".into(), |eta| {
            humantime::format_duration(eta).to_string()
        });
        converted.set_message(format!(
            "{rate:.1}/s, {} failed, {eta} left",
            count(&status, "FAILED")
        ));
        if scan_over && open == 0 {
            found.finish_and_clear();
            converted.finish_and_clear();
            return Ok(status);
        }
        std::thread::sleep(POLL);
    }
}

fn summary(status: &Value) -> String {
    format!(
        "{} done, {} failed, {} missing; {} at a time",
        count(status, "DONE"),
        count(status, "FAILED"),
        count(status, "MISSING"),
        status["concurrency"],
    )
}
