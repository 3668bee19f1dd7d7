//! The library around the engine, on a real server in memory: rows, jobs and files stay in step.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use offloop::job::{Collection, JobState};
use offloop::store::{InsertOutcome, RecordScan};
use offloop::{Builder, NewJob, NewJobExt, Server, ShutdownPlan};
use offloop_photos::{PhotosOptions, PhotosPack};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    common::jpeg(&common::scene(width, height), common::PLAIN)
}

fn png(width: u32, height: u32) -> Vec<u8> {
    common::other(common::scene(width, height), image::ImageFormat::Png)
}

struct World {
    folder: tempfile::TempDir,
    server: Option<Server>,
}

impl World {
    fn new(options: PhotosOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("photos")).unwrap();
        let data = folder.path().join("data");
        let server = Builder::in_memory(data)
            .pack(PhotosPack::new(options))
            .start()
            .unwrap();
        Self {
            folder,
            server: Some(server),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join("photos").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Scans the folder and waits until every conversion has ended. What the scan saw.
    fn scan(&self) -> Value {
        let handle = self.server().handle();
        let path = self.folder.path().join("photos");
        let job = NewJob::of("photos.scan", &json!({ "path": path.to_str().unwrap() })).unwrap();
        let InsertOutcome::Created { id, .. } = wait(handle.enqueue(vec![job])).unwrap().remove(0)
        else {
            panic!("the scan was not taken in");
        };
        let end = wait(handle.wait_final(id, SOON)).unwrap().unwrap();
        assert_eq!(
            end.summary.state,
            JobState::Completed,
            "{:?}",
            end.summary.failure
        );
        let mut events = handle.events(None);
        while self.count("PENDING_CONVERSION") > 0 {
            let heard =
                wait(async { tokio::time::timeout(Duration::from_secs(1), events.next()).await });
            drop(heard); // an event, or a second: look again
        }
        serde_json::from_slice(&end.result.unwrap()).unwrap()
    }

    fn collection() -> Collection {
        Collection::parse("photos").unwrap()
    }

    fn count(&self, label: &str) -> u64 {
        let counts = wait(self.server().handle().record_counts(Self::collection())).unwrap();
        counts
            .iter()
            .find(|count| count.label.as_str() == label)
            .map_or(0, |count| count.count)
    }

    /// Status and row of one photo.
    fn row(&self, name: &str) -> (String, Value) {
        let scan = RecordScan {
            collection: Self::collection(),
            label: None,
            after: None,
            limit: 1000,
        };
        let page = wait(self.server().handle().records(scan)).unwrap();
        let rows = page.records.iter().map(|record| {
            let row: Value = serde_json::from_slice(&record.value).unwrap();
            (record.label.to_string(), row)
        });
        rows.into_iter()
            .find(|(_, row)| row["path"] == name)
            .unwrap_or_else(|| panic!("no row of {name}"))
    }

    fn thumbnails(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let Ok(entries) = fs::read_dir(folder) else {
                return 0;
            };
            entries
                .flatten()
                .map(|e| {
                    if e.path().is_dir() {
                        count(&e.path())
                    } else {
                        1
                    }
                })
                .sum()
        }
        count(&self.folder.path().join("data/photos/thumbs"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let (_keep, force) = tokio::sync::oneshot::channel();
            wait(server.shutdown(ShutdownPlan::default(), force));
        }
    }
}

#[test]
fn one_bad_file_never_stops_the_rest() {
    let world = World::new(PhotosOptions::default());
    let good = jpeg(1200, 800);
    world.put("a.jpg", &good);
    world.put("deep/er/b.jpg", &good);
    world.put("cut.jpg", &good[..good.len() / 20]);
    world.put("empty.jpg", b"");
    world.put("notes.txt", b"not a photo at all");
    std::os::unix::fs::symlink("/etc/passwd", world.folder.path().join("photos/link.jpg")).unwrap();

    let seen = world.scan();
    assert_eq!(
        (seen["files"].as_u64(), seen["photos"].as_u64()),
        (Some(5), Some(4)),
        "{seen}"
    );
    assert_eq!(seen["problems"], 1, "{seen}");
    assert!(
        seen["problem_list"][0]
            .as_str()
            .unwrap()
            .contains("link.jpg")
    );
    assert_eq!(world.row("a.jpg").0, "DONE");
    assert_eq!(world.row("deep/er/b.jpg").1["thumbnail"], json!([500, 333]));
    let (status, row) = world.row("empty.jpg");
    assert_eq!(
        (status.as_str(), row["class"].as_str()),
        ("FAILED", Some("corrupt"))
    );
    assert_eq!(world.count("DONE") + world.count("FAILED"), 4);
    assert_eq!(world.thumbnails() as u64, world.count("DONE") * 2);
}

#[test]
fn a_scan_again_touches_only_what_changed_and_marks_what_vanished() {
    let world = World::new(PhotosOptions::default());
    for name in ["same.jpg", "changes.jpg", "goes.jpg"] {
        world.put(name, &jpeg(640, 480));
    }
    assert_eq!(world.scan()["new"], 3);
    let before = world.thumbnails();
    world.put("changes.jpg", &jpeg(320, 640));
    world.put("comes.jpg", &jpeg(100, 100));
    fs::remove_file(world.folder.path().join("photos/goes.jpg")).unwrap();

    let seen = world.scan();
    let of = |key: &str| seen[key].as_u64().unwrap();
    let all = (of("new"), of("changed"), of("unchanged"), of("missing"));
    assert_eq!(all, (1, 1, 1, 1), "{seen}");
    assert_eq!(world.row("changes.jpg").1["height"], 640);
    assert_eq!(world.row("goes.jpg").0, "MISSING");
    assert_eq!(world.thumbnails(), before, "one came, one went");

    world.put("goes.jpg", &jpeg(64, 64));
    assert_eq!(world.scan()["changed"], 1);
    assert_eq!(world.row("goes.jpg").0, "DONE");
    assert_eq!(world.scan()["unchanged"], 4);
}

#[test]
fn a_photo_over_the_memory_of_all_is_refused_by_its_header() {
    let world = World::new(PhotosOptions {
        memory_bytes: Some(9 << 20),
        ..PhotosOptions::default()
    });
    world.put("large.png", &png(2000, 2000));
    world.put("small.png", &png(64, 64));
    world.scan();
    let (status, row) = world.row("large.png");
    assert_eq!(
        (status.as_str(), row["class"].as_str()),
        ("FAILED", Some("too_large")),
        "{row}"
    );
    assert!(
        row["message"]
            .as_str()
            .unwrap()
            .contains("packs.photos.memory"),
        "{row}"
    );
    assert_eq!(world.row("small.png").0, "DONE");
}
