//! A server with the pack, its door, and a bad HTTP server to call, each on threads of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use offloop::http::{Door, DoorConfig};
use offloop::job::Job;
use offloop::store::InsertOutcome;
use offloop::{
    Builder, JobId, NewJob, NewJobExt as _, RuntimeHandle, Server, TaskOutput, block_on,
};
use offloop_fetch::{FetchOptions, FetchPack};
use serde_json::Value;

use crate::support::{SOON, Server as Bad, policy};

pub(crate) struct House {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) bad: Bad,
    pub(crate) server: Server,
    pub(crate) door: SocketAddr,
}

pub(crate) fn options(bad: SocketAddr) -> FetchOptions {
    FetchOptions {
        policy: policy(&[bad]),
        ..FetchOptions::default()
    }
}

pub(crate) fn builder(folder: &Path, options: FetchOptions) -> Builder {
    Builder::embedded(folder)
        .cpu_task("take", |_| Ok(TaskOutput::none()))
        .unwrap()
        .pack(FetchPack::new(options))
}

impl House {
    pub(crate) fn new(folder: &Path, change: impl FnOnce(Builder) -> Builder) -> Self {
        Self::with(folder, change, |options| options)
    }

    pub(crate) fn with(
        folder: &Path,
        change: impl FnOnce(Builder) -> Builder,
        set: impl FnOnce(FetchOptions) -> FetchOptions,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bad = runtime.block_on(Bad::start());
        let mut server = change(builder(folder, set(options(bad.at))))
            .start()
            .unwrap();
        let config = DoorConfig::new("127.0.0.1:0".parse().unwrap());
        let listener = runtime.block_on(Door::listen(&config)).unwrap();
        let door_at = listener.local_addr().unwrap();
        let door = server.door(config);
        runtime.spawn(door.serve(listener, std::future::pending()));
        Self {
            runtime,
            bad,
            server,
            door: door_at,
        }
    }

    pub(crate) fn handle(&self) -> &RuntimeHandle {
        self.server.handle()
    }

    pub(crate) fn enqueue(&self, payload: &Value) -> InsertOutcome {
        let job = NewJob::of("fetch", payload).unwrap();
        let outcomes = block_on(self.handle().enqueue(vec![job])).unwrap();
        outcomes.into_iter().next().unwrap()
    }

    pub(crate) fn job(&self, id: JobId) -> Job {
        let waits = self.handle().wait_final(id, SOON * 2);
        let job = self.runtime.block_on(waits).unwrap().unwrap();
        assert!(job.summary.state.is_final(), "{:?}", job.summary);
        job
    }

    /// The end of a new job of the task.
    pub(crate) fn run(&self, payload: &Value) -> Job {
        match self.enqueue(payload) {
            InsertOutcome::Created { id, .. } => self.job(id),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.door)
    }

    /// Status and JSON of an answer.
    pub(crate) fn post(&self, kind: &str, body: &str) -> (u16, Value) {
        self.post_with(kind, None, body)
    }

    /// `key`: the Idempotency-Key.
    pub(crate) fn post_with(&self, kind: &str, key: Option<&str>, body: &str) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(SOON))
            .build()
            .into();
        let mut request = agent
            .post(self.url("/v1/fetch"))
            .header("content-type", kind);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let mut answer = request.send(body).unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_json().unwrap())
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let mut answer = ureq::get(self.url(path)).call().unwrap();
        answer.body_mut().read_json().unwrap()
    }

    /// Asks until it is so, in the bound of every wait.
    pub(crate) fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let bounded = async { tokio::time::timeout(SOON * 2, wait).await };
        self.runtime.block_on(bounded).expect("in time")
    }
}

pub(crate) fn result(job: &Job) -> Value {
    let text = job.result.as_ref();
    let text = text.unwrap_or_else(|| panic!("no result: {:?}", job.summary));
    serde_json::from_slice(text).unwrap()
}
