//! Calls on real lanes: what would hurt a caller, or the machine, if it went wrong.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use offloop_job::{FailureClass, JobOptions, Lease, NewJob, NodeId, StopReason, TaskName};
use offloop_lane::{
    Lane, LaneOpenError, LaneSink, LaneStatus, Slots, TaskContext, TaskError, TaskInfo, TaskOutput,
    Work,
};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{
    CallAsk, CallError, CallSettings, RefusedWhy, Runtime, RuntimeBuilder, ShutdownPlan,
};
use offloop_store_memory::{MemoryOptions, MemoryStore};
use tokio::sync::oneshot;

const SOON: Duration = Duration::from_secs(20);

fn name(text: &str) -> TaskName {
    TaskName::parse(text).unwrap()
}

type Run = dyn Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync;

fn lane(called: &str, threads: u16, run: &Arc<Run>) -> Arc<CpuLane> {
    let info = TaskInfo {
        name: name("t"),
        timeout: None,
        about: "".into(),
    };
    let builder = CpuLane::builder(called).threads(threads);
    Arc::new(builder.task(info, Arc::clone(run) as _).build())
}

fn start(threads: u16, settings: CallSettings, run: &Arc<Run>) -> Runtime {
    let store = Arc::new(MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 1_000,
    }));
    RuntimeBuilder::new(store, NodeId("n".into()))
        .lane(lane("cpu", 1, run))
        .call_lane(lane("cpu:calls", threads, run))
        .call_settings(name("t"), settings)
        .start()
        .unwrap()
}

fn ask(payload: &'static str) -> CallAsk {
    CallAsk::new(name("t"), payload)
}

/// A task whose runs tell that they began, and go on until they are told to stop or let go.
struct Held {
    began: mpsc::Receiver<()>,
    go: Arc<AtomicU32>,
    stopped: Arc<AtomicU32>,
    run: Arc<Run>,
}

fn held() -> Held {
    let (tell, began) = mpsc::channel();
    let (go, stopped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (let_go, count) = (Arc::clone(&go), Arc::clone(&stopped));
    let run = move |context: &TaskContext| {
        let _ = tell.send(());
        while let_go.load(Ordering::Acquire) == 0 {
            if context.should_stop() {
                count.fetch_add(1, Ordering::AcqRel);
                return Err(TaskError::stopped());
            }
            std::thread::yield_now();
        }
        Ok(TaskOutput::json(context.payload().clone()))
    };
    Held {
        began,
        go,
        stopped,
        run: Arc::new(run),
    }
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let look = async {
        while !check() {
            tokio::task::yield_now().await;
        }
    };
    let soon = tokio::time::timeout(SOON, look).await;
    soon.unwrap_or_else(|_| panic!("never happened: {what}"));
}

fn tokio_test(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn a_caller_that_hangs_up_leaves_no_work_behind() {
    let held = held();
    let runtime = start(1, CallSettings::default(), &held.run);
    tokio_test(async {
        let handle = runtime.handle().clone();
        let call = tokio::spawn(async move { handle.call(ask("1")).await });
        held.began.recv_timeout(SOON).unwrap();
        let handle = runtime.handle().clone();
        let in_line = tokio::spawn(async move { handle.call(ask("2")).await });
        until("the second waits", || {
            runtime.handle().call_lanes()[0].waiting == 1
        })
        .await;
        in_line.abort();
        until("it left the line", || {
            runtime.handle().call_lanes()[0].waiting == 0
        })
        .await;
        call.abort();
        until("its run was stopped", || {
            held.stopped.load(Ordering::Acquire) == 1
        })
        .await;
        until("the slot is free", || {
            runtime.handle().call_lanes()[0].running == 0
        })
        .await;
        held.go.store(1, Ordering::Release);
        let answer = runtime.handle().call(ask("3")).await.unwrap();
        assert_eq!(answer.result.as_deref(), Some(&b"3"[..]));
    });
    assert_eq!(
        held.began.try_iter().count(),
        1,
        "the call in line never ran"
    );
}

#[test]
fn a_line_of_jobs_never_stands_before_a_call() {
    let run: Arc<Run> = Arc::new(|context| {
        while &context.payload()[..] == b"\"job\"" && !context.should_stop() {
            std::thread::yield_now();
        }
        Ok(TaskOutput::none())
    });
    let runtime = start(1, CallSettings::default(), &run);
    tokio_test(async {
        let job = || NewJob {
            task: name("t"),
            payload: "\"job\"".into(),
            options: JobOptions::default(),
            idempotency: None,
        };
        let jobs = (0..100).map(|_| job()).collect();
        runtime.handle().enqueue(jobs).await.unwrap();
        until("a job runs", || {
            runtime.handle().lanes()[0].status.running > 0
        })
        .await;
        let answer = tokio::time::timeout(SOON, runtime.handle().call(ask("1"))).await;
        assert_eq!(&*answer.unwrap().unwrap().lane, "cpu:calls");
    });
}

#[test]
fn what_would_be_too_late_is_refused_with_the_estimate() {
    let held = held();
    held.go.store(1, Ordering::Release);
    let settings = CallSettings {
        max_wait: Duration::from_secs(60),
        ..CallSettings::default()
    };
    let slow: Arc<Run> = {
        let run = Arc::clone(&held.run);
        Arc::new(move |context| {
            let began = std::time::Instant::now();
            while began.elapsed() < Duration::from_millis(100) && !context.should_stop() {
                std::hint::spin_loop();
            }
            run(context)
        })
    };
    let runtime = start(1, settings, &slow);
    tokio_test(async {
        let handle = runtime.handle();
        handle.call(ask("1")).await.unwrap(); // now it is known how long one takes
        held.go.store(0, Ordering::Release);
        let others: Vec<_> = (0..20)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move { handle.call(ask("1")).await })
            })
            .collect();
        until("they wait", || handle.call_lanes()[0].waiting == 19).await;
        let mut late = ask("1");
        late.timeout = Some(Duration::from_millis(500));
        let Err(CallError::Refused(refused)) = handle.call(late).await else {
            panic!("it was let in");
        };
        assert!(
            matches!(refused.why, RefusedWhy::Deadline { .. }),
            "{refused}"
        );
        assert!(refused.wait >= Duration::from_millis(900), "{refused}");
        assert!(refused.retry_after >= Duration::from_millis(450));
        others.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn equal_calls_share_one_run_until_the_last_caller_leaves() {
    let held = held();
    let settings = CallSettings {
        single_flight: true,
        ..CallSettings::default()
    };
    let runtime = start(4, settings, &held.run);
    tokio_test(async {
        let call = |payload: &'static str| {
            let handle = runtime.handle().clone();
            tokio::spawn(async move { handle.call(ask(payload)).await })
        };
        let joined = || runtime.handle().call_lanes()[0].counts.joined;
        let first = call("7");
        held.began.recv_timeout(SOON).unwrap();
        let others: Vec<_> = (0..9).map(|_| call("7")).collect();
        let other = call("8");
        held.began.recv_timeout(SOON).unwrap();
        until("nine share", || joined() == 9).await;
        first.abort(); // whose call it was is of no matter
        until("it left", || {
            runtime.handle().call_lanes()[0].counts.left == 1
        })
        .await;
        held.go.store(1, Ordering::Release);
        for one in others {
            let answer = one.await.unwrap().unwrap();
            assert_eq!(
                (answer.result.as_deref(), answer.shared),
                (Some(&b"7"[..]), true)
            );
        }
        assert!(!other.await.unwrap().unwrap().shared);
        assert_eq!(held.began.try_iter().count(), 0, "one run for ten");

        // All leave: it is stopped, and the next one begins anew.
        held.go.store(0, Ordering::Release);
        let (one, two) = (call("9"), call("9"));
        held.began.recv_timeout(SOON).unwrap();
        until("both share", || joined() == 10).await;
        one.abort();
        two.abort();
        until("it was stopped", || {
            held.stopped.load(Ordering::Acquire) == 1
        })
        .await;
        held.go.store(1, Ordering::Release);
        assert!(!call("9").await.unwrap().unwrap().shared);
    });
}

#[test]
fn a_failure_a_timeout_and_bad_asks_are_told_apart() {
    let run: Arc<Run> = Arc::new(|context| match &context.payload()[..] {
        b"\"invalid\"" => Err(TaskError::invalid("no good")),
        b"\"panic\"" => panic!("on purpose"),
        _ => {
            while !context.should_stop() {
                std::thread::yield_now();
            }
            Err(TaskError::stopped())
        }
    });
    let runtime = start(2, CallSettings::default(), &run);
    tokio_test(async {
        let handle = runtime.handle();
        let class = |error: Result<_, CallError>| match error {
            Err(CallError::Failed(failure)) => failure.class,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            class(handle.call(ask("\"invalid\"")).await),
            FailureClass::Invalid
        );
        assert_eq!(
            class(handle.call(ask("\"panic\"")).await),
            FailureClass::Error
        );
        let mut short = ask("1");
        short.timeout = Some(Duration::from_millis(20));
        let timed_out = handle.call(short.clone()).await;
        assert!(
            matches!(timed_out, Err(CallError::TimedOut { ran: Some(_), .. })),
            "{timed_out:?}"
        );
        for asked in [Duration::ZERO, Duration::from_secs(301)] {
            short.timeout = Some(asked);
            let refused = handle.call(short.clone()).await;
            assert!(
                matches!(refused, Err(CallError::Timeout { .. })),
                "{refused:?}"
            );
        }
        let mut unknown = ask("1");
        unknown.task = name("nope");
        let refused = handle.call(unknown).await;
        assert!(matches!(refused, Err(CallError::UnknownTask { .. })));
        let large = CallAsk::new(name("t"), vec![b'1'; (8 << 20) + 1]);
        let refused = handle.call(large).await;
        assert!(matches!(refused, Err(CallError::PayloadTooLarge { .. })));
    });
}

#[test]
fn a_server_that_closes_tells_callers_and_leaves_nothing_running() {
    let held = held();
    let runtime = start(1, CallSettings::default(), &held.run);
    tokio_test(async {
        let call = || {
            let handle = runtime.handle().clone();
            tokio::spawn(async move { handle.call(ask("1")).await })
        };
        let running = call();
        held.began.recv_timeout(SOON).unwrap();
        let waiting = call();
        until("it waits", || runtime.handle().call_lanes()[0].waiting == 1).await;
        let handle = runtime.handle().clone();
        let plan = ShutdownPlan {
            drain: Duration::from_millis(10),
            stop: Duration::from_secs(5),
        };
        let (_force, forced) = oneshot::channel();
        let report = tokio::time::timeout(SOON, runtime.shutdown(plan, forced)).await;
        assert!(report.unwrap().is_clean());
        for call in [running, waiting] {
            let told = call.await.unwrap();
            assert!(matches!(told, Err(CallError::ShuttingDown)), "{told:?}");
        }
        assert_eq!(held.stopped.load(Ordering::Acquire), 1);
        let told = handle.call(ask("1")).await;
        assert!(matches!(told, Err(CallError::ShuttingDown)));
    });
}

/// A real lane whose second start waits until it is let go: work is on its way to the lane.
#[derive(Debug)]
struct SlowWay {
    lane: Arc<CpuLane>,
    starts: AtomicU32,
    on_its_way: std::sync::Mutex<mpsc::Sender<()>>,
    go: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Lane for SlowWay {
    fn name(&self) -> &str {
        self.lane.name()
    }

    fn tasks(&self) -> &[TaskInfo] {
        self.lane.tasks()
    }

    fn slots(&self) -> Slots {
        self.lane.slots()
    }

    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        self.lane.open(sink)
    }

    fn start(&self, work: Vec<Work>) {
        if self.starts.fetch_add(1, Ordering::AcqRel) == 1 {
            self.on_its_way.lock().unwrap().send(()).unwrap();
            self.go.lock().unwrap().recv_timeout(SOON).unwrap();
        }
        self.lane.start(work);
    }

    fn stop(&self, lease: Lease, reason: StopReason) {
        self.lane.stop(lease, reason);
    }

    fn close(&self) {
        self.lane.close();
    }

    fn terminate(&self, within: Duration) -> Vec<Lease> {
        self.lane.terminate(within)
    }

    fn status(&self) -> LaneStatus {
        self.lane.status()
    }
}

#[test]
fn a_caller_that_leaves_while_its_work_is_on_the_way_to_the_lane_leaves_nothing_running() {
    let held = held();
    let (tell, on_its_way) = mpsc::channel();
    let (go, let_go) = mpsc::channel();
    let slow = SlowWay {
        lane: lane("cpu:calls", 1, &held.run),
        starts: AtomicU32::new(0),
        on_its_way: std::sync::Mutex::new(tell),
        go: std::sync::Mutex::new(let_go),
    };
    let store = Arc::new(MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 1_000,
    }));
    let runtime = RuntimeBuilder::new(store, NodeId("n".into()))
        .call_lane(Arc::new(slow))
        .start()
        .unwrap();
    tokio_test(async {
        let calls = || runtime.handle().call_lanes().remove(0);
        let call = || {
            let handle = runtime.handle().clone();
            let mut patient = ask("1");
            patient.timeout = Some(Duration::from_secs(200));
            tokio::spawn(async move { handle.call(patient).await })
        };
        let first = call();
        held.began.recv_timeout(SOON).unwrap();
        let second = call();
        until("the second waits", || calls().waiting == 1).await;
        held.go.store(1, Ordering::Release);
        // The lane's thread has ended the first and brings the second, before it tells the first's end.
        on_its_way.recv_timeout(SOON).unwrap();
        held.go.store(0, Ordering::Release);
        second.abort();
        until("it left", || calls().counts.left == 1).await;
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        until("the slot is free", || calls().running == 0).await;
    });
}
