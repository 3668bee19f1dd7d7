//! The walk: everything is reported, nothing is followed, nothing blocks.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use offloop_photos::walk::{
    Found, Next, OpenError, Problem, RelPath, Root, WalkEnd, WalkLimits, walk,
};

fn collect(root: &Path, limits: WalkLimits) -> (WalkEnd, Vec<String>, Vec<(String, Problem)>) {
    let root = Root::open(root).expect("the root opens");
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    let end = walk(&root, limits, &mut |found, here| {
        match found {
            Found::File(entry) => {
                let opened = here.expect("files can be opened").open().expect("opens");
                assert_eq!((opened.bytes, opened.inode), (entry.bytes, entry.inode));
                assert_eq!(opened.mtime_ns, entry.mtime_ns);
                files.push(entry.path.to_text());
            }
            Found::Problem { path, problem } => problems.push((path.to_text(), problem)),
        }
        Next::Continue
    });
    files.sort();
    problems.sort_by(|a, b| a.0.cmp(&b.0));
    (end.expect("walks"), files, problems)
}

#[test]
fn links_pipes_and_sockets_are_reported_and_never_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir_all(root.join("a/b")).expect("folders");
    fs::write(root.join("a/b/one.jpg"), b"1").expect("file");
    fs::write(root.join("two.jpg"), b"22").expect("file");
    symlink("/etc", root.join("out")).expect("link");
    symlink("two.jpg", root.join("same")).expect("link");
    symlink(".", root.join("a/loop")).expect("link");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, mode, 0).expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("sock")).expect("a socket");
    let (end, files, problems) = collect(root, WalkLimits::default());
    assert_eq!(end, WalkEnd::Complete);
    assert_eq!(files, ["a/b/one.jpg", "two.jpg"]);
    assert_eq!(
        problems,
        [
            ("a/loop".to_owned(), Problem::Symlink),
            ("out".to_owned(), Problem::Symlink),
            ("pipe".to_owned(), Problem::Special { kind: "FIFO" }),
            ("same".to_owned(), Problem::Symlink),
            ("sock".to_owned(), Problem::Special { kind: "socket" }),
        ]
    );
    // A name that turned into a pipe or a link between the walk and the read is refused at once.
    let root = Root::open(root).expect("opens");
    let open = |name: &str| root.open_file(&RelPath::from_text(name).expect("a path"));
    assert!(matches!(open("pipe"), Err(OpenError::NotRegular)));
    assert!(matches!(open("same"), Err(OpenError::Io { .. })));
    assert!(matches!(open("out/hostname"), Err(OpenError::Io { .. })));
    assert!(matches!(open("a/b"), Err(OpenError::NotRegular)));
    let mut text = String::new();
    open("a/b/one.jpg")
        .expect("opens")
        .file
        .read_to_string(&mut text)
        .expect("reads");
    assert_eq!(text, "1");
}

#[test]
fn limits_end_in_a_report_not_in_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir_all(root.join("1/2/3/4")).expect("folders");
    fs::write(root.join("1/2/in.jpg"), b"x").expect("file");
    fs::write(root.join("1/2/3/4/deep.jpg"), b"x").expect("file");
    let limits = WalkLimits {
        depth_max: 2,
        ..WalkLimits::default()
    };
    let (end, files, problems) = collect(root, limits);
    assert_eq!(
        (end, files),
        (WalkEnd::Complete, vec!["1/2/in.jpg".to_owned()])
    );
    assert_eq!(
        problems,
        [("1/2/3".to_owned(), Problem::TooDeep { limit: 2 })]
    );
    let limits = WalkLimits {
        path_bytes_max: 5,
        ..WalkLimits::default()
    };
    let (_, files, problems) = collect(root, limits);
    assert!(files.is_empty());
    assert!(
        problems
            .iter()
            .all(|p| p.1 == Problem::PathTooLong { limit: 5 }),
        "{problems:?}"
    );
    let limits = WalkLimits {
        entries_max: 3,
        ..WalkLimits::default()
    };
    assert_eq!(collect(root, limits).0, WalkEnd::TooManyEntries);
}

#[test]
fn the_visitor_can_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in 0..10 {
        fs::write(folder.path().join(name.to_string()), b"").expect("file");
    }
    let root = Root::open(folder.path()).expect("opens");
    let mut seen = 0;
    let end = walk(&root, WalkLimits::default(), &mut |_, _| {
        seen += 1;
        if seen == 4 {
            Next::Stop
        } else {
            Next::Continue
        }
    });
    assert_eq!((end.expect("walks"), seen), (WalkEnd::Stopped, 4));
}

#[test]
fn any_name_survives_as_text() {
    for name in [
        &b"plain.jpg"[..],
        b"a b/\xff\xfe.jpg",
        b"100%/x%41.jpg",
        b"new\nline",
        "ü/日本.jpg".as_bytes(),
    ] {
        let path = RelPath::from_bytes(name).expect("a path");
        let text = path.to_text();
        assert!(!text.chars().any(char::is_control));
        assert_eq!(RelPath::from_text(&text).as_ref(), Some(&path), "{text}");
    }
    for bad in [
        &b""[..],
        b"/etc/passwd",
        b"../x",
        b"a/../b",
        b"a//b",
        b"a/",
        b"./a",
        b"a\0b",
    ] {
        assert_eq!(RelPath::from_bytes(bad), None, "{bad:?}");
    }
    assert_eq!(RelPath::from_text("%2E%2E/x"), None);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(OsStr::from_bytes(b"\xf0\x28.jpg")), b"").expect("file");
    assert_eq!(
        collect(folder.path(), WalkLimits::default()).1,
        ["%F0(.jpg"]
    );
}
