//! Deliveries by https: to who he should be, and not again and again to who he is not.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../../crates/offloop-egress/tests/support/tls.rs"]
mod tls;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use offloop::egress::{Resolve, Resolving};
use offloop::job::{EndStates, JobSummary, Webhook};
use offloop::{
    Builder, JobOptions, JobState, NewJob, NewJobExt as _, Server, TaskName, TaskOutput, block_on,
};
use offloop_webhooks::{WebhooksOptions, WebhooksPack};
use tls::{Authority, Flaw, Home, TlsServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SOON: Duration = Duration::from_secs(30);

impl Resolve for Home {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolving<'a> {
        let found = Self::addresses(port);
        Box::pin(async move { Ok::<_, io::Error>(found) })
    }
}

fn start(folder: &Path, port: u16, authority: &Authority) -> Server {
    let secrets = folder.join("secrets");
    std::fs::create_dir_all(&secrets).unwrap();
    let file = secrets.join("default.v1.whsec");
    std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut options = WebhooksOptions::new(secrets);
    options.policy.ports = vec![port];
    options.policy.allow = vec!["127.0.0.1/32".parse().unwrap()];
    options.resolver = Arc::new(Home);
    options.roots.add_pem(authority.pem().as_bytes()).unwrap();
    Builder::embedded(folder.join("data"))
        .cpu_task("nothing", |_| Ok(TaskOutput::none()))
        .unwrap()
        .pack(WebhooksPack::new(options))
        .start()
        .unwrap()
}

/// The delivery of a job's end, once it has ended itself.
fn deliver(server: &Server, url: &str) -> JobSummary {
    let webhook = Webhook {
        url: url.into(),
        on: EndStates::ALL,
        secret: None,
    };
    let job = NewJob::of("nothing", &1).unwrap().with(JobOptions {
        webhook: Some(Box::new(webhook)),
        ..JobOptions::default()
    });
    block_on(server.handle().enqueue(vec![job])).unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        let ask = offloop::store::ListRequest {
            filter: offloop::store::JobFilter {
                task: Some(TaskName::parse("webhook.deliver").unwrap()),
                ..Default::default()
            },
            now: server.handle().now(),
            limit: 10,
            cursor: None,
        };
        let found = block_on(server.handle().jobs(ask)).unwrap().jobs;
        if let Some(job) = found.into_iter().find(|job| job.state.is_final()) {
            return job;
        }
        assert!(Instant::now() < deadline, "not delivered, and not given up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_delivery_goes_to_a_receiver_that_proves_its_name_and_is_not_repeated_to_another() {
    let own = Authority::new("own");
    for (flaw, host, word) in [
        (Flaw::None, "good.example", None),
        (Flaw::Expired, "good.example", Some("expired")),
        (Flaw::None, "other.example", Some("not for other.example")),
        (Flaw::SelfSigned, "good.example", Some("signed by itself")),
    ] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = own.identity(&["good.example"], flaw, &[]);
        let receiver = runtime.block_on(TlsServer::new(&identity));
        let port = receiver.at.port();
        let (came, read) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counts, reads) = (Arc::clone(&came), Arc::clone(&read));
        runtime.spawn(async move {
            loop {
                let stream = receiver.accept().await;
                counts.fetch_add(1, Ordering::SeqCst);
                let Some(mut stream) = stream else { continue };
                let mut piece = vec![0; 16 << 10];
                let got = stream.read(&mut piece).await.unwrap_or(0);
                reads.fetch_add(got, Ordering::SeqCst);
                let text = b"HTTP/1.1 204 No Content\r\n\r\n";
                stream.write_all(text).await.unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let server = start(folder.path(), port, &own);
        let job = deliver(&server, &format!("https://{host}:{port}/hook"));
        assert_eq!(came.load(Ordering::SeqCst), 1, "{flaw:?}");
        let Some(word) = word else {
            assert_eq!(job.state, JobState::Completed, "{job:?}");
            assert!(read.load(Ordering::SeqCst) > 0);
            continue;
        };
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1), "{job:?}");
        let told = format!("{job:?}");
        assert!(told.contains(word), "{told}");
        assert_eq!(read.load(Ordering::SeqCst), 0, "what was secret was sent");
    }
}
