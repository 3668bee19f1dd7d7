//! The board over hours, in no time.

use super::*;
use crate::types::StopWhy;
use bytes::Bytes;
use offloop_job::{FailureClass, Outcome};
use offloop_lane::{Ended, Proof, TaskInfo, WorkLimits};

const LEASE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(10);

fn name(text: &str) -> TaskName {
    TaskName::parse(text).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

struct World {
    board: Board,
    now: Instant,
    events: Vec<LaneEvent>,
}

fn work(lease: u64, task: &str) -> Work {
    Work {
        job: JobId::from_parts(lease, lease),
        lease: Lease(lease),
        attempt: 1,
        task: name(task),
        payload: Bytes::from_static(b"{}"),
        priority: 5,
        limits: WorkLimits {
            timeout: seconds(3_600),
            cpu: None,
            memory_bytes: None,
            stall: None,
            result_bytes: 1 << 20,
        },
        cores: 1,
        deadline: None,
        trace: None,
        checkpoint: None,
        inputs: std::sync::Arc::default(),
    }
}

impl World {
    fn new() -> Self {
        let task = |text| RemoteTask {
            info: TaskInfo {
                name: name(text),
                timeout: None,
                about: "".into(),
            },
            lease: LEASE,
            grace: GRACE,
        };
        Self {
            board: Board::new(vec![task("a"), task("b")]),
            now: Instant::now(),
            events: Vec::new(),
        }
    }

    fn ask(&mut self, worker: &str, tasks: &[&str], limit: u16) -> u64 {
        let pull = Pull {
            worker: worker.into(),
            tasks: tasks.iter().map(|task| name(task)).collect(),
            limit,
        };
        self.board.ask(&pull, Arc::default()).unwrap()
    }

    fn start(&mut self, work: Vec<Work>) {
        let news = self.board.start(work, self.now);
        self.events.extend(news);
    }

    fn take(&mut self, pull: u64) -> Vec<u64> {
        let offers = self.board.take(pull, self.now).unwrap_or_default();
        offers.iter().map(|offer| offer.lease.0).collect()
    }

    fn extend(&mut self, lease: u64) -> Result<Extended, Stale> {
        let (job, lease) = (JobId::from_parts(lease, lease), Lease(lease));
        let news = News::default();
        self.board
            .extend(job, lease, &news, self.now, &mut self.events)
    }

    fn settle(&mut self, lease: u64, end: WorkerEnd) -> Result<Settle, Stale> {
        let (job, lease) = (JobId::from_parts(lease, lease), Lease(lease));
        let report = Report::default();
        self.board
            .settle(job, lease, end, &report, self.now, &mut self.events)
    }

    fn done(&mut self, lease: u64) -> Result<Settle, Stale> {
        self.settle(lease, WorkerEnd::Completed { result: None })
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.board.look(self.now, &mut self.events);
    }

    /// A job that this worker has.
    fn held(&mut self, lease: u64) {
        let pull = self.ask("w", &[], 1);
        self.start(vec![work(lease, "a")]);
        assert_eq!(self.take(pull), [lease]);
        self.extend(lease).unwrap();
    }

    fn ends(&mut self) -> Vec<Ended> {
        let events = std::mem::take(&mut self.events);
        let ends = events.into_iter().filter_map(|event| match event {
            LaneEvent::Ended(ended) => Some(*ended),
            _ => None,
        });
        ends.collect()
    }

    fn end(&mut self) -> Ended {
        let mut ends = self.ends();
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends.remove(0)
    }
}

fn class(ended: &Ended) -> FailureClass {
    match &ended.outcome {
        Outcome::Failed(failure) => failure.class,
        other => panic!("{other:?}"),
    }
}

fn is_handed_back(ended: &Ended) -> bool {
    matches!(
        &ended.outcome,
        Outcome::Stopped {
            reason: StopReason::Shutdown,
            ..
        }
    )
}

#[test]
fn a_worker_that_is_silent_for_its_lease_loses_it_and_everything_that_it_says_later_is_refused() {
    let mut world = World::new();
    world.held(1);
    world.pass(LEASE.checked_sub(seconds(1)).unwrap());
    assert!(world.ends().is_empty(), "its lease is not over");
    world.extend(1).unwrap();
    world.pass(LEASE.checked_sub(seconds(1)).unwrap());
    assert!(world.ends().is_empty(), "it was extended");
    world.pass(seconds(1));
    let ended = world.end();
    assert_eq!(class(&ended), FailureClass::Lost);
    assert_eq!(ended.gone.proof(), Proof::NodeGone);
    assert_eq!(world.extend(1), Err(Stale));
    assert_eq!(world.done(1), Err(Stale));
    assert_eq!(world.settle(1, WorkerEnd::HandBack), Err(Stale));
    assert!(world.ends().is_empty(), "nothing ends twice");
}

#[test]
fn a_lease_is_over_by_the_clock_even_if_the_timer_is_late() {
    let mut world = World::new();
    world.held(1);
    world.now += LEASE;
    assert_eq!(world.extend(1), Err(Stale));
    assert_eq!(world.done(1), Err(Stale));
    world.pass(Duration::ZERO);
    assert_eq!(class(&world.end()), FailureClass::Lost);
}

#[test]
fn an_answer_that_was_lost_on_the_way_is_given_again() {
    let mut world = World::new();
    world.held(1);
    assert_eq!(world.done(1), Ok(Settle::Taken));
    assert_eq!(world.end().gone.proof(), Proof::WorkerAnswered);
    assert_eq!(world.done(1), Ok(Settle::Already));
    assert_eq!(world.extend(1), Err(Stale), "it is over all the same");
    assert!(world.ends().is_empty());
}

#[test]
fn an_offer_that_nobody_confirms_goes_back_unspent_and_its_worker_comes_too_late() {
    let mut world = World::new();
    let pull = world.ask("w", &[], 1);
    world.start(vec![work(1, "a")]);
    assert_eq!(world.take(pull), [1]);
    world.pass(CONFIRM_WITHIN);
    let ended = world.end();
    assert!(is_handed_back(&ended), "{ended:?}");
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    assert_eq!(world.extend(1), Err(Stale));
}

#[test]
fn a_job_that_ends_every_worker_before_it_confirms_is_not_offered_for_ever() {
    let mut world = World::new();
    let mut ends = Vec::new();
    for lease in 1..=3 {
        let pull = world.ask("w", &[], 1);
        let mut again = work(lease, "a");
        again.job = JobId::from_parts(7, 7);
        world.start(vec![again]);
        assert_eq!(world.take(pull), [lease]);
        world.pass(CONFIRM_WITHIN);
        ends.push(world.end());
    }
    assert!(is_handed_back(&ends[0]) && is_handed_back(&ends[1]));
    assert_eq!(class(&ends[2]), FailureClass::Lost);
}

#[test]
fn an_asker_that_leaves_gives_what_it_did_not_take_to_the_next() {
    let mut world = World::new();
    let first = world.ask("first", &[], 2);
    let second = world.ask("second", &[], 1);
    world.start(vec![work(1, "a"), work(2, "a")]);
    world.board.leave(first);
    assert_eq!(world.take(second), [1]);
    let third = world.ask("third", &[], 1);
    assert_eq!(world.take(third), [2]);
    assert!(world.ends().is_empty(), "nothing went back to the store");
}

#[test]
fn nobody_is_given_a_task_that_it_did_not_ask_for() {
    let mut world = World::new();
    let only_b = world.ask("b", &["b"], 1);
    world.start(vec![work(1, "a")]);
    assert_eq!(world.take(only_b), [] as [u64; 0]);
    let any = world.ask("any", &[], 1);
    assert_eq!(world.take(any), [1]);
    let pull = Pull {
        worker: "w".into(),
        tasks: vec![name("c")],
        limit: 1,
    };
    let refused = world.board.ask(&pull, Arc::default());
    assert!(matches!(refused, Err(ClaimRefusal::UnknownTask { .. })));
}

#[test]
fn no_more_is_wanted_than_askers_ask_for() {
    let mut world = World::new();
    assert!(world.board.demand().is_empty());
    world.ask("1", &["a"], 3);
    world.ask("2", &["a"], 2);
    world.ask("3", &[], 1);
    let demand = world.board.demand();
    let jobs: Vec<_> = demand
        .iter()
        .map(|wish| (wish.tasks.len(), wish.jobs))
        .collect();
    assert_eq!(jobs, [(1, 5), (2, 1)]);
    world.start(vec![work(1, "a")]);
    let jobs: u16 = world.board.demand().iter().map(|wish| wish.jobs).sum();
    assert_eq!(jobs, 3, "the first has its answer");
    world.board.close(world.now);
    assert!(world.board.demand().is_empty());
}

#[test]
fn what_nobody_takes_goes_back_for_others() {
    let mut world = World::new();
    world.start(vec![work(1, "a")]);
    world.pass(LINE_WAIT);
    assert!(is_handed_back(&world.end()));
}

#[test]
fn the_first_in_line_is_given_first() {
    let mut world = World::new();
    let mut urgent = work(3, "a");
    urgent.priority = 0;
    world.start(vec![work(1, "a"), work(2, "a"), urgent]);
    let order: Vec<_> = (0..3)
        .map(|_| {
            let pull = world.ask("w", &[], 1);
            world.take(pull)[0]
        })
        .collect();
    assert_eq!(order, [3, 1, 2]);
}

#[test]
fn a_cancel_is_told_and_then_the_lease_is_withdrawn() {
    let mut world = World::new();
    world.held(1);
    let now = world.now;
    assert!(
        world
            .board
            .stop(Lease(1), StopReason::Cancel, now, &mut world.events)
    );
    assert_eq!(world.extend(1).unwrap().stop, Some(StopWhy::Cancelled));
    world.pass(GRACE.checked_sub(seconds(1)).unwrap());
    assert!(world.ends().is_empty(), "it has its grace");
    assert!(world.extend(1).is_ok());
    world.pass(seconds(1));
    let ended = world.end();
    assert!(matches!(
        &ended.outcome,
        Outcome::Stopped {
            reason: StopReason::Cancel,
            ..
        }
    ));
    assert_eq!(world.extend(1), Err(Stale));
}

#[test]
fn a_job_that_may_be_run_again_keeps_the_lease_that_was_promised() {
    for reason in ["shutdown", "timeout"] {
        let mut world = World::new();
        world.held(1);
        if reason == "shutdown" {
            let now = world.now;
            world
                .board
                .stop(Lease(1), StopReason::Shutdown, now, &mut world.events);
        } else {
            for _ in 0..180 {
                world.pass(seconds(20));
                world.extend(1).unwrap();
            }
            world.pass(Duration::ZERO); // an hour is over
        }
        let told = world.extend(1).unwrap();
        assert_eq!(told.stop.map(StopWhy::as_str), Some(reason));
        assert!(told.lease_left >= GRACE);
        world.pass(told.lease_left.checked_sub(seconds(1)).unwrap());
        assert!(
            world.ends().is_empty(),
            "{reason}: its worker may still be at it"
        );
        assert_eq!(
            world.extend(1).unwrap().lease_left,
            seconds(1),
            "not made longer"
        );
        world.pass(seconds(1));
        let ended = world.end();
        match reason {
            "shutdown" => assert!(is_handed_back(&ended)),
            _ => assert_eq!(class(&ended), FailureClass::Timeout),
        }
    }
}

#[test]
fn an_answer_in_the_grace_counts() {
    let mut world = World::new();
    world.held(1);
    let now = world.now;
    world
        .board
        .stop(Lease(1), StopReason::Cancel, now, &mut world.events);
    world.pass(GRACE.checked_sub(seconds(1)).unwrap());
    assert_eq!(world.done(1), Ok(Settle::Taken));
    assert!(matches!(world.end().outcome, Outcome::Completed { .. }));
}

#[test]
fn a_cancel_before_the_confirmation_leaves_nothing_to_begin() {
    let mut world = World::new();
    let pull = world.ask("w", &[], 1);
    world.start(vec![work(1, "a"), work(2, "a")]);
    assert_eq!(world.take(pull), [1]);
    for lease in [1, 2] {
        let now = world.now;
        world
            .board
            .stop(Lease(lease), StopReason::Cancel, now, &mut world.events);
        assert_eq!(world.end().gone.proof(), Proof::NeverStarted);
        assert_eq!(world.extend(lease), Err(Stale));
    }
    assert_eq!((world.board.running(), world.board.queued()), (0, 0));
}

#[test]
fn a_worker_without_progress_is_stalled_however_often_it_says_that_it_lives() {
    let mut world = World::new();
    let pull = world.ask("w", &[], 1);
    let mut quiet = work(1, "a");
    quiet.limits.stall = Some(seconds(60));
    world.start(vec![quiet]);
    world.take(pull);
    for _ in 0..4 {
        world.extend(1).unwrap();
        world.pass(seconds(15));
    }
    let stop = world.extend(1).unwrap().stop;
    assert_eq!(stop, Some(StopWhy::Limit(FailureClass::Stalled)));
}

#[test]
fn time_in_which_the_server_stood_still_is_nobodys_silence() {
    let mut world = World::new();
    world.held(1);
    let pause = seconds(3_000);
    world.now += pause;
    world.board.postpone(pause);
    world.pass(LEASE.checked_sub(seconds(1)).unwrap());
    assert!(world.ends().is_empty());
    assert!(world.extend(1).is_ok());
}

#[test]
fn the_lease_of_another_job_is_nobodys() {
    let mut world = World::new();
    world.held(1);
    let other = JobId::from_parts(2, 2);
    let end = WorkerEnd::Completed { result: None };
    let settled = world.board.settle(
        other,
        Lease(1),
        end,
        &Report::default(),
        world.now,
        &mut world.events,
    );
    assert_eq!(settled, Err(Stale));
    assert!(world.done(1).is_ok());
}

#[test]
fn one_answer_does_not_carry_more_than_its_bytes_but_for_a_first_large_one() {
    let mut world = World::new();
    let large = |lease| Work {
        payload: Bytes::from(vec![b'1'; OFFER_BYTES_MAX / 2 + 1]),
        ..work(lease, "a")
    };
    let first = world.ask("1", &[], 10);
    world.start(vec![large(1), large(2)]);
    assert_eq!(world.take(first), [1]);
    let second = world.ask("2", &[], 10);
    assert_eq!(world.take(second), [2]);
}

#[test]
fn a_closed_lane_hands_back_what_no_worker_has_and_hears_those_who_work_to_the_end() {
    let mut world = World::new();
    world.held(1);
    world.start(vec![work(2, "a")]);
    let events = world.board.close(world.now);
    world.events.extend(events);
    assert!(is_handed_back(&world.end()));
    let pull = Pull {
        worker: "w".into(),
        tasks: Vec::new(),
        limit: 1,
    };
    let refused = world.board.ask(&pull, Arc::default());
    assert_eq!(refused, Err(ClaimRefusal::Closed));
    assert!(world.extend(1).is_ok());
    assert_eq!(world.done(1), Ok(Settle::Taken));
}

#[test]
fn a_server_that_ends_gives_nothing_out_again_while_a_worker_may_be_at_it() {
    let mut world = World::new();
    world.held(1);
    world.held(2);
    world.start(vec![work(3, "a")]);
    let now = world.now;
    world
        .board
        .stop(Lease(2), StopReason::Cancel, now, &mut world.events);
    world.pass(seconds(4));
    world.board.terminate(world.now, &mut world.events);
    let mut ends = world.ends();
    ends.sort_by_key(|ended| ended.lease);
    let after = LEASE.checked_sub(seconds(4)).unwrap();
    assert_eq!(ends[0].outcome, Outcome::Snoozed { after });
    assert!(
        matches!(ends[1].outcome, Outcome::Stopped { .. }),
        "{ends:?}"
    );
    assert!(is_handed_back(&ends[2]));
    assert!(world.extend(1).is_err());
}
