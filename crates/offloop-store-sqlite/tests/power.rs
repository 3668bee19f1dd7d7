//! The power is cut: only what was flushed is there afterwards, and that is everything that was
//! acknowledged.
//!
//! A file system in a file. The child is stopped at once, the file is copied as the device holds it
//! at that moment, and the copy is mounted: what was only in the page cache is gone. Needs a user who
//! may mount.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::path::Path;

use common::{Journal, a_moment, run, start};

const CUTS: u64 = 5;

/// A mounted image; unmounted at the end, however the test ends.
struct Mounted<'p>(&'p Path);

impl<'p> Mounted<'p> {
    fn image(image: &Path, at: &'p Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let (image, place) = (image.to_str().unwrap(), at.to_str().unwrap());
        run("mount", &["-o", "loop", image, place]).then_some(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_power_cut_loses_no_acknowledged_job() {
    let place = tempfile::tempdir().unwrap();
    let (image, copy) = (place.path().join("image"), place.path().join("copy"));
    let (before, after) = (place.path().join("before"), place.path().join("after"));
    let mut journal = Journal::default();
    for cut in 0..CUTS {
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(96 << 20).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        let Some(mounted) = Mounted::image(&image, &before).filter(|_| made) else {
            // Past the capture of output: a skip must be seen.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED a power cut: this user may not mount a file system of ext4"
            );
            return;
        };
        let mut child = start(&[], &before.join("data"), None);
        let reader = Journal::default().follow(child.stdout.take().unwrap());
        std::thread::sleep(2 * a_moment(cut)); // when the cut falls is the point of the test
        assert!(run("kill", &["-STOP", &child.id().to_string()]));
        let (from, to) = (image.to_str().unwrap(), copy.to_str().unwrap());
        assert!(run("cp", &["--sparse=always", from, to]));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = reader.join().unwrap();
        assert_eq!(told.not_opened, None);
        drop(mounted);
        let mounted = Mounted::image(&copy, &after).unwrap();
        if !told.inserted.is_empty() {
            told.check(&after.join("data"));
        }
        drop(mounted);
        journal.inserted.extend(told.inserted);
    }
    assert!(journal.inserted.len() > 100, "the child did no work");
}
