//! Feeds: who is told what, and how much of it is kept.

use super::*;
use offloop_job::{EventKind, QueueName, TaskName};

fn job(number: u64) -> JobId {
    JobId::from_parts(number, number)
}

fn log(text: &str) -> JobNews {
    JobNews::Log {
        at: Timestamp::from_millis(1),
        data: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn step(id: JobId, kind: EventKind) -> JobEvent {
    JobEvent {
        at: Timestamp::from_millis(1),
        job: id,
        task: TaskName::parse("t").unwrap(),
        queue: QueueName::default(),
        kind,
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.build().unwrap().block_on(future)
}

fn texts(batch: Vec<(FeedCursor, JobNews)>) -> Vec<String> {
    let text = |news| match news {
        JobNews::Log { data, .. } => String::from_utf8(data.to_vec()).unwrap(),
        other => format!("{other:?}"),
    };
    batch.into_iter().map(|entry| text(entry.1)).collect()
}

#[test]
fn nothing_is_asked_of_lanes_while_nobody_listens_to_their_job() {
    let feeds = Arc::new(Feeds::new(7));
    assert!(!feeds.listens(job(1)));
    let stream = feeds.listen(job(1), None);
    assert!(feeds.listens(job(1)) && !feeds.listens(job(2)));
    feeds.step(&step(job(1), EventKind::Completed));
    drop(stream);
    assert!(
        !feeds.any(),
        "a feed that ended goes with its last listener"
    );
}

#[test]
fn a_listener_that_comes_back_goes_on_where_it_was() {
    let feeds = Arc::new(Feeds::new(7));
    let mut stream = feeds.listen(job(1), None);
    feeds.tell(job(1), || log("one"));
    feeds.tell(job(1), || log("two"));
    let batch = run(stream.next()).unwrap();
    let cursor: FeedCursor = batch[0].0.to_string().parse().unwrap();
    drop(stream);
    feeds.tell(job(1), || log("three"));
    let mut stream = feeds.listen(job(1), Some(cursor));
    assert_eq!(texts(run(stream.next()).unwrap()), ["two", "three"]);
    let other_run = FeedCursor { epoch: 6, ..cursor };
    let mut stranger = feeds.listen(job(1), Some(other_run));
    assert_eq!(run(stranger.next()), Err(Lagged));
    for text in ["", "7", "7-1", "7-1-x", "7-1-2-3"] {
        assert!(text.parse::<FeedCursor>().is_err(), "{text:?}");
    }
}

#[test]
fn a_slow_listener_is_told_that_it_lags_and_holds_no_memory() {
    let feeds = Arc::new(Feeds::new(7));
    let mut stream = feeds.listen(job(1), None);
    let long = "x".repeat(16 << 10);
    for _ in 0..1_000 {
        feeds.tell(job(1), || log(&long));
    }
    assert!(lock(&stream.feed.ring).bytes <= FEED_BYTES_MAX);
    assert_eq!(run(stream.next()), Err(Lagged));
    assert!(!run(stream.next()).unwrap().is_empty(), "and goes on");
    for _ in 0..1_900 {
        feeds.tell(job(1), || log(""));
    }
    assert!(lock(&stream.feed.ring).news.len() <= FEED_NEWS_MAX);
}

#[test]
fn a_job_that_floods_is_cut_by_the_second_and_the_gap_is_told_before_its_end() {
    let feeds = Arc::new(Feeds::new(7));
    let mut stream = feeds.listen(job(1), None);
    let flood = u64::from(NEWS_PER_SECOND_MAX) * 3;
    for _ in 0..flood {
        feeds.tell(job(1), || log("x"));
    }
    feeds.step(&step(job(1), EventKind::Completed));
    assert_eq!(
        run(stream.next()),
        Err(Lagged),
        "the ring is smaller than a second"
    );
    let mut seen = Vec::new();
    while !seen.iter().any(JobNews::ends) {
        seen.extend(run(stream.next()).unwrap().into_iter().map(|entry| entry.1));
    }
    let gap = seen.iter().find_map(|news| match news {
        JobNews::LeftOut { pieces } => Some(*pieces),
        _ => None,
    });
    assert!(
        gap.is_some_and(|pieces| pieces > 0 && pieces < flood),
        "{gap:?}"
    );
}

#[test]
fn what_a_task_keeps_to_itself_is_not_told() {
    let feeds = Arc::new(Feeds::new(7));
    let mut stream = feeds.listen(job(1), None);
    stream.redact = Redact {
        payload: true,
        result: true,
        log: true,
    };
    let at = Timestamp::from_millis(1);
    let secret = || Bytes::from_static(b"\"secret\"");
    feeds.tell(job(1), || log("secret"));
    feeds.tell(job(1), || JobNews::Progress { at, note: secret() });
    feeds.tell(job(1), || JobNews::Partial { at, data: secret() });
    let told = format!("{:?}", run(stream.next()).unwrap());
    assert!(
        !told.contains("secret") && told.contains("redacted"),
        "{told}"
    );
}

#[test]
fn feeds_that_nobody_comes_back_to_are_bounded() {
    let feeds = Arc::new(Feeds::new(7));
    for number in 1..=1_000 {
        drop(feeds.listen(job(number), None));
    }
    assert!(lock(&feeds.places).len() <= LINGERING_MAX);
    let later = Instant::now() + LINGER;
    feeds.sweep_in(&mut lock(&feeds.places), later);
    assert!(!feeds.any());
}

#[test]
fn another_life_of_a_job_has_a_feed_of_its_own() {
    let feeds = Arc::new(Feeds::new(7));
    let first = feeds.listen(job(1), None);
    feeds.step(&step(job(1), EventKind::Cancelled));
    let mut second = feeds.listen(job(1), None);
    drop(first);
    assert!(
        feeds.listens(job(1)),
        "the earlier listener did not take it along"
    );
    feeds.tell(job(1), || log("again"));
    assert_eq!(texts(run(second.next()).unwrap()), ["again"]);
}
