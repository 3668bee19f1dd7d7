//! Puts a harness in front of `node FILE` and `python3 FILE`, so that a task is a plain function.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::spec::{Harness, Mode, ProcessSpec, Wire};

/// A file that names it speaks the protocol itself.
const SPEAKS: &[u8] = b"OFFLOOP_FD";
/// Options of Node and Python that take the next word as their value.
const NODE_VALUES: &[&str] = &[
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--env-file",
    "--title",
];
const PYTHON_VALUES: &[&str] = &["-W", "-X"];

const FILES: [(&str, &str); 2] = [
    ("node.mjs", include_str!("node.mjs")),
    ("python.py", include_str!("python.py")),
];

/// Writes the harnesses where children find them.
pub(crate) fn write_files(run_dir: &Path) -> io::Result<()> {
    let folder = run_dir.join("harness");
    std::fs::create_dir_all(&folder)?;
    for (name, text) in FILES {
        // Renamed into place: a child of another server may be reading it.
        let draft = folder.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&draft, text)?;
        std::fs::rename(&draft, folder.join(name))?;
    }
    Ok(())
}

/// The command with its harness, if it gets one.
pub(crate) fn wrap(spec: &ProcessSpec, run_dir: &Path) -> Vec<OsString> {
    let mut argv = spec.command.clone();
    if spec.mode == Mode::Exec {
        return argv;
    }
    let Some((name, at)) = choose(spec) else {
        return argv;
    };
    argv.insert(at, run_dir.join("harness").join(name).into());
    argv
}

/// Which harness, and where in the argv the file stands.
fn choose(spec: &ProcessSpec) -> Option<(&'static str, usize)> {
    let by_command = match base_name(spec.command.first()?).as_str() {
        "node" | "nodejs" => Harness::Node,
        name if name == "python" || name.starts_with("python3") => Harness::Python,
        _ => Harness::None,
    };
    let wanted = match spec.harness {
        Harness::Auto if spec.wire == Wire::Lines => Harness::None,
        Harness::Auto => by_command,
        other => other,
    };
    let (name, values) = match wanted {
        Harness::Node => ("node.mjs", NODE_VALUES),
        Harness::Python => ("python.py", PYTHON_VALUES),
        Harness::Auto | Harness::None => return None,
    };
    let at = file_at(&spec.command, values)?;
    (spec.harness != Harness::Auto || !speaks(spec, at)).then_some((name, at))
}

fn base_name(word: &OsString) -> String {
    let name = Path::new(word).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The first word after the program that is no option.
fn file_at(command: &[OsString], values: &[&str]) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = command.get(at) {
        let word = word.to_string_lossy();
        if !word.starts_with('-') {
            return Some(at);
        }
        at += if values.contains(&&*word) { 2 } else { 1 };
    }
    None
}

/// The task's file, if there is a harness for it and it cannot be read.
pub(crate) fn missing_file(spec: &ProcessSpec) -> Option<PathBuf> {
    if spec.mode == Mode::Exec {
        return None;
    }
    let (_, at) = choose(spec)?;
    let file = file_of(spec, at)?;
    std::fs::File::open(&file).is_err().then_some(file)
}

/// The file that a word means: it may name a function of the file after a `#`.
fn file_of(spec: &ProcessSpec, at: usize) -> Option<PathBuf> {
    let base = spec.cwd.clone().unwrap_or_default();
    let word = spec.command.get(at)?;
    let whole = base.join(word);
    let cut = word.as_bytes().iter().rposition(|byte| *byte == b'#');
    match cut {
        Some(cut) if !whole.exists() => Some(base.join(OsStr::from_bytes(&word.as_bytes()[..cut]))),
        _ => Some(whole),
    }
}

fn speaks(spec: &ProcessSpec, at: usize) -> bool {
    let text = file_of(spec, at).and_then(|file| std::fs::read(file).ok());
    text.is_some_and(|text| text.windows(SPEAKS.len()).any(|part| part == SPEAKS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use offloop_job::TaskName;
    use offloop_lane::TaskInfo;

    #[test]
    fn a_harness_stands_right_before_the_file_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own.mjs");
        std::fs::write(&own, "const fd = process.env.OFFLOOP_FD;").unwrap();
        let own = own.to_str().unwrap();
        let rows: [(&[&str], &[&str]); 7] = [
            (
                &["node", "a.mjs", "x"],
                &["node", "/run/harness/node.mjs", "a.mjs", "x"],
            ),
            (
                &[
                    "/usr/bin/node",
                    "--require",
                    "r.js",
                    "--max-old-space-size=64",
                    "a.js",
                ],
                &[
                    "/usr/bin/node",
                    "--require",
                    "r.js",
                    "--max-old-space-size=64",
                    "/run/harness/node.mjs",
                    "a.js",
                ],
            ),
            (
                &["python3", "-X", "dev", "a.py"],
                &["python3", "-X", "dev", "/run/harness/python.py", "a.py"],
            ),
            (
                &["python3.12", "a.py"],
                &["python3.12", "/run/harness/python.py", "a.py"],
            ),
            (&["node", own], &["node", own]),
            (&["perl", "a.pl"], &["perl", "a.pl"]),
            (&["node"], &["node"]),
        ];
        for (command, want) in rows {
            let info = TaskInfo {
                name: TaskName::parse("t").unwrap(),
                timeout: None,
                about: "".into(),
            };
            let spec = ProcessSpec::process(info, command.iter().copied());
            assert_eq!(wrap(&spec, Path::new("/run")), want, "{command:?}");
        }
    }
}
