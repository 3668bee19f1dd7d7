//! `offloop check`: what is wrong with a task is known before any job, and no job is taken.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::path::Path;
use std::process::Output;

mod support;

use support::program;

const SANDBOX: &str = "sandbox = { network = false, read_only = true }\n";

const GOOD: &str = r#"
[tasks.good]
lane = "process"
command = ["python3", "good.py"]
sandbox = { network = false, read_only = true }
"#;

const BAD: &str = r#"
[tasks.throws]
lane = "process"
command = ["node", "throws.mjs"]

[tasks.nothing]
lane = "process"
command = ["node", "nothing.cjs"]

[tasks.missing]
lane = "exec"
command = ["no-such-tool-anywhere"]
"#;

fn check(folder: &Path, tasks: &str) -> (Output, String) {
    std::fs::write(folder.join("offloop.toml"), tasks).unwrap();
    let output = program(folder).arg("check").output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

#[test]
fn a_file_that_throws_exports_nothing_or_is_not_there_is_told_by_task_before_any_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file("good.py", "def handle(payload, ctx):\n    return payload\n");
    file("throws.mjs", "throw new Error('no such setting');\n");
    file("nothing.cjs", "module.exports = 42;\n");
    // The default data folder is a relative one, which a sandbox must hide all the same.
    let (output, text) = check(folder.path(), GOOD);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("good") && text.contains("ok: "), "{text}");
    let (output, text) = check(folder.path(), &format!("{GOOD}{BAD}"));
    assert_eq!(output.status.code(), Some(1), "{text}");
    for says in [
        "no such setting",
        "exports no function",
        "no-such-tool-anywhere",
        "not ok: 3 of ",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[test]
fn a_schema_that_is_missing_or_broken_is_told_by_task_before_any_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file("good.py", "def handle(payload, ctx):\n    return payload\n");
    let with = |schema: &str| format!("{GOOD}schema = \"{schema}\"\n").replace(SANDBOX, "");
    file(
        "good.json",
        r#"{"type": "object", "required": ["customer"]}"#,
    );
    let (output, text) = check(folder.path(), &with("good.json"));
    assert!(output.status.success(), "{text}");
    file(
        "broken.json",
        r#"{"properties": {"n": {"type": "nubmer"}}}"#,
    );
    for (schema, says) in [
        ("missing.json", "cannot be read"),
        ("broken.json", "/properties/n/type"),
    ] {
        let (output, _) = check(folder.path(), &with(schema));
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        for says in ["tasks.good.schema", schema, says] {
            assert!(told.contains(says), "{says}: {told}");
        }
    }
}

#[test]
fn what_workers_elsewhere_run_is_named_and_said_to_be_untried() {
    let folder = tempfile::tempdir().unwrap();
    let (output, text) = check(folder.path(), "[tasks.count]\nlane = \"remote\"\n");
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|line| line.contains(" count ")).unwrap();
    assert!(
        line.contains("declared, cannot be tried from here"),
        "{line}"
    );
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("ok: ") && last.contains("1 more of workers elsewhere"),
        "{last}"
    );
}
