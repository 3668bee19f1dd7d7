//! R5: a disk that fills up, stays full, and has room again.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::load::{Load, Mix, Sample};
use super::oracle::ask;
use super::{Run, spread};

const CYCLES: u32 = 5;
const DISK_MIB: u32 = 64;
/// Jobs that run while the disk fills.
const RUNNING_JOBS: usize = 2;
const RUNNING_MS: u64 = 2_000;
const ACCEPT_WITHIN: Duration = Duration::from_secs(5);
const LOG_LINES_PER_MINUTE: usize = 10;

/// A tmpfs; unmounted when dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    #[expect(
        clippy::disallowed_methods,
        reason = "a tool beside the campaign, not a task"
    )]
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).ok()?;
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"])
            .arg(&path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self { path })
    }

    /// To the last byte.
    fn fill(&self) -> std::io::Result<()> {
        let mut file = fs::File::create(self.filler())?;
        for size in [1 << 20, 1 << 12] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> std::io::Result<()> {
        fs::remove_file(self.filler())
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    #[expect(
        clippy::disallowed_methods,
        reason = "a tool beside the campaign, not a task"
    )]
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let done = unmount.arg(&self.path).output();
        if !done.is_ok_and(|output| output.status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let Some(disk) = Disk::mount(run.folder.join("disk")) else {
        run.skip("r5: no tmpfs can be mounted here (it takes root)");
        return Ok(());
    };
    let done = on_disk(run, &disk);
    drop(disk);
    done
}

fn on_disk(run: &mut Run, disk: &Disk) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES);
    let mut setup = run.setup("[packs.photos]\nenabled = false")?;
    setup.data = disk.path.join("data");
    let mut server = setup.start()?;
    let mix = Mix {
        think_ms: 80,
        ..Mix::ALL
    };
    let load = Load::start(setup.address, mix, &run.journal(), &mut run.dice)?;
    let (mut accepting, mut lines, mut refusals) = (Vec::new(), Vec::new(), 0);
    for cycle in 1..=cycles {
        std::thread::sleep(Duration::from_secs(1));
        let mut client = setup.client();
        let running = start_long(&mut client)?;
        std::thread::sleep(Duration::from_millis(300));
        disk.fill()?;
        let (filled, logged) = (Instant::now(), setup.log_lines());
        std::thread::sleep(run.hold);
        lines.push(setup.log_lines() - logged);
        for id in &running {
            let job = ask(&mut client, &format!("/v1/jobs/{id}"))?.json();
            if job["state"] != "completed" {
                run.breach(format!(
                    "cycle {cycle}: a running job is {} on the full disk",
                    job["state"]
                ));
            }
        }
        let held: Vec<_> = load
            .samples()
            .into_iter()
            .filter(|call| call.sent > filled)
            .collect();
        refusals += judge_refusals(run, &held);
        let freed = Instant::now();
        disk.free()?;
        std::thread::sleep(ACCEPT_WITHIN);
        let calls = load.samples();
        let after = calls
            .iter()
            .filter(|call| call.sent > freed && call.status < 300 && call.status > 0);
        match after.map(|call| call.sent + call.took - freed).min() {
            Some(after) => accepting.push(after),
            None => run.breach(format!(
                "cycle {cycle}: nothing taken in {ACCEPT_WITHIN:?} after room came"
            )),
        }
        if server.has_ended() {
            run.breach(format!("cycle {cycle}: the server ended"));
            server = setup.start()?;
        }
    }
    let most = LOG_LINES_PER_MINUTE * (run.hold.as_secs() as usize).div_ceil(60);
    if lines.iter().any(|lines| *lines > most) {
        run.breach(format!(
            "log lines while full: {lines:?}, at most {most} allowed"
        ));
    }
    load.finish()?;
    run.figure("cycles", cycles);
    run.figure("hold_s", run.hold.as_secs());
    run.figure("refused_507", refusals);
    run.figure("log_lines_while_full", lines);
    run.figure("accepting_again_ms", spread(&accepting));
    restart(run, &setup, &mut server)
}

fn start_long(client: &mut super::http::Client) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..RUNNING_JOBS {
        let job = json!({ "task": "offloop.sleep", "payload": { "ms": RUNNING_MS } });
        let answer = client.post("/v1/jobs", &job);
        let id = answer
            .ok()
            .and_then(|answer| Some(answer.json()["id"].as_str()?.to_owned()));
        ids.push(id.ok_or_else(|| anyhow::anyhow!("a long job was not taken in"))?);
    }
    Ok(ids)
}

/// The first moments aside, when the last free pages go, every call is refused, and says why.
fn judge_refusals(run: &mut Run, held: &[Sample]) -> usize {
    let refused: Vec<_> = held.iter().filter(|call| call.status == 507).collect();
    if refused.is_empty() {
        run.breach("no 507 while the disk was full");
    }
    if refused.iter().any(|call| !call.is_problem) {
        run.breach("a 507 was no application/problem+json");
    }
    let cut = held.iter().filter(|call| call.status == 0).count();
    if cut > 0 {
        run.breach(format!("{cut} calls broke off on the full disk"));
    }
    refused.len()
}

/// What was kept survives the next start as well.
fn restart(
    run: &mut Run,
    setup: &super::server::Setup,
    server: &mut super::server::Server,
) -> anyhow::Result<()> {
    server.kill();
    let again = setup.start()?;
    run.recovery.push(again.ready_after);
    run.judge(setup, Duration::from_secs(60))?;
    Ok(())
}
