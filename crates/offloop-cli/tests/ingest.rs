//! `offloop ingest`: files into targets, here and through a server, over kills.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

mod support;

use support::imports::{self, ids, people, people_but, people_target, until};
use support::{Running, end_of, program, serve, told};

fn targets() -> String {
    people_target("batch = { rows = 100, time = \"20ms\" }")
}

fn folder() -> tempfile::TempDir {
    imports::folder(&targets())
}

#[track_caller]
fn run(folder: &Path, words: &[&str], code: i32) -> String {
    let output = program(folder).arg("ingest").args(words).output().unwrap();
    told(&output, words, code)
}

#[test]
fn the_exit_code_says_whether_every_row_is_stored() {
    let folder = folder();
    let file = folder.path().join("people.csv");
    std::fs::write(&file, people(500)).unwrap();
    let text = run(folder.path(), &["people.csv", "--target", "people"], 0);
    assert!(text.starts_with("500 rows stored, 0 rejected"), "{text}");
    let text = run(folder.path(), &["people.csv", "--target", "people"], 0);
    assert!(text.contains("stored already"), "{text}");
    assert_eq!(ids(folder.path()).len(), 500);
    let text = run(
        folder.path(),
        &["people.csv", "--target", "people", "--again"],
        0,
    );
    assert!(text.starts_with("500 rows stored"), "{text}");

    std::fs::write(&file, people_but(501, |row| row == 7)).unwrap();
    let words = [
        "people.csv",
        "--target",
        "people",
        "--rejects",
        "bad.ndjson",
        "--json",
    ];
    let view: Value = serde_json::from_str(&run(folder.path(), &words, 1)).unwrap();
    assert_eq!(
        (&view["stored"], &view["rejected"]),
        (&500.into(), &1.into()),
        "{view}"
    );
    let bad = std::fs::read_to_string(folder.path().join("bad.ndjson")).unwrap();
    assert!(
        bad.lines().count() == 1 && bad.contains("\"row\":7"),
        "{bad}"
    );

    let text = run(folder.path(), &["people.csv", "--target", "nobody"], 2);
    assert!(text.contains("declared are: people"), "{text}");
    let text = run(folder.path(), &["missing.csv", "--target", "people"], 1);
    assert!(text.contains("missing.csv"), "{text}");
}

#[test]
fn a_killed_load_goes_on_with_each_row_once_when_the_command_is_given_again() {
    let folder = folder();
    std::fs::write(folder.path().join("people.csv"), people(400_000)).unwrap();
    let words = ["ingest", "people.csv", "--target", "people"];
    for signal in [Signal::KILL, Signal::INT, Signal::KILL] {
        let before = ids(folder.path()).len();
        let mut command = program(folder.path());
        command.args(words);
        let mut running = Running::new(&mut command);
        until("rows of this run", || {
            ids(folder.path()).len() > before + 1_000
        });
        running.signal(signal);
        assert!(!running.wait().success(), "{signal:?} came too late");
    }
    let output = program(folder.path()).args(words).output().unwrap();
    let text = told(&output, &words, 0);
    assert!(text.contains("were stored before"), "{text}");
    assert_eq!(ids(folder.path()), (1..=400_000).collect::<Vec<_>>());
}

#[test]
fn a_declaration_that_was_inferred_takes_the_file_that_it_was_inferred_from() {
    let folder = folder();
    let file = folder.path().join("trips.csv");
    std::fs::write(
        &file,
        "day;km;who\n2026-11-01;1.5;Ana\n2026-11-02;2.25;Ben\n",
    )
    .unwrap();
    let text = run(
        folder.path(),
        &["trips.csv", "--target", "trips", "--infer"],
        0,
    );
    assert!(
        text.contains("[ingest.targets.trips]") && text.contains("date"),
        "{text}"
    );
    std::fs::write(folder.path().join("offloop.toml"), text).unwrap();
    let text = run(folder.path(), &["trips.csv", "--target", "trips"], 0);
    assert!(text.starts_with("2 rows stored, 0 rejected"), "{text}");
    let text = run(
        folder.path(),
        &["trips.csv", "--target", "No Name", "--infer"],
        2,
    );
    assert!(text.contains("a-z"), "{text}");
}

#[test]
fn a_pipe_is_stored_and_a_name_makes_it_one_load() {
    let folder = folder();
    for says in ["300 rows stored", "stored already"] {
        let mut command = program(folder.path());
        command.args(["ingest", "-", "--target", "people", "--load", "piped"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // A load that is stored already takes nothing.
        let _closed = input.write_all(people(300).as_bytes());
        drop(input);
        let text = told(&child.wait_with_output().unwrap(), &["-"], 0);
        assert!(text.contains(says), "{text}");
    }
    assert_eq!(ids(folder.path()).len(), 300);
}

#[test]
fn a_server_takes_the_file_and_says_what_became_of_it() {
    let folder = folder();
    let file = folder.path().join("people.csv");
    std::fs::write(&file, people_but(2_000, |row| row % 1_000 == 0)).unwrap();
    let file = file.to_str().unwrap();
    let server = serve(folder.path());
    let bad = folder.path().join("bad.ndjson");
    let words = [
        "ingest",
        file,
        "--target",
        "people",
        "--server",
        &server.url,
        "--rejects",
        bad.to_str().unwrap(),
    ];
    let text = server.text(&words, 1);
    assert!(text.starts_with("1998 rows stored, 2 rejected"), "{text}");
    assert_eq!(std::fs::read_to_string(&bad).unwrap().lines().count(), 2);
    assert_eq!(ids(folder.path()).len(), 1_998);
    let text = server.text(&words[..6], 1);
    assert!(text.contains("stored already"), "{text}");
    let text = server.text(
        &["ingest", file, "--target", "x", "--server", &server.url],
        1,
    );
    assert!(text.contains("declared are: people"), "{text}");
}

#[test]
fn an_acknowledged_body_is_stored_once_although_the_server_is_killed_while_it_is() {
    let folder = folder();
    let rows = 300_000;
    let text = people(rows);
    let mut server = serve(folder.path());
    let mut answer = ureq::post(format!("{}/v1/ingest/people?load=late", server.url))
        .header("prefer", "respond-async")
        .send(text.as_bytes())
        .unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    let view: Value = answer.body_mut().read_json().unwrap();
    let job = view["job"].as_str().unwrap().to_owned();
    // More often than a job that does not get on is taken up again.
    for _ in 0..5 {
        let before = ids(folder.path()).len();
        until("rows of this server", || {
            ids(folder.path()).len() > before + 5_000
        });
        server.kill();
        assert!((ids(folder.path()).len() as u64) < rows, "killed too late");
        server = serve(folder.path());
    }
    let job = end_of(&server.url, &job);
    assert_eq!(
        (&job["state"], &job["result"]["stored"]),
        (&"completed".into(), &rows.into()),
        "{job}"
    );
    assert_eq!(ids(folder.path()), (1..=rows).collect::<Vec<_>>());
    let spool = std::fs::read_dir(folder.path().join("offloop-data/ingest/spool")).unwrap();
    assert_eq!(spool.count(), 0);
}

#[test]
fn a_table_that_is_not_as_declared_is_told_before_the_first_byte() {
    let folder = folder();
    let declaration = "[ingest.targets.people]\nsink = \"sqlite\"\npath = \"people.db\"\ntable = \"people\"\ncolumns = [{ name = \"id\", type = \"int4\" }, { name = \"name\", type = \"text\" }]\n";
    std::fs::write(folder.path().join("offloop.toml"), declaration).unwrap();
    std::fs::write(folder.path().join("people.csv"), people(3_000)).unwrap();
    let words = ["people.csv", "--target", "people"];
    let text = run(folder.path(), &words, 1);
    assert!(text.contains("people") && text.contains("create"), "{text}");
    let created = format!("{declaration}create = true\n");
    std::fs::write(folder.path().join("offloop.toml"), &created).unwrap();
    let text = run(folder.path(), &words, 0);
    assert!(text.starts_with("3000 rows stored, 0 rejected"), "{text}");
    let other = created.replace("\"name\", type", "\"nickname\", from = \"name\", type");
    std::fs::write(folder.path().join("offloop.toml"), other).unwrap();
    let output = program(folder.path()).arg("check").output().unwrap();
    let text = told(&output, &["check"], 1);
    assert!(
        text.contains("problem ingest.targets.people: ") && text.contains("nickname"),
        "{text}"
    );
}

#[test]
fn a_target_that_cannot_be_written_is_told_by_check() {
    let folder = folder();
    let check = |code: i32| {
        let output = program(folder.path()).arg("check").output().unwrap();
        told(&output, &["check"], code)
    };
    let text = check(0);
    assert!(text.contains("target  people"), "{text}");
    let broken = targets().replace("\"people.ndjson\"", "\"no/such/folder/people.ndjson\"");
    std::fs::write(folder.path().join("offloop.toml"), broken).unwrap();
    let text = check(1);
    assert!(text.contains("problem ingest.targets.people: "), "{text}");
    let broken = targets().replace("int4", "int5");
    std::fs::write(folder.path().join("offloop.toml"), broken).unwrap();
    let text = check(1);
    assert!(
        text.contains("ingest.targets.people.columns[0].type"),
        "{text}"
    );
}

#[test]
fn a_check_makes_and_changes_nothing() {
    let folder = folder();
    let declaration = "[ingest.targets.people]\nsink = \"sqlite\"\npath = \"people.db\"\ntable = \"people\"\ncreate = true\ncolumns = [{ name = \"id\", type = \"int4\" }, { name = \"name\", type = \"text\" }]\n";
    let both = format!("{declaration}{}", targets().replace(".people]", ".lines]"));
    std::fs::write(folder.path().join("offloop.toml"), both).unwrap();
    let check = || {
        let output = program(folder.path()).arg("check").output().unwrap();
        told(&output, &["check"], 0)
    };
    let names = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("people")).collect();
        names.sort();
        names
    };
    check();
    assert!(names().is_empty(), "{:?}", names());
    std::fs::write(folder.path().join("people.csv"), people(10)).unwrap();
    for target in ["people", "lines"] {
        run(folder.path(), &["people.csv", "--target", target], 0);
    }
    let before: Vec<_> = names();
    let read = || -> Vec<_> {
        let names = before.iter().filter(|name| !name.ends_with("-shm"));
        names
            .map(|name| std::fs::read(folder.path().join(name)).unwrap())
            .collect()
    };
    let bytes = read();
    check();
    assert_eq!(names(), before);
    assert!(read() == bytes, "a file was written");
}

#[test]
fn curl_sends_a_file_as_a_form_as_it_does_plain() {
    let folder = folder();
    std::fs::write(folder.path().join("people.csv"), people(50_000)).unwrap();
    let server = serve(folder.path());
    let curl = |words: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command.current_dir(folder.path()).arg("-sS").args(words);
        let output = command.output().unwrap();
        let text = told(&output, words, 0);
        let view: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(view["stored"], 50_000, "{words:?}: {view}");
    };
    let url = format!("{}/v1/ingest/people", server.url);
    curl(&["-F", "file=@people.csv", &url]);
    curl(&["-F", "upload=@people.csv;type=text/csv", &url]);
    curl(&["-T", "people.csv", "-X", "POST", &url]);
    assert_eq!(ids(folder.path()).len(), 150_000);
}
