//! The other converter: ImageMagick by the exec lane, one process per photo.
//!
//! The photo's bytes go in by standard input with their format named, so that no name, link or
//! content chooses a coder, a delegate or a URL; a policy of our own forbids them besides. Must
//! never: build a shell line, or let the program find a file by itself.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offloop::lane::{Lane, Work};
use offloop::lane_process::{
    ExecCommand, ExecExit, ExecPlan, ExecResult, Host, ProcessLane, ProcessSpec,
};
use offloop::{PackError, TaskError, TaskInfo, TaskOutput};

use super::Library;
use super::rows::{Fingerprint, Row, Status};
use super::work::{Opened, open};
use crate::budget::predict;
use crate::convert::{Recipe, Thumbnail, Thumbnails};
use crate::probe::{Format, Prober};

/// ImageMagick 7, Debian's own name for 6, and 6.
const PROGRAMS: [&str; 3] = ["magick", "convert-im6.q16", "convert"];

/// No delegates, no URLs, no scripts, no indirect reads; pictures only.
const POLICY: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<policymap>
  <policy domain="delegate" rights="none" pattern="*"/>
  <policy domain="filter" rights="none" pattern="*"/>
  <policy domain="path" rights="none" pattern="@*"/>
  <policy domain="coder" rights="none" pattern="*"/>
  <policy domain="coder" rights="read|write" pattern="{JPEG,JPG,PNG,WEBP,GIF,TIFF,BMP}"/>
</policymap>
"#;

pub(super) fn lane(
    library: &Arc<Library>,
    task: TaskInfo,
    host: &Arc<Host>,
    data: &Path,
) -> Result<Arc<dyn Lane>, PackError> {
    let fail = |message: String| PackError {
        pack: "photos",
        message,
    };
    let program = find_program(&search_path()).ok_or_else(|| {
        fail(format!("converter = \"magick\" needs one of {PROGRAMS:?} in PATH; install ImageMagick or use \"builtin\""))
    })?;
    let folder = data.join("photos").join("magick");
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("policy.xml"), POLICY))
        .map_err(|error| fail(format!("cannot write {}: {error}", folder.display())))?;
    let folder = std::fs::canonicalize(&folder)
        .map_err(|error| fail(format!("cannot find {}: {error}", folder.display())))?;

    let (planner, plan_folder) = (Arc::clone(library), folder.clone());
    let (reader, read_folder) = (Arc::clone(library), folder);
    let hooks = ExecCommand::new(move |work| plan(&planner, work, &program, &plan_folder))
        .on_exit(move |work, result| read_end(&reader, work, result, &read_folder));
    let mut spec = ProcessSpec::hooked(task, hooks);
    spec.processes = library.concurrency.min(256);
    Ok(Arc::new(ProcessLane::new(spec, Arc::clone(host))))
}

/// Where programs are looked for: fixed, so that the environment of the server has no say.
fn search_path() -> Vec<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/opt/homebrew/bin"]
        .map(PathBuf::from)
        .to_vec()
}

fn find_program(folders: &[PathBuf]) -> Option<PathBuf> {
    let places = PROGRAMS
        .iter()
        .flat_map(|name| folders.iter().map(move |f| f.join(name)));
    places.into_iter().find(|program| program.is_file())
}

/// What ImageMagick calls the format. Others never get here: their rows have failed already.
fn coder(format: Format) -> Option<&'static str> {
    match format {
        Format::Jpeg => Some("jpeg:-"),
        Format::Png => Some("png:-"),
        Format::WebP => Some("webp:-[0]"),
        Format::Gif => Some("gif:-[0]"),
        Format::Tiff => Some("tiff:-[0]"),
        Format::Bmp => Some("bmp:-"),
        _ => None,
    }
}

fn outputs(folder: &Path, work: &Work) -> [PathBuf; 2] {
    [500, 160].map(|size| folder.join(format!("{}-{size}.jpg", work.lease)))
}

fn plan(
    library: &Library,
    work: &Work,
    program: &Path,
    folder: &Path,
) -> Result<ExecPlan, TaskError> {
    let row = row_of(work)?;
    let Opened::File(mut opened) = open(&row)? else {
        return Err(TaskError::invalid("io: the file is not there any more"));
    };
    let probe = Prober::new()
        .probe(&opened.file)
        .map_err(|error| TaskError::invalid(format!("corrupt: {error}")))?;
    let input = coder(probe.format).ok_or_else(|| {
        TaskError::invalid(format!(
            "unsupported: no decoder for {} files",
            probe.format.name()
        ))
    })?;
    predict(
        &probe,
        opened.bytes,
        Recipe::default().large_edge,
        &library.limits,
    )
    .map_err(|error| TaskError::invalid(format!("too_large: {error}")))?;
    let mut bytes = Vec::with_capacity(opened.bytes as usize);
    (&mut opened.file)
        .take(opened.bytes)
        .read_to_end(&mut bytes)
        .map_err(|error| TaskError::error(format!("io: {error}")))?;
    let memory = library.gate.total() / u64::from(library.concurrency);
    let mut env = std::collections::BTreeMap::new();
    env.insert("MAGICK_CONFIGURE_PATH".to_owned(), folder.into());
    Ok(ExecPlan {
        argv: argv(program, input, memory, &outputs(folder, work)),
        env,
        stdin: bytes.into(),
        cwd: Some(folder.to_path_buf()),
    })
}

/// Decoded once: the large thumbnail on the way, the small one from it.
fn argv(program: &Path, input: &str, memory: u64, [large, small]: &[PathBuf; 2]) -> Vec<OsString> {
    let memory = memory.to_string();
    let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
    let mut argv = vec![program.into()];
    argv.extend(words(
        "-limit thread 1 -limit disk 0 -limit width 65536 -limit height 65536",
    ));
    argv.extend(words("-limit memory"));
    argv.push(memory.clone().into());
    argv.extend(words("-limit map"));
    argv.push(memory.into());
    if input.starts_with("jpeg:") {
        argv.extend(words("-define jpeg:size=1000x1000"));
    }
    argv.push(input.into());
    argv.extend(words(
        "-auto-orient -background white -alpha remove -colorspace sRGB -strip",
    ));
    argv.extend(words("-quality 80 ( +clone -thumbnail 500x500> -write"));
    argv.push(prefixed(large));
    argv.extend(words(") -delete 0 -thumbnail 160x160>"));
    argv.push(prefixed(small));
    argv
}

/// `jpeg:/path`: the format is said, never guessed from a name.
fn prefixed(path: &Path) -> OsString {
    let mut text = OsString::from("jpeg:");
    text.push(path);
    text
}

fn row_of(work: &Work) -> Result<Row, TaskError> {
    serde_json::from_slice(&work.payload)
        .map_err(|error| TaskError::invalid(format!("the payload does not fit the task: {error}")))
}

fn read_end(
    library: &Library,
    work: &Work,
    result: &ExecResult,
    folder: &Path,
) -> Result<TaskOutput, TaskError> {
    let files = outputs(folder, work);
    let read = read_outputs(&files, result);
    for file in &files {
        let _ = std::fs::remove_file(file); // it may not have been written
    }
    let thumbnails = read?;
    let mut row = row_of(work)?;
    if let Opened::File(opened) = open(&row)? {
        row.file = Fingerprint {
            bytes: opened.bytes,
            mtime_ns: opened.mtime_ns,
            inode: opened.inode,
        };
    }
    library
        .thumbs
        .store(&row.id(), work.lease.0, &thumbnails)
        .map_err(|error| TaskError::error(format!("io: cannot write the thumbnails: {error}")))?;
    row.thumbnail = Some((thumbnails.large.width, thumbnails.large.height));
    library.count_done();
    let records = vec![row.write(&library.names, Status::Done)];
    Ok(TaskOutput {
        result: None,
        records,
    })
}

fn read_outputs(files: &[PathBuf; 2], result: &ExecResult) -> Result<Thumbnails, TaskError> {
    if result.exit != ExecExit::Code(0) {
        let said = result.said.trim();
        return Err(TaskError::invalid(format!(
            "corrupt: {:?}: {said}",
            result.exit
        )));
    }
    let read = |file: &Path| -> Result<Thumbnail, TaskError> {
        let jpeg = std::fs::read(file)
            .map_err(|error| TaskError::error(format!("io: no thumbnail was written: {error}")))?;
        let probe = Prober::new()
            .probe(&jpeg[..])
            .map_err(|error| TaskError::error(format!("io: the thumbnail is no JPEG: {error}")))?;
        Ok(Thumbnail {
            width: probe.width,
            height: probe.height,
            jpeg,
        })
    };
    Ok(Thumbnails {
        large: read(&files[0])?,
        small: read(&files[1])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_becomes_an_option_or_a_protocol() {
        let path = prefixed(Path::new("/data/-x|cmd.jpg"));
        assert_eq!(path, OsString::from("jpeg:/data/-x|cmd.jpg"));
        for format in [
            Format::Jpeg,
            Format::Png,
            Format::WebP,
            Format::Gif,
            Format::Tiff,
            Format::Bmp,
        ] {
            assert!(coder(format).is_some_and(|coder| coder.contains(":-")));
        }
        assert_eq!(coder(Format::Heic), None);
    }
}
