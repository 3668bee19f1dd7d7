//! A server for one test, and a caller that sees every byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use offloop_http::{Door, DoorConfig, DoorReport, PackRoutes};
use offloop_job::{NodeId, TaskName};
use offloop_lane::{Lane, TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_lane_remote::RemoteLane;
use offloop_pulse::{Pulse, PulseConfig};
use offloop_runtime::{PayloadCheck, Runtime, RuntimeBuilder};
use offloop_store::PayloadProblem;
use offloop_store_memory::{MemoryOptions, MemoryStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nothing here takes this long.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("it took too long")
}

/// Holds jobs of the task `hold` until it is opened.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self, context: &TaskContext) -> Result<TaskOutput, TaskError> {
        context.progress("{\"holding\":true}")?;
        let mut open = self.0.lock().unwrap();
        while !*open {
            if context.should_stop() {
                return Err(TaskError::stopped());
            }
            open = self
                .1
                .wait_timeout(open, Duration::from_millis(5))
                .unwrap()
                .0;
        }
        Ok(TaskOutput::json("{\"held\":true}"))
    }
}

pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    runtime: Runtime,
    close: Option<oneshot::Sender<()>>,
    serving: JoinHandle<DoorReport>,
}

pub(crate) fn info(name: &str) -> TaskInfo {
    TaskInfo {
        name: TaskName::parse(name).unwrap(),
        timeout: None,
        about: "For tests.".into(),
    }
}

/// The rule of the task `small`: a number under ten, whatever is around it.
#[derive(Debug)]
struct Small;

impl PayloadCheck for Small {
    fn problems(&self, payload: &[u8]) -> Vec<PayloadProblem> {
        let value: Value = serde_json::from_slice(payload).unwrap();
        if value["n"].as_u64().is_some_and(|n| n < 10) {
            return Vec::new();
        }
        vec![PayloadProblem {
            pointer: "/n".into(),
            message: "is not a number under ten".into(),
        }]
    }
}

fn runtime(gate: &Arc<Gate>, queue_jobs_max: u64, more: Option<Arc<dyn Lane>>) -> Runtime {
    static NODES: AtomicU64 = AtomicU64::new(0);
    let node = NODES.fetch_add(1, Ordering::Relaxed);
    let store = MemoryStore::new(MemoryOptions {
        id_seed: node,
        queue_jobs_max,
    });
    let builder = RuntimeBuilder::new(Arc::new(store), NodeId(format!("test-{node}").into()))
        .pulse(Pulse::start(PulseConfig::default()).unwrap())
        .payload_check(TaskName::parse("small").unwrap(), Arc::new(Small));
    let lanes = [lane("cpu", gate)].into_iter().chain(more);
    let builder = lanes.fold(builder, RuntimeBuilder::lane);
    builder.call_lane(lane("cpu:calls", gate)).start().unwrap()
}

fn lane(name: &str, gate: &Arc<Gate>) -> Arc<dyn Lane> {
    let held = Arc::clone(gate);
    let lane = CpuLane::builder(name)
        .threads(2)
        .task(info("noop"), Arc::new(|_| Ok(TaskOutput::none())))
        .task(info("small"), Arc::new(|_| Ok(TaskOutput::none())))
        .task(
            info("echo"),
            Arc::new(|context| Ok(TaskOutput::json(context.payload().clone()))),
        )
        .task(
            info("inputs"),
            Arc::new(|context| {
                let results = context.inputs().iter().map(|input| match &input.result {
                    Some(result) => String::from_utf8_lossy(result).into_owned(),
                    None => "null".into(),
                });
                let results: Vec<String> = results.collect();
                Ok(TaskOutput::json(format!("[{}]", results.join(","))))
            }),
        )
        .task(
            info("garbage"),
            Arc::new(|_| Ok(TaskOutput::json(&b"\xff{no json"[..]))),
        )
        .task(info("hold"), Arc::new(move |context| held.pass(context)))
        .task(
            info("fail"),
            Arc::new(|context| {
                context.log("about to fail");
                Err(TaskError::invalid("no rows <b>at all</b>"))
            }),
        )
        .build();
    Arc::new(lane)
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut DoorConfig)) -> Self {
        Self::with_packs(change, Vec::new(), 1_000_000).await
    }

    pub(crate) async fn with_packs(
        change: impl FnOnce(&mut DoorConfig),
        packs: Vec<PackRoutes>,
        queue_jobs_max: u64,
    ) -> Self {
        let gate = Arc::new(Gate::default());
        let runtime = runtime(&gate, queue_jobs_max, None);
        Self::over(gate, runtime, change, packs, None).await
    }

    /// With a lane beside the usual one.
    pub(crate) async fn with_lane(lane: Arc<dyn Lane>) -> Self {
        let gate = Arc::new(Gate::default());
        let runtime = runtime(&gate, 1_000_000, Some(lane));
        Self::over(gate, runtime, |_| {}, Vec::new(), None).await
    }

    /// With workers on other machines.
    pub(crate) async fn with_remote(lane: Arc<RemoteLane>) -> Self {
        let gate = Arc::new(Gate::default());
        let more = Arc::clone(&lane) as Arc<dyn Lane>;
        let runtime = runtime(&gate, 1_000_000, Some(more));
        Self::over(gate, runtime, |_| {}, Vec::new(), Some(lane)).await
    }

    async fn over(
        gate: Arc<Gate>,
        runtime: Runtime,
        change: impl FnOnce(&mut DoorConfig),
        packs: Vec<PackRoutes>,
        remote: Option<Arc<RemoteLane>>,
    ) -> Self {
        let mut config = DoorConfig::new(([127, 0, 0, 1], 0).into());
        config.drain = Duration::from_secs(2);
        change(&mut config);
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut door = Door::new(runtime.handle().clone(), config);
        for pack in packs {
            door = door.pack(pack);
        }
        if let Some(remote) = remote {
            door = door.remote(remote);
        }
        let (close, closing) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let closing = async {
                let _ = closing.await;
            };
            door.serve(listener, closing).await.unwrap()
        });
        let server = Self {
            at,
            gate,
            runtime,
            close: Some(close),
            serving,
        };
        soon(async {
            while server.get("/readyz").await.status != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server
    }

    pub(crate) fn handle(&self) -> &offloop_runtime::RuntimeHandle {
        self.runtime.handle()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.unwrap()
    }

    /// Begins to close.
    pub(crate) fn close(&mut self) {
        drop(self.close.take());
    }

    pub(crate) async fn closed(mut self) -> DoorReport {
        self.close();
        soon(self.serving).await.unwrap()
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let mut socket = self.connect().await;
        let host = if headers.to_ascii_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.at)
        };
        let length = if body.is_empty() && method != "POST" {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n");
        let all = [head.as_bytes(), body].concat();
        let (mut from, mut to) = socket.split();
        let mut bytes = Vec::new();
        // A server may answer before it has read everything, and close.
        let _ =
            soon(async { tokio::join!(to.write_all(&all), from.read_to_end(&mut bytes)) }).await;
        Answer::parse(&bytes)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(
            "POST",
            path,
            "Content-Type: application/json\r\n",
            body.as_bytes(),
        )
        .await
    }

    pub(crate) async fn bulk(&self, path: &str, body: &[u8]) -> Answer {
        self.send("POST", path, "Content-Type: application/x-ndjson\r\n", body)
            .await
    }

    /// Enqueues, and answers the id.
    pub(crate) async fn job(&self, body: &str) -> String {
        let answer = self.post("/v1/jobs", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a job.
    pub(crate) async fn end(&self, id: &str) -> Value {
        let path = format!("/v1/jobs/{id}");
        let answer = self.send("GET", &path, "Prefer: wait=9\r\n", b"").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until it runs.
    pub(crate) async fn running(&self, id: &str) {
        soon(async {
            loop {
                let job = self.get(&format!("/v1/jobs/{id}")).await.json();
                if job["state"] == "running" && job["progress"].is_object() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            let head = String::from_utf8_lossy(bytes).into_owned();
            return Self {
                status: 0,
                head,
                body: Vec::new(),
            };
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self {
            status,
            head,
            body: bytes[end + 4..].to_vec(),
        };
        if answer.header("transfer-encoding").as_deref() == Some("chunked") {
            answer.body = unchunk(&answer.body);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// One value per line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// It is this problem, with the promises of every problem.
    pub(crate) fn is_problem(&self, status: u16, name: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type").as_deref(),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(
            problem["type"],
            format!("urn:offloop:problem:{name}"),
            "{self:?}"
        );
        assert_eq!(problem["status"], status);
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{self:?}"
        );
        let retry = problem["retry_after"]
            .as_u64()
            .map(|seconds| seconds.to_string());
        assert_eq!(self.header("retry-after"), retry);
    }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    body
}

/// Reads from `socket` until `done` likes what came, or the peer closes.
pub(crate) async fn read_until(
    socket: &mut TcpStream,
    text: &mut String,
    done: impl Fn(&str) -> bool,
) {
    soon(async {
        let mut piece = [0; 4096];
        while !done(text) {
            match socket.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(len) => text.push_str(&String::from_utf8_lossy(&piece[..len])),
            }
        }
    })
    .await;
}

/// Waits until the peer closes; what it said before.
pub(crate) async fn read_to_close(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = soon(socket.read_to_end(&mut bytes)).await; // a reset is a close too
    bytes
}
