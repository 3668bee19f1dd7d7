//! L3: uploads that are cut at any byte, that are not what their sender has, or whose server is killed.
//!
//! Each is begun badly, looked at, and sent again as it should be. Of a bad beginning nothing may be
//! in the target, and its space must come back; behind the good end each row is there once.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::http::{Answer, Client};
use super::server::{Server, Setup};
use super::{Run, spread};

const UPLOADS: u32 = 500;
/// One of so many is sent with a wrong digest; one of so many has its server killed.
const WRONG_OF: u32 = 5;
const KILLED_OF: u32 = 10;
const ROWS: (u64, u64) = (20, 4_000);
/// Little, so that space that does not come back is soon missed.
const SPOOL_KIB: u64 = 768;
const SPACE_WITHIN: Duration = Duration::from_secs(60);
const STORED_WITHIN: Duration = Duration::from_secs(60);
const BEGUN_WITHIN: Duration = Duration::from_secs(10);
/// Until a part of what was sent is surely on its way.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How an upload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// The sender hangs up.
    Cut,
    /// All of it comes, with a digest that is another body's.
    WrongDigest,
    /// The server dies while it comes.
    Killed,
}

struct Upload {
    number: u32,
    body: String,
    rows: u64,
    harm: Harm,
    /// It may go on where it was cut.
    in_parts: bool,
    cut: usize,
}

impl Upload {
    fn choose(run: &mut Run, number: u32, harm: Harm) -> Self {
        let rows = run.dice.between(ROWS.0, ROWS.1);
        let mut body = String::from("id,name\n");
        for row in 1..=rows {
            let _ = writeln!(body, "{},name {row}", id(number, row)); // a String takes everything
        }
        let cut = run.dice.between(0, body.len() as u64) as usize;
        Self {
            number,
            rows,
            harm,
            in_parts: run.dice.between(0, 3) == 0,
            cut,
            body,
        }
    }

    fn load(&self) -> String {
        format!("l3-{}", self.number)
    }

    fn path(&self) -> String {
        format!("/v1/ingest/people?load={}", self.load())
    }

    const fn mode(&self) -> (&'static str, &'static str) {
        if self.in_parts {
            ("upload-complete", "?1")
        } else {
            ("prefer", "respond-async")
        }
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            number,
            rows,
            harm,
            in_parts,
            cut,
            body,
        } = self;
        let bytes = body.len();
        write!(
            f,
            "upload {number} ({rows} rows, {harm:?} at {cut} of {bytes}, parts: {in_parts})"
        )
    }
}

fn id(number: u32, row: u64) -> u64 {
    u64::from(number) * 10_000 + row
}

/// What is stored in the target, read as it grows.
struct Rows {
    file: PathBuf,
    at: u64,
    seen: HashMap<u64, u32>,
}

impl Rows {
    /// Bytes that are noted as stored; what stands behind them is a crash's, and is cut off.
    fn noted(&self) -> u64 {
        let notes = self.file.with_extension("ndjson.notes");
        let text = std::fs::read_to_string(notes).unwrap_or_default();
        let notes = text.lines();
        let notes = notes.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        notes
            .filter_map(|note| note["len"].as_u64())
            .max()
            .unwrap_or(0)
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let noted = self.noted();
        if noted <= self.at {
            return Ok(());
        }
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut text = String::new();
        file.take(noted - self.at).read_to_string(&mut text)?;
        for line in text.lines() {
            let id = line
                .strip_prefix("{\"id\":")
                .and_then(|rest| rest.split(',').next());
            let id = id.and_then(|id| id.parse().ok());
            let id = id.with_context(|| format!("a row without its id: {line}"))?;
            *self.seen.entry(id).or_default() += 1;
        }
        self.at = noted;
        Ok(())
    }

    fn of(&self, upload: &Upload) -> u64 {
        let ids = (1..=upload.rows).map(|row| id(upload.number, row));
        ids.filter(|id| self.seen.contains_key(id)).count() as u64
    }
}

/// What one run is made of.
struct House {
    setup: Setup,
    server: Server,
    rows: Rows,
    spool: PathBuf,
    /// Since the bad beginning until its space was back.
    space: Vec<Duration>,
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let uploads = run.cycles.unwrap_or(UPLOADS);
    let target = run.folder.join("people.ndjson");
    let config = format!(
        "[ingest]\nspool_limit = \"{SPOOL_KIB}KiB\"\nidle = \"10s\"\n[ingest.targets.people]\n\
         sink = \"ndjson\"\npath = \"{}\"\nbatch = {{ rows = 500, time = \"20ms\" }}\n\
         columns = [{{ name = \"id\", type = \"int8\" }}, {{ name = \"name\", type = \"text\" }}]",
        target.display()
    );
    let setup = Setup::new(&run.program, &run.folder, &config)?;
    let mut house = House {
        server: setup.start()?,
        spool: setup.data.join("ingest/spool"),
        rows: Rows {
            file: target,
            at: 0,
            seen: HashMap::new(),
        },
        space: Vec::new(),
        setup,
    };
    let mut all = Vec::new();
    for number in 0..uploads {
        let harm = match number {
            number if number % KILLED_OF == KILLED_OF - 1 => Harm::Killed,
            number if number % WRONG_OF == 0 => Harm::WrongDigest,
            _ => Harm::Cut,
        };
        let upload = Upload::choose(run, number, harm);
        harmed(run, &mut house, &upload)?;
        sent_again(run, &mut house, &upload)?;
        let name = match harm {
            Harm::Cut => "cut",
            Harm::WrongDigest => "wrong_digest",
            Harm::Killed => "killed",
        };
        run.figure(name, run.counted(name) + 1);
        all.push(upload);
    }
    account(run, &mut house, &all)
}

/// The bad beginning, and what must not be left of it.
fn harmed(run: &mut Run, house: &mut House, upload: &Upload) -> anyhow::Result<()> {
    let begun = Instant::now();
    match upload.harm {
        Harm::WrongDigest => {
            let wrong = format!("sha-256=:{}:", "A".repeat(43) + "=");
            let header = if upload.in_parts {
                "repr-digest"
            } else {
                "content-digest"
            };
            let headers = [upload.mode(), (header, wrong.as_str())];
            let answer = with_room(house, |client| {
                client.call("POST", &upload.path(), &headers, upload.body.as_bytes())
            })?;
            let problem = answer.json();
            let kind = problem["type"].as_str().unwrap_or_default();
            if answer.status != 400 || !kind.ends_with("#digest-mismatched-values") {
                let status = answer.status;
                run.breach(format!(
                    "{upload:?}: a wrong digest is answered {status}: {problem}"
                ));
            }
        }
        Harm::Cut => {
            let socket = begin(run, house, upload)?;
            let _gone = socket.shutdown(Shutdown::Both);
        }
        Harm::Killed => {
            let socket = begin(run, house, upload)?;
            house.server.kill();
            drop(socket);
            house.server = house.setup.start()?;
            run.recovery.push(house.server.ready_after);
        }
    }
    house.rows.look()?;
    let visible = house.rows.of(upload);
    if visible > 0 {
        run.breach(format!(
            "upload {}: {visible} rows of a body that was cut",
            upload.number
        ));
    }
    if !upload.in_parts || upload.harm == Harm::WrongDigest {
        wait_space(run, house, upload, begun)?;
    }
    Ok(())
}

/// The head of the request, with the length of all of it, and the bytes before the cut. Some are cut
/// when the server has begun, some whenever that is.
fn begin(run: &mut Run, house: &House, upload: &Upload) -> anyhow::Result<TcpStream> {
    // Loads that run give room; a refusal is another campaign's.
    let asked = Instant::now();
    while spooled(house)? + upload.body.len() as u64 > SPOOL_KIB << 10 {
        if asked.elapsed() > SPACE_WITHIN {
            bail!("the spool stays full");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let waits = run.dice.between(0, 4) > 0;
    loop {
        let mut socket = send_head(house, upload)?;
        if !waits || is_begun(house, upload, &mut socket)? {
            run.figure("begun", run.counted("begun") + u64::from(waits));
            return Ok(socket);
        }
        // A body that has just gone may be counted still.
        run.figure("no_room", run.counted("no_room") + 1);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn send_head(house: &House, upload: &Upload) -> anyhow::Result<TcpStream> {
    let to = house.setup.address;
    let mut socket = TcpStream::connect(to)?;
    let (name, value) = upload.mode();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {to}\r\n{name}: {value}\r\nContent-Length: {}\r\n\r\n",
        upload.path(),
        upload.body.len()
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(&upload.body.as_bytes()[..upload.cut])?;
    Ok(socket)
}

/// Waits until the server has it; `false`: there was no room for it.
fn is_begun(house: &House, upload: &Upload, socket: &mut TcpStream) -> anyhow::Result<bool> {
    let begun = Instant::now();
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    let mut said = [0; 1_024];
    while files_of(house, upload)? == 0 {
        // Nothing is said of a body that is being taken.
        let len = socket.read(&mut said).unwrap_or(0);
        let text = String::from_utf8_lossy(&said[..len]);
        if text.starts_with("HTTP/1.1 507") {
            return Ok(false);
        }
        if len > 0 || begun.elapsed() > BEGUN_WITHIN {
            bail!("{upload:?} is not begun: {text}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}

/// Bytes in the spool.
fn spooled(house: &House) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(&house.spool)? {
        // It may have gone meanwhile.
        bytes += file?.metadata().map_or(0, |about| about.len());
    }
    Ok(bytes)
}

fn files_of(house: &House, upload: &Upload) -> anyhow::Result<usize> {
    let mine = format!("{}.", upload.load());
    let mut count = 0;
    for file in std::fs::read_dir(&house.spool)? {
        count += usize::from(file?.file_name().to_string_lossy().starts_with(&mine));
    }
    Ok(count)
}

/// Nobody can go on with it: its files go, soon.
fn wait_space(
    run: &mut Run,
    house: &mut House,
    upload: &Upload,
    since: Instant,
) -> anyhow::Result<()> {
    while files_of(house, upload)? > 0 {
        if since.elapsed() > SPACE_WITHIN {
            run.breach(format!("upload {}: its space is not back", upload.number));
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    house.space.push(since.elapsed());
    Ok(())
}

/// Asks until the spool has room; loads that run give it.
fn with_room(
    house: &House,
    ask: impl Fn(&mut Client) -> Result<Answer, super::http::CallError>,
) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    loop {
        let answer = ask(&mut house.setup.client());
        let answer = answer.map_err(|error| anyhow::anyhow!("a call broke off: {error:?}"))?;
        let wait = answer.status == 507 && begun.elapsed() < SPACE_WITHIN;
        if !wait {
            return Ok(answer);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// As it should be: from the start, or where it was cut.
fn sent_again(run: &mut Run, house: &mut House, upload: &Upload) -> anyhow::Result<()> {
    let path = format!("/v1/ingest/uploads/{}", upload.load());
    let begun = Instant::now();
    let answer = loop {
        // 404: nothing had come, so far.
        let known = upload.in_parts && with_room(house, |client| client.get(&path))?.status == 204;
        let answer = if known {
            go_on(run, house, upload, &path)?
        } else {
            let bytes = upload.body.as_bytes();
            with_room(house, |client| {
                client.call("POST", &upload.path(), &[upload.mode()], bytes)
            })?
        };
        // What was sent before the cut came to the server behind the question.
        let again = answer.status == 409 && begun.elapsed() < SPACE_WITHIN;
        if !again {
            break answer;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if answer.status != 202 {
        let (number, status, told) = (upload.number, answer.status, answer.json());
        run.breach(format!(
            "upload {number}: the retry is answered {status}: {told}"
        ));
    }
    Ok(())
}

fn go_on(run: &mut Run, house: &House, upload: &Upload, path: &str) -> anyhow::Result<Answer> {
    let offset = offset_of(house, path)?;
    if offset > upload.cut {
        let (number, cut) = (upload.number, upload.cut);
        bail!("upload {number}: {offset} bytes are kept of {cut}");
    }
    run.figure("went_on", run.counted("went_on") + 1);
    let at = offset.to_string();
    let headers = [
        ("content-type", "application/partial-upload"),
        ("upload-offset", at.as_str()),
        ("upload-complete", "?1"),
    ];
    let rest = &upload.body.as_bytes()[offset..];
    with_room(house, |client| client.call("PATCH", path, &headers, rest))
}

fn offset_of(house: &House, path: &str) -> anyhow::Result<usize> {
    let mut socket = TcpStream::connect(house.setup.address)?;
    write!(
        socket,
        "HEAD {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        house.setup.address
    )?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let text = text.to_ascii_lowercase();
    let mut lines = text.lines();
    let offset = lines.find_map(|line| line.strip_prefix("upload-offset: "));
    Ok(offset.context("no Upload-Offset")?.trim().parse()?)
}

/// A load that three servers in a row died under is set aside, and goes on when a person says so.
fn quarantined(run: &mut Run, house: &House) -> anyhow::Result<()> {
    let path = "/v1/jobs?task=ingest&state=failed&limit=100";
    let jobs = with_room(house, |client| client.get(path))?.json();
    for job in jobs["jobs"].as_array().into_iter().flatten() {
        let id = job["id"].as_str().unwrap_or_default();
        if job["reason"] != "poison" {
            run.breach(format!("a load failed: {job}"));
        }
        let path = format!("/v1/jobs/{id}/retry");
        with_room(house, |client| client.call("POST", &path, &[], b""))?;
        run.figure("quarantined", run.counted("quarantined") + 1);
    }
    Ok(())
}

/// Behind the end of all loads.
fn account(run: &mut Run, house: &mut House, uploads: &[Upload]) -> anyhow::Result<()> {
    let wanted: u64 = uploads.iter().map(|upload| upload.rows).sum();
    let begun = Instant::now();
    loop {
        house.rows.look()?;
        quarantined(run, house)?;
        let left = std::fs::read_dir(&house.spool)?.count();
        if house.rows.seen.len() as u64 >= wanted && left == 0 {
            break;
        }
        if begun.elapsed() > STORED_WITHIN {
            let stored = house.rows.seen.len();
            run.breach(format!(
                "{stored} of {wanted} rows are stored, {left} files are in the spool"
            ));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let twice = house.rows.seen.values().filter(|count| **count > 1).count();
    if twice > 0 {
        run.breach(format!("{twice} rows are stored twice"));
    }
    for upload in uploads {
        let stored = house.rows.of(upload);
        if stored != upload.rows {
            let (number, rows) = (upload.number, upload.rows);
            run.breach(format!(
                "upload {number}: {stored} of {rows} rows ({:?})",
                upload.harm
            ));
        }
    }
    run.figure("uploads", uploads.len());
    run.figure(
        "in_parts",
        uploads.iter().filter(|upload| upload.in_parts).count(),
    );
    run.figure("rows", wanted);
    run.figure("space_back_ms", spread(&house.space));
    Ok(())
}
