//! `serve`: the server, from its first line to its exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use offloop::http::{Door, DoorConfig};
use offloop::lane_process::ProcessSpec;
use offloop::lane_remote::{GRACE_DEFAULT, RemoteTask};
use offloop::runtime::clock::{Clock as _, SystemClock};
use offloop::{Builder, Server, ShutdownReport, TaskDefaults, TaskInfo};
use offloop_fetch::{FetchOptions, FetchPack};
use offloop_ingest::IngestPack;
use offloop_photos::{PhotosOptions, PhotosPack};
use offloop_vault::{VaultOptions, VaultPack};
use offloop_webhooks::{WebhooksOptions, WebhooksPack};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{
    self, CallsConfig, Config, Converter, Flags, TaskConfig, TaskLane, WebhooksConfig,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
    /// What this process does: `all` (doors and workers)
    #[arg(long, value_parser = ["all"], default_value = "all")]
    role: String,
}

/// Lines for people on a terminal, JSON for collectors.
fn log() {
    let filter = config::from_environment("LOG").unwrap_or_else(|| "info".into());
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.flags)?;
    log();
    // Before any thread is started: they inherit it.
    offloop::lane::slice::answer_first();
    let doors = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.door_threads.into())
        .thread_name("offloop-door")
        .enable_all()
        .build()
        .context("cannot start the doors' threads")?;
    let mut door_config = DoorConfig::new(config.listen);
    door_config.token.clone_from(&config.token);
    door_config.drain = config.shutdown.drain;
    // Before the store: a taken address should not cost a recovery.
    let listener = doors.block_on(Door::listen(&door_config))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let mut server = build(&config).start()?;
    let door = server.door(door_config);
    greet(&config, address);
    let report = doors.block_on(serve(server, door, listener, &config))?;
    // What still runs on a door's thread has no caller left.
    doors.shutdown_background();
    Ok(say(&report))
}

/// The server as configured, not yet started.
pub(crate) fn build(config: &Config) -> Builder {
    let mut builder = Builder::embedded(&config.data)
        .config(config.runtime)
        .pulse(config.pulse)
        .environment(std::env::vars_os());
    if let Some(jobs) = config.queue_jobs_max {
        builder = builder.queue_jobs_max(jobs);
    }
    builder = builder.cgroups(config.cgroups);
    if let Some(threads) = config.cpu_threads {
        builder = builder.cpu_threads(threads);
    }
    if let Some(threads) = config.call_threads {
        builder = builder.call_threads(threads);
    }
    for task in &config.tasks {
        builder = with_task(builder, task);
    }
    for (target, limit) in &config.limits {
        builder = builder.limit(target.clone(), *limit);
    }
    for (name, spec) in &config.schedules {
        builder = builder.schedule(name.clone(), spec.clone());
    }
    if let Some(photos) = &config.photos {
        builder = builder.pack(PhotosPack::new(PhotosOptions {
            concurrency: photos.concurrency,
            memory_bytes: photos.memory_bytes,
            timeout: photos.timeout,
            converter: match photos.converter {
                Converter::Builtin => offloop_photos::Converter::Builtin,
                Converter::Magick => offloop_photos::Converter::Magick,
            },
        }));
    }
    if let Some(vault) = &config.vault {
        builder = builder.pack(VaultPack::new(VaultOptions {
            keys: vault.keys.clone(),
            memory_bytes: vault.memory_bytes,
            threads: vault.threads,
        }));
    }
    if let Some(webhooks) = &config.webhooks {
        builder = builder.pack(WebhooksPack::new(webhook_options(webhooks)));
    }
    if let Some(fetch) = &config.fetch {
        builder = builder.pack(FetchPack::new(FetchOptions {
            seed: SystemClock.now().as_millis() ^ (u64::from(std::process::id()) << 44),
            ..fetch.clone()
        }));
    }
    if let Some(ingest) = &config.ingest {
        builder = builder.pack(IngestPack::new(ingest.clone()));
    }
    builder
}

fn webhook_options(config: &WebhooksConfig) -> WebhooksOptions {
    let usual = WebhooksOptions::new(&config.secrets);
    WebhooksOptions {
        policy: config.policy.clone(),
        roots: config.roots.clone(),
        timeout: config.timeout.unwrap_or(usual.timeout),
        concurrency: config.concurrency.unwrap_or(usual.concurrency),
        per_host: config.per_host.unwrap_or(usual.per_host),
        disable_after: config.disable_after.unwrap_or(usual.disable_after),
        tasks: config.tasks.clone(),
        ..usual
    }
}

fn remote(task: &TaskConfig, lease: Duration) -> RemoteTask {
    let info = TaskInfo {
        name: task.name.clone(),
        timeout: task.timeout,
        about: task.about.as_str().into(),
    };
    RemoteTask {
        lease,
        grace: task.grace.unwrap_or(GRACE_DEFAULT),
        info,
    }
}

/// A task in the user's language, with its defaults and its rule.
fn with_task(mut builder: Builder, task: &TaskConfig) -> Builder {
    let defaults = TaskDefaults {
        timeout: task.timeout,
        cpu_limit: task.cpu_limit,
        memory_limit_bytes: task.memory_limit_bytes,
        stall_timeout: task.stall_timeout,
        memory_retry_bytes: task.memory_retry_bytes,
        max_queued: task.max_queued,
        max_wait: task.max_wait,
        snoozes_max: task.max_snoozes,
        keep: task.keep,
        redact: task.redact,
        sealed: task.encrypt.is_some(),
    };
    builder = match task.lane {
        TaskLane::Remote { lease } => builder.remote_task(remote(task, lease)),
        _ => builder.process_task(spec(task)),
    };
    builder = builder.task_defaults(task.name.clone(), defaults);
    if let Some(key) = &task.encrypt {
        builder = builder.encrypt(task.name.clone(), key);
    }
    if let Some(schema) = &task.schema {
        builder = builder.payload_check(task.name.clone(), Arc::clone(schema));
    }
    if let Some(calls) = task.calls {
        builder = builder
            .process_task(call_spec(task, calls))
            .calls(task.name.clone(), calls.settings);
    }
    builder
}

fn spec(task: &TaskConfig) -> ProcessSpec {
    let info = TaskInfo {
        name: task.name.clone(),
        timeout: task.timeout,
        about: task.about.as_str().into(),
    };
    let (mut spec, processes) = match task.lane {
        TaskLane::Process { processes } => (ProcessSpec::process(info, &task.command), processes),
        TaskLane::Exec { slots } => (ProcessSpec::exec(info, &task.command), slots),
        TaskLane::Remote { .. } => (ProcessSpec::exec(info, &task.command), 1), // not asked for
    };
    spec.processes = processes;
    spec.cwd.clone_from(&task.cwd);
    spec.env = task
        .env
        .iter()
        .map(|(key, value)| (key.clone(), value.into()))
        .collect();
    spec.args_from_payload = task.args_from_payload;
    if let Some(grace) = task.grace {
        spec.grace = grace;
    }
    if let Some(within) = task.start_timeout {
        spec.start_timeout = within;
    }
    spec.data_limit_bytes = task.data_limit_bytes;
    spec.budgets = task.budgets;
    spec.recycle = task.recycle;
    spec.spare = task.spare;
    spec.wire = task.wire;
    spec.sandbox = task.sandbox.clone();
    spec
}

/// The same command, kept for calls.
fn call_spec(task: &TaskConfig, calls: CallsConfig) -> ProcessSpec {
    let mut spec = spec(task);
    spec.calls = true;
    spec.processes = calls.processes;
    (spec.grace, spec.term_grace) = (calls.grace / 2, calls.grace / 2);
    spec
}

fn greet(config: &Config, address: std::net::SocketAddr) {
    let token = if config.token.is_some() {
        " -H \"authorization: Bearer $OFFLOOP_TOKEN\""
    } else {
        ""
    };
    println!(
        "offloop {} keeps its jobs in {}",
        env!("CARGO_PKG_VERSION"),
        config.data.display()
    );
    println!("dashboard: http://{address}/");
    println!(
        "try: curl{token} -H 'content-type: application/json' http://{address}/v1/jobs -d '{{\"task\":\"offloop.spin\",\"payload\":{{\"cpu_ms\":200}}}}'"
    );
}

/// Serves until the first signal, then ends in order; the second signal cuts it short.
async fn serve(
    server: Server,
    door: Door,
    listener: tokio::net::TcpListener,
    config: &Config,
) -> anyhow::Result<ShutdownReport> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (close, closing) = oneshot::channel::<()>();
    let mut doors = tokio::spawn(door.serve(listener, async {
        let _ = closing.await; // dropped: closed as well
    }));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining; a second signal forces"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining; a second signal forces"),
        ended = &mut doors => {
            ended.context("the door failed")??;
        }
    }
    server.refuse_new();
    let remote = server.remote().cloned();
    let drain = config.shutdown.drain;
    tokio::spawn(async move {
        let until = Instant::now() + drain;
        // Workers elsewhere deliver what they hold by this very door.
        while remote.as_ref().is_some_and(|lane| lane.held() > 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _ = close.send(()); // it has failed already
    });
    let (force, forced) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("second signal: not waiting any longer");
        let _ = force.send(());
    });
    let report = server.shutdown(config.shutdown, forced).await;
    if report.forced {
        doors.abort();
    } else {
        match doors.await {
            Ok(Ok(door)) => tracing::info!(drained = door.drained, cut = door.cut, "door closed"),
            Ok(Err(error)) => tracing::warn!(%error, "door closed"),
            Err(_) => {} // it had ended before
        }
    }
    Ok(report)
}

/// 0: clean. 1: forced, or something could not be ended or written.
fn say(report: &ShutdownReport) -> ExitCode {
    for (job, task) in &report.abandoned {
        tracing::warn!(%job, %task, "ignored its wish to stop; it is run again after the next start");
    }
    tracing::info!(
        running = report.running,
        handed_back = report.handed_back,
        forced = report.forced,
        settled = report.settled,
        "ended"
    );
    if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
